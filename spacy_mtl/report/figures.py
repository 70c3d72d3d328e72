"""The figures of the page: plots and heatmaps next to each other, with a caption."""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy

from .keys import Keys
from .plots import (
    Plot,
    Series,
    Trace,
    get_mean,
    plot_effects,
    plot_lines,
    plot_reliability,
)
from .records import (
    Confusion,
    Line,
    Report,
    RunSummary,
    TaskCalibration,
    Transfer,
    group_by_task,
)
from .tables import show_p

COLUMNS = 10  # ranges of steps in a heatmap
LABELS = 10  # rows of a confusion matrix
VISIBLE = 0.005  # smaller cosines show as 0.00
STRONG = 0.2  # a cosine with at least half of the strongest colour

CAPTIONS = {
    "effects": (
        "What each task gains or loses when it is trained with the other tasks. With several "
        "seeds, a bar shows the spread: the larger standard deviation over seeds of the two sides. "
        "A task whose bar reaches 0 may gain or lose with another seed."
    ),
    "curves": (
        "Mean losses and scores at each evaluation. Losses are per labelled unit, in nats for the "
        "heads of spacy-mtl. Thin lines are seeds and thick lines their means. A score that falls "
        "while the loss still falls is a sign of overfitting. A task that learns later than it "
        "does alone may need a higher weight."
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
        "The share of correct predictions over their probability. Each dot is a bin with about as "
        "many predictions as the other bins of its line. The legend has the number of bins and of "
        "predictions per bin. On the diagonal confidence and accuracy agree. Below it the head is "
        "overconfident."
    ),
    "confusions": (
        "Rows are gold labels, columns are predicted labels. Numbers are counts over all seeds; "
        "colours are shares of the row. Strong colours off the diagonal are frequent confusions. "
        "If there are many labels, only the ones with the most errors are shown."
    ),
}


@dataclass
class Cell:
    """A cell of a heatmap.

    text (str): The text in the cell.
    hint (str): The text to show for it; empty for an empty cell.
    strength (int): The strength of its colour, 0 to 100.
    is_negative (bool): Whether the colour is that of negative values.
    """

    text: str = ""
    hint: str = ""
    strength: int = 0
    is_negative: bool = False


@dataclass
class Heatmap:
    """A matrix of the page, drawn as a table.

    title (str): The title.
    key (str): Hides the heatmap on the page.
    corner (str): The title of the column with the names of the rows.
    columns (Sequence[str]): The names of the columns.
    rows (Sequence[Tuple[str, Sequence[Cell]]]): The names of the rows, and their cells.
    """

    title: str
    key: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass
class Figure:
    """Plots and heatmaps next to each other.

    caption (str): How to read them.
    plots (List[Plot]): The plots.
    heatmaps (List[Heatmap]): The heatmaps.
    """

    caption: str
    plots: list[Plot] = field(default_factory=list)
    heatmaps: list[Heatmap] = field(default_factory=list)


def make_figures(report: Report) -> dict[str, list[Figure]]:
    """RETURNS (Dict[str, List[Figure]]): The figures of each section, without empty ones."""
    keys = Keys(report.runs)
    sections = {
        "Transfer": [Figure(CAPTIONS["effects"], plot_transfer(report.transfer, keys))],
        "Training": [Figure(CAPTIONS["curves"], plot_curves(report.runs, keys))],
        "Balance": [
            Figure(CAPTIONS["balance"], plot_balance(report.runs, keys)),
            Figure(CAPTIONS["conflicts"], heatmaps=list_conflicts(report.runs, keys)),
        ],
        "Calibration": [
            Figure(CAPTIONS["calibration"], plot_calibration(report.calibration, keys))
        ],
        "Confusions": [
            Figure(CAPTIONS["confusions"], heatmaps=list_confusions(report.confusions, keys))
        ],
    }
    filled = {
        section: [figure for figure in figures if figure.plots or figure.heatmaps]
        for section, figures in sections.items()
    }
    return {section: figures for section, figures in filled.items() if figures}


