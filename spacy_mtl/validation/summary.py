"""Sums up the scores of folds: mean, spread, confidence interval, and single against multi."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy
from spacy.tokens import Doc

from ..loading import read_docs
from ..report.records import Line
from ..report.scores import Counts
from ..report.significance import get_p_value, get_spread
from ..types import Ints1d
from .cv import MULTI, CrossValidation, Fold
from .names import GOLD, PREDICTIONS
from .outcome import Answers, Outcome, save_docs

CONFIDENCE = 0.95
STEPS = 400  # of the integral below; even


@dataclass
class Single:
    """A task trained alone, on the same folds.

    mean (float): The mean of its score.
    difference (float): The mean of the differences, multi minus single.
    p (Optional[float]): The p value of the paired test; None if the task has no fixed labels.
    """

    mean: float
    difference: float
    p: float | None


@dataclass
class TaskSummary:
    """The scores of a task.

    task, score (str): The component, and the key of its score.
    values (Dict[Tuple[int, int], float]): The score by repeat and fold, both from 1 on.
    mean (float): Their mean.
    spread (Optional[float]): Their standard deviation; None for one fold.
    interval (Optional[Tuple[float, float]]): The confidence interval of the mean, within 0 and 1.
    single (Optional[Single]): The task trained alone.
    """

    task: str
    score: str
    values: dict[str, float]
    mean: float
    spread: float | None
    interval: tuple[float, float] | None
    single: Single | None = None

    def get_lines(self) -> dict[str, Line]:
        """RETURNS (Dict[str, Line]): The fold and the score in percent, by repeat."""
        lines: dict[str, list[tuple[float, float]]] = {}
        for name, value in self.values.items():
            repeat, fold = name.split("-")
            lines.setdefault(repeat, []).append((int(fold), 100 * value))
        return {**lines}


@dataclass
class Summary:
    """The result of a cross-validation.

    k, repeats (int): The number of folds and repeats.
    docs, groups (int): The number of docs and of groups.
    finished, total (int): The models that are finished, and all.
    tasks (List[TaskSummary]): The scores of each task.
    """

    k: int
    repeats: int
    docs: int
    groups: int
    finished: int
    total: int
    tasks: list[TaskSummary] = field(default_factory=list)


def summarize(cv: CrossValidation) -> Summary:
    """Sum up the finished folds.

    cv (CrossValidation): The cross-validation.
    RETURNS (Summary): The summary.
    """
    outcomes = cv.read_outcomes()
    n_groups, total = int(cv.groups.max()) + 1, len(cv.list_folds())
    summary = Summary(cv.k, cv.repeats, len(cv.docs), n_groups, len(outcomes), total)
    for task in cv.tasks.values():
        if task.score is not None and (values := get_values(outcomes, MULTI, task.score)):
            found = summarize_scores(task.name, task.score, values, cv.k)
            found.single = compare(cv, outcomes, task.name, task.score)
            summary.tasks.append(found)
    return summary


def get_values(outcomes: Mapping[Fold, Outcome], model: str, score: str) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The score of a model by the name of the fold, such as "1-3"."""
    return {
        fold.name: outcome.scores[score]
        for fold, outcome in outcomes.items()
        if fold.model == model and score in outcome.scores
    }


def summarize_scores(task: str, score: str, values: dict[str, float], k: int) -> TaskSummary:
    """RETURNS (TaskSummary): The mean of the scores of folds, its spread and its interval."""
    mean, spread = fmean(values.values()), get_spread([*values.values()])
    interval = None
    if spread is not None:
        # The training data of two folds overlap, so their scores are no independent samples.
        # Nadeau and Bengio (2003), "Inference for the Generalization Error", section 3.
        n = len(values)
        half = get_t(n - 1) * spread * math.sqrt(1 / n + 1 / (k - 1))
        interval = max(mean - half, 0.0), min(mean + half, 1.0)
    return TaskSummary(task, score, values, mean, spread, interval)


def compare(
    cv: CrossValidation, outcomes: Mapping[Fold, Outcome], task: str, score: str
) -> Single | None:
    """Compare a task in the model for all tasks with the model for it alone, on the folds in which
    both are finished. The test exchanges the answers of whole groups, such as documents.

    RETURNS (Optional[Single]): The comparison; None without such a fold.
    """
    alone, together = (get_values(outcomes, model, score) for model in (task, MULTI))
    both = [name for name in alone if name in together]
    if not both:
        return None
    difference = fmean(together[name] - alone[name] for name in both)
    repeats = sorted({int(name.split("-")[0]) - 1 for name in both})
    sides = [
        [read_counts(cv, outcomes, repeat, model, task, both) for repeat in repeats]
        for model in (task, MULTI)
    ]
    p = None
    if all(counts for side in sides for counts in side):
        first, second = to_arrays(sides, int(cv.groups.max()) + 1)
        p = get_p_value(first, second) if first.shape[1] else None
    return Single(fmean(alone[name] for name in both), difference, p)


