"""The figures of the page: plots next to each other with a caption."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy

from .plots import get_mean, plot_heatmap, plot_lines, plot_reliability
from .records import (
    Confusion,
    Line,
    Matrix,
    Report,
    RunSummary,
    TaskCalibration,
    group_by_task,
)

COLUMNS = 10  # ranges of steps in a heatmap
LABELS = 10  # rows of a confusion matrix

CAPTIONS = {
    "curves": (
        "Mean losses and scores at each evaluation. Thin lines are seeds, thick lines their means. "
        "A score that falls while the loss still falls is a sign of overfitting. A task that learns"
        " later than it does alone may need a higher weight."
    ),
    "balance": (
        "The weight that the balancer gave each task, and the norm of the task's gradient at the "
        "encoder's output before weighting (logarithmic scale). A task whose weight times norm is "
        "far above the others' dominates the encoder."
    ),
    "conflicts": (
        "The cosine of two tasks' gradients at the encoder's output over the steps: blue is "
        "agreement, orange is conflict. If a pair stays orange, try another balancer, or train the "
        "two tasks separately."
    ),
    "calibration": (
        "The share of correct predictions over their probability; the area of a dot is the number "
        "of predictions. On the diagonal both agree. Below it, the head is overconfident."
    ),
    "confusions": (
        "Rows are gold labels, columns predicted ones. Numbers are counts over all seeds, colours "
        "shares of the row. Strong colours off the diagonal are frequent confusions. Of many labels"
        " only the ones with the most errors are shown."
    ),
}


@dataclass
class Figure:
    """Plots next to each other.

    caption (str): How to read them.
    plots (List[str]): The plots as SVG.
    """

    caption: str
    plots: list[str]


def make_figures(report: Report) -> dict[str, list[Figure]]:
    """RETURNS (Dict[str, List[Figure]]): The figures of each section; none without plots."""
    sections = {
        "Training": {"curves": plot_curves(report.runs)},
        "Balance": {
            "balance": plot_balance(report.runs),
            "conflicts": plot_conflicts(report.runs),
        },
        "Calibration": {"calibration": plot_calibration(report.calibration)},
        "Confusions": {"confusions": plot_confusions(report.confusions)},
    }
    return {
        section: [Figure(CAPTIONS[name], plots) for name, plots in figures.items() if plots]
        for section, figures in sections.items()
    }


def collect(runs: Sequence[RunSummary], kind: str) -> dict[str, dict[str, list[Line]]]:
    """RETURNS (Dict[str, Dict[str, List[Line]]]): The curves of a kind by name and setting."""
    curves: dict[str, dict[str, list[Line]]] = {}
    for run in runs:
        for name, curve in run.curves.get(kind, {}).items():
            curves.setdefault(name, {}).setdefault(run.setting or run.name, []).append(curve)
    return curves


def plot_curves(runs: Sequence[RunSummary]) -> list[str]:
    """RETURNS (List[str]): The losses of the tasks, and the scores."""
    losses, scores = collect(runs, "loss"), collect(runs, "score")
    plots = [plot_lines(f"loss of {task}", lines) for task, lines in losses.items()]
    return plots + [plot_lines(score, lines) for score, lines in scores.items()]


def plot_balance(runs: Sequence[RunSummary]) -> list[str]:
    """RETURNS (List[str]): The weights and gradient norms of the tasks, for each setting."""
    plots = []
    for setting, group in group_multi(runs).items():
        for kind, title in (("weight", "weights"), ("grad_norm", "gradient norms")):
            lines = {task: by[setting] for task, by in collect(group, kind).items()}
            if lines:
                plots.append(plot_lines(f"{title} ({setting})", lines, is_log=kind == "grad_norm"))
    return plots


def plot_conflicts(runs: Sequence[RunSummary]) -> list[str]:
    """RETURNS (List[str]): The cosines of the tasks' gradients over time, for each setting."""
    plots = []
    for setting, group in group_multi(runs).items():
        curves = {pair: get_mean(by[setting]) for pair, by in collect(group, "cosine").items()}
        if any(curves.values()):
            plots.append(plot_heatmap(make_cosines(f"cosines ({setting})", curves)))
    return plots


def make_cosines(title: str, curves: Mapping[str, Line]) -> Matrix:
    """RETURNS (Matrix): The mean cosines of pairs of tasks in up to `COLUMNS` ranges of steps."""
    steps = sorted({step for curve in curves.values() for step, _ in curve})
    ranges = [set(part) for part in numpy.array_split(steps, min(COLUMNS, len(steps)))]
    values = [[get_mean_in(curve, part) for part in ranges] for curve in curves.values()]
    return Matrix(
        title,
        numpy.array(values),
        [[show_cosine(value) for value in row] for row in values],
        rows=[pair.replace("|", "\n") for pair in curves],
        columns=[f"{max(part):.0f}" for part in ranges],
        labels=("step", ""),
    )


def group_multi(runs: Sequence[RunSummary]) -> dict[str, list[RunSummary]]:
    """RETURNS (Dict[str, List[RunSummary]]): The runs of each setting with several tasks."""
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        if run.setting is not None and len(run.tasks) > 1:
            groups.setdefault(run.setting, []).append(run)
    return groups


def get_mean_in(curve: Line, steps: Container[float]) -> float:
    """RETURNS (float): The mean of a curve at some steps; nan if it has no value there."""
    values = [value for step, value in curve if step in steps]
    return math.fsum(values) / len(values) if values else math.nan


def show_cosine(value: float) -> str:
    """RETURNS (str): A cosine in few characters."""
    return f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")


def plot_calibration(records: Sequence[TaskCalibration]) -> list[str]:
    """RETURNS (List[str]): A reliability diagram for each task."""
    return [
        plot_reliability(f"confidence of {task}", {r.setting: r.bins for r in group})
        for task, group in group_by_task(records).items()
    ]


def plot_confusions(records: Sequence[Confusion]) -> list[str]:
    """RETURNS (List[str]): A confusion matrix for each task and setting."""
    return [
        plot_heatmap(make_confusions(f"{task} ({setting})", labels, own))
        for task, group in group_by_task(records).items()
        for labels in [pick_labels(group)]
        for setting in dict.fromkeys(record.setting for record in group)
        for own in [[record for record in group if record.setting == setting]]
    ]


def make_confusions(title: str, labels: Sequence[str], records: Sequence[Confusion]) -> Matrix:
    """RETURNS (Matrix): How often a gold label (row) was predicted as a label (column)."""
    counts = {(r.gold, r.predicted): r.count for r in records}
    table = numpy.array([[counts.get((a, b), 0) for b in labels] for a in labels])
    totals = numpy.array([sum(n for (a, _), n in counts.items() if a == l) for l in labels])
    return Matrix(
        title,
        numpy.where(table, table / numpy.maximum(totals, 1)[:, None], numpy.nan),
        [[str(n) for n in row] for row in table.tolist()],
        rows=(names := [name if len(name) < 13 else f"{name[:11]}…" for name in labels]),
        columns=names,
        labels=("predicted", "gold"),
    )


def pick_labels(records: Sequence[Confusion]) -> list[str]:
    """RETURNS (List[str]): The labels with the most errors."""
    errors: dict[str, int] = {}
    for record in records:
        for label in (record.gold, record.predicted):
            is_wrong = record.gold != record.predicted
            errors[label] = errors.get(label, 0) + record.count * is_wrong
    return sorted(sorted(errors, key=lambda label: (-errors[label], label))[:LABELS])