def plot_transfer(records: Sequence[Transfer], keys: Keys) -> list[Plot]:
    """RETURNS (List[Plot]): The differences of all comparisons."""
    settings = dict.fromkeys(record.multi for record in records)
    traces = []
    for row, record in enumerate(records):
        points = 100 * record.difference
        name = f"{record.task} ({record.multi})" if len(settings) > 1 else record.task
        text = f"{points:+.2f} points, p {show_p(record.p)}".replace("p -", "no p value")
        trace = Trace(name, keys.of(record.multi), keys.style(record.multi), [(points, row, text)])
        traces.append(trace)
    spreads = [100 * (record.spread or 0.0) for record in records]
    return [plot_effects("Together minus alone", traces, spreads)] if traces else []


def collect(runs: Sequence[RunSummary], kind: str) -> dict[str, dict[str, list[RunSummary]]]:
    """RETURNS (Dict[str, Dict[str, List[RunSummary]]]): The runs that have a curve of a kind, by
    the name of the curve and by setting.
    """
    curves: dict[str, dict[str, list[RunSummary]]] = {}
    for run in runs:
        for name in run.curves.get(kind, {}):
            curves.setdefault(name, {}).setdefault(run.setting or run.name, []).append(run)
    return curves


def plot_curves(runs: Sequence[RunSummary], keys: Keys) -> list[Plot]:
    """RETURNS (List[Plot]): The losses of the tasks, and the scores in percent."""
    plots = []
    for kind, title in (("loss", "Loss of {}"), ("score", "{}")):
        for name, settings in collect(runs, kind).items():
            lines = {
                setting: {keys.of_run(run): run.curves[kind][name] for run in group}
                for setting, group in settings.items()
            }
            unit = "%" if kind == "score" and is_share(lines.values()) else ""
            series = [
                Series(setting, keys.of(setting), keys.style(setting), to_percent(own, unit))
                for setting, own in lines.items()
            ]
            plots.append(plot_lines(title.format(name), series, unit))
    return plots


def is_share(lines: Iterable[Mapping[str, Line]]) -> bool:
    """RETURNS (bool): Whether all values are from 0 to 1."""
    return all(0 <= y <= 1 for own in lines for line in own.values() for _, y in line)


def to_percent(lines: Mapping[str, Line], unit: str) -> dict[str, Line]:
    """RETURNS (Dict[str, Line]): The lines, in percent if that is the unit."""
    factor = 100 if unit == "%" else 1
    return {key: [(x, factor * y) for x, y in line] for key, line in lines.items()}


def plot_balance(runs: Sequence[RunSummary], keys: Keys) -> list[Plot]:
    """RETURNS (List[Plot]): The weights and gradient norms of the tasks, for each setting."""
    plots = []
    for setting, group in group_multi(runs).items():
        for kind, title in (("weight", "Weights"), ("grad_norm", "Gradient norms")):
            series = [
                Series(
                    task,
                    keys.of(setting),
                    i,
                    {keys.of_run(run): run.curves[kind][task] for run in by[setting]},
                )
                for i, (task, by) in enumerate(collect(group, kind).items())
            ]
            if series:
                plot = plot_lines(f"{title} ({setting})", series, is_log=kind == "grad_norm")
                plots.append(replace(plot, key=keys.of(setting)))
    return plots


def list_conflicts(runs: Sequence[RunSummary], keys: Keys) -> list[Heatmap]:
    """RETURNS (List[Heatmap]): The cosines of the tasks' gradients over time for each setting, if
    any cosine differs from 0.
    """
    heatmaps = []
    for setting, group in group_multi(runs).items():
        curves = {
            pair: get_mean([run.curves["cosine"][pair] for run in by[setting]])
            for pair, by in collect(group, "cosine").items()
        }
        values = [value for curve in curves.values() for _, value in curve]
        if any(math.isfinite(value) and abs(value) >= VISIBLE for value in values):
            heatmaps.append(make_cosines(f"Cosines ({setting})", keys.of(setting), curves))
    return heatmaps