GroupCounts = dict[tuple[int, str], list[int]]  # by group and label


def read_counts(
    cv: CrossValidation,
    outcomes: Mapping[Fold, Outcome],
    repeat: int,
    model: str,
    task: str,
    names: Sequence[str],
) -> tuple[GroupCounts, bool] | None:
    """RETURNS (Optional[Tuple[GroupCounts, bool]]): The true positives, false positives and false
    negatives of a repeat by group and label, and whether the score is a mean over labels; None if
    they were not counted.
    """
    counts: GroupCounts = {}
    is_macro = False
    for fold, outcome in outcomes.items():
        if (fold.repeat, fold.model) != (repeat, model) or fold.name not in names:
            continue
        if (answers := outcome.answers.get(task)) is None:
            return None
        is_macro = answers.is_macro
        groups: Ints1d = cv.groups[cv.find_test(fold)]
        for group, label, values in iterate_counts(answers, groups):
            row = counts.setdefault((group, label), [0, 0, 0])
            row[:] = [a + b for a, b in zip(row, values, strict=True)]
    return counts, is_macro


def iterate_counts(
    answers: Answers, groups: Ints1d
) -> Iterator[tuple[int, str, tuple[int, int, int]]]:
    """YIELDS (Tuple[int, str, Tuple[int, int, int]]): The group, label and counts of each doc."""
    for group, doc in zip(groups.tolist(), answers.docs, strict=True):
        for label, values in (doc or {}).items():
            yield group, label, values


def to_arrays(
    sides: Sequence[Sequence[tuple[GroupCounts, bool] | None]], n_groups: int
) -> list[Counts]:
    """RETURNS (List[Ints4d]): The counts of each side, R x G x L x 3, with one label for all if the
    score is no mean over labels. Groups without labels are left out.
    """
    found = [[counts for counts in side if counts is not None] for side in sides]
    labels = sorted({label for side in found for counts, _ in side for _, label in counts})
    index = {label: i for i, label in enumerate(labels)}
    is_macro = any(macro for side in found for _, macro in side)
    arrays: list[Counts] = []
    for side in found:
        array = numpy.zeros((len(side), n_groups, len(labels), 3), dtype="int64")
        for repeat, (counts, _) in enumerate(side):
            for (group, label), values in counts.items():
                array[repeat, group, index[label]] = values
        arrays.append(array if is_macro else array.sum(axis=2, keepdims=True))
    used = sum(array.sum(axis=(0, 2, 3)) for array in arrays) > 0
    return [array[:, used] for array in arrays]


def get_t(degrees: int) -> float:
    """Compute the factor of a two-sided confidence interval: the quantile of Student's t.

    degrees (int): The degrees of freedom.
    RETURNS (float): The factor, such as 2.776 for 4.
    """
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    scale /= math.sqrt(degrees * math.pi)

    def get_share(t: float) -> float:
        """RETURNS (float): The probability of values from -t to t, by Simpson's rule over the angle
        whose tangent is t / sqrt(degrees).
        """
        end = math.atan(t / math.sqrt(degrees))
        angles = numpy.linspace(0, end, STEPS + 1)
        weights = numpy.ones(STEPS + 1)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        values = numpy.cos(angles) ** (degrees - 1)
        integral = float(weights @ values) * end / STEPS / 3
        return 2 * scale * math.sqrt(degrees) * integral

    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if get_share(middle) < CONFIDENCE else (low, middle)
    return high


def save_predictions(cv: CrossValidation) -> tuple[Path, Path] | None:
    """Write the predictions of the first repeat's finished folds, which no model was trained on,
    and the gold docs in the same order.

    cv (CrossValidation): The cross-validation.
    RETURNS (Optional[Tuple[Path, Path]]): The two .spacy files; None without a finished fold.
    """
    found: dict[int, Doc] = {}
    for fold in cv.list_folds():
        if fold.repeat == 0 and fold.model == MULTI and cv.is_finished(fold):
            docs = read_docs(cv.get_folder(fold) / PREDICTIONS, cv.docs[0].vocab)
            found |= dict(zip(cv.find_test(fold), docs, strict=True))
    if not found:
        return None
    order = sorted(found)
    paths = cv.output / PREDICTIONS, cv.output / GOLD
    save_docs([found[i] for i in order], paths[0])
    save_docs([cv.docs[i] for i in order], paths[1])
    return paths