def make_cosines(title: str, key: str, curves: Mapping[str, Line]) -> Heatmap:
    """RETURNS (Heatmap): The mean cosines of pairs of tasks in up to `COLUMNS` ranges of steps."""
    steps = sorted({step for curve in curves.values() for step, _ in curve})
    ranges = [set(part) for part in numpy.array_split(steps, min(COLUMNS, len(steps)))]
    means = {pair: [get_mean_in(curve, part) for part in ranges] for pair, curve in curves.items()}
    known = [abs(value) for row in means.values() for value in row if math.isfinite(value)]
    most = max([STRONG, *known])
    columns = [f"{max(part):.0f}" for part in ranges]
    rows = []
    for pair, values in means.items():
        name = pair.replace("|", " and ")
        cells = [
            Cell(
                f"{value:.2f}".replace("-0.00", "0.00"),
                f"{name}, until step {column}: {value:+.3f}",
                round(100 * abs(value) / most),
                value < 0,
            )
            if math.isfinite(value)
            else Cell()
            for value, column in zip(values, columns, strict=True)
        ]
        rows.append((name, cells))
    return Heatmap(title, key, "until step", columns, rows)


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


def plot_calibration(records: Sequence[TaskCalibration], keys: Keys) -> list[Plot]:
    """RETURNS (List[Plot]): A reliability diagram for each task with enough predictions for two
    bins.
    """
    plots = []
    for task, group in group_by_task(records).items():
        traces = [make_trace(record, keys) for record in group if len(record.bins) > 1]
        if traces:
            plots.append(plot_reliability(f"Confidence of {task}", traces))
    return plots


def make_trace(record: TaskCalibration, keys: Keys) -> Trace:
    """RETURNS (Trace): The bins of a head. Its name has their number and their mean size."""
    points = []
    for b in record.bins:
        x, y = round(100 * b.confidence, 3), round(100 * b.accuracy, 3)
        text = f"confidence {x:.1f} %, correct {y:.1f} %, {b.count:,} predictions"
        points.append((x, y, text))
    n_bins = len(record.bins)
    name = f"{record.setting} ({n_bins} × {record.predictions // n_bins:,})"
    return Trace(name, keys.of(record.setting), keys.style(record.setting), points)


def list_confusions(records: Sequence[Confusion], keys: Keys) -> list[Heatmap]:
    """RETURNS (List[Heatmap]): A confusion matrix for each task and setting with errors."""
    heatmaps = []
    for task, group in group_by_task(records).items():
        labels = pick_labels(group)
        for setting in dict.fromkeys(record.setting for record in group):
            own = [record for record in group if record.setting == setting]
            if any(record.gold != record.predicted for record in own):
                title = f"{task} ({setting})"
                heatmaps.append(make_confusions(title, keys.of(setting), labels, own))
    return heatmaps


def make_confusions(
    title: str, key: str, labels: Sequence[str], records: Sequence[Confusion]
) -> Heatmap:
    """RETURNS (Heatmap): How often a gold label (row) was predicted as a label (column)."""
    counts = {(r.gold, r.predicted): r.count for r in records}
    totals = Counter[str]()
    for (gold, _), count in counts.items():
        totals[gold] += count
    rows = [
        (gold, [make_cell(gold, label, counts.get((gold, label), 0), totals) for label in labels])
        for gold in labels
    ]
    return Heatmap(title, key, "gold, predicted", labels, rows)


def make_cell(gold: str, predicted: str, count: int, totals: Mapping[str, int]) -> Cell:
    """RETURNS (Cell): A cell of a confusion matrix; empty without confusions."""
    if not count:
        return Cell()
    share = 100 * count / totals[gold]
    hint = f"gold {gold}, predicted {predicted}: {count:,} of {totals[gold]:,} ({share:.1f} %)"
    return Cell(f"{count}", hint, round(share))


def pick_labels(records: Sequence[Confusion]) -> list[str]:
    """RETURNS (List[str]): The labels with the most errors."""
    errors: dict[str, int] = {}
    for record in records:
        for label in (record.gold, record.predicted):
            is_wrong = record.gold != record.predicted
            errors[label] = errors.get(label, 0) + record.count * is_wrong
    return sorted(sorted(errors, key=lambda label: (-errors[label], label))[:LABELS])
