"""Finds the best threshold of independent categories, among all possible ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from spacy.language import Language
from spacy.training import Example

from ..errors import Errors
from ..heads.base import Head
from ..types import Floats2d

MACRO, MICRO = SCORES = ("cats_macro_f", "cats_micro_f")


@dataclass
class LabelThreshold:
    """The effect of thresholds on a label.

    label (str): The label.
    support (int): The number of docs that have the label.
    best (Optional[float]): The best threshold for this label alone; None without support.
    f (Tuple[float, ...]): F at the threshold before, at the best threshold for all labels, and at
        the label's own best threshold.
    """

    label: str
    support: int
    best: float | None
    f: tuple[float, ...]


@dataclass
class Thresholds:
    """The effect of thresholds on a component. Each pair is the value before and the best one.

    threshold (Tuple[float, float]): The least probability of a predicted label.
    score (Tuple[float, float]): The score at the threshold.
    labels (List[LabelThreshold]): The effect on each label.
    """

    threshold: tuple[float, float]
    score: tuple[float, float]
    labels: list[LabelThreshold]


def set_threshold(nlp: Language, name: str, threshold: float) -> None:
    """Set the threshold of a component, in the component and in its config."""
    pipe: Any = nlp.get_pipe(name)
    pipe.cfg["threshold"] = nlp.get_pipe_config(name)["threshold"] = threshold


def read_categories(
    examples: Iterable[Example], labels: Sequence[str]
) -> tuple[Floats2d, Floats2d]:
    """RETURNS (Tuple[Floats2d, Floats2d]): The predicted probability of each doc and label, N x L,
    and the gold value: 1 or 0, nan where it is missing.
    """
    pairs = [
        [(eg.predicted.cats.get(label, 0.0), eg.reference.cats.get(label)) for label in labels]
        for eg in examples
    ]
    array = numpy.array(pairs, dtype="float64").reshape(len(pairs), len(labels), 2)
    probabilities, gold = array[..., 0], array[..., 1]
    return probabilities, numpy.where(numpy.isnan(gold), gold, gold > 0)


def score_threshold(
    probabilities: Floats2d, gold: Floats2d, threshold: float, scores_key: str
) -> float:
    """Score the labels above a threshold, as `Scorer.score_cats` does.

    probabilities, gold, scores_key: The arguments of `find_threshold`.
    threshold (float): The least probability of a predicted label.
    RETURNS (float): The score.
    """
    yes = probabilities >= threshold
    counts = numpy.stack([yes & (gold == 1), yes & (gold == 0), ~yes & (gold == 1)]).sum(axis=1)
    if scores_key == MICRO:
        counts = counts.sum(axis=1, keepdims=True)
    right, wrong, missed = counts
    return float((2 * right / numpy.maximum(2 * right + wrong + missed, 1)).mean())


def find_threshold(probabilities: Floats2d, gold: Floats2d, scores_key: str) -> float:
    """Find the best threshold.

    probabilities (Floats2d): The predicted probability of each doc and label, N x L.
    gold (Floats2d): The gold values: 1 or 0, nan where they are missing, N x L.
    scores_key (str): "cats_macro_f", the mean of the labels' F, or "cats_micro_f", F of all
        predictions.
    RETURNS (float): The threshold. Among equally good thresholds it is the middle of the widest gap
        between two probabilities.
    """
    known = ~numpy.isnan(gold)
    p, is_right, column = probabilities[known], gold[known] == 1, known.nonzero()[1]
    n_columns = gold.shape[1]
    if scores_key == MICRO:
        column, n_columns = numpy.zeros_like(column), 1
    # For each label, from its highest probability down: the gain in F by one more prediction.
    order = numpy.lexsort((-p, column))
    p, is_right, column = p[order], is_right[order], column[order]
    first = numpy.searchsorted(column, column)
    rights = numpy.cumsum(is_right) - (numpy.cumsum(is_right) - is_right)[first]
    answers = numpy.arange(len(p)) - first + 1
    golds = numpy.bincount(column, weights=is_right)[column]
    f = 2 * rights / numpy.maximum(answers + golds, 1)
    is_first = first == numpy.arange(len(p))
    gains = numpy.where(is_first, f, numpy.diff(f, prepend=0.0))
    # The sum of the gains, from the highest probability of all labels down.
    order = numpy.argsort(-p, kind="stable")
    p, scores = p[order], numpy.cumsum(gains[order]) / n_columns
    is_last = numpy.r_[p[1:] < p[:-1], True]
    p, scores = p[is_last], scores[is_last]
    below = numpy.r_[p[1:], 0.0]
    best = numpy.lexsort((p - below, scores.round(12)))[-1]
    return float((p[best] + below[best]) / 2)


def find_thresholds(
    nlp: Language, examples: Sequence[Example], name: str, scores_key: str = MACRO
) -> Thresholds:
    """Find the best threshold of a component with independent categories.

    nlp (Language): The pipeline. It runs over the examples once.
    examples (Sequence[Example]): The examples. Their predicted docs are annotated.
    name (str): The component.
    scores_key (str): The score to maximize, as in `find_threshold`.
    RETURNS (Thresholds): The best threshold, with scores.
    RAISES (ValueError): M083 if no doc has any of the categories.
    """
    for _ in nlp.pipe(eg.predicted for eg in examples):
        pass
    pipe: Any = nlp.get_pipe(name)
    if isinstance(pipe, Head):
        examples = [own for eg in examples if (own := pipe.isolate(eg)) is not None]
    probabilities, gold = read_categories(examples, pipe.labels)
    if not (gold == 1).any():
        raise ValueError(Errors.M083.format(name=name))
    before, best = pipe.cfg["threshold"], find_threshold(probabilities, gold, scores_key)
    labels = []
    for i, label in enumerate(pipe.labels):
        column = probabilities[:, [i]], gold[:, [i]]
        support = int((column[1] == 1).sum())
        own = find_threshold(*column, scores_key) if support else None
        f = [score_threshold(*column, t, scores_key) for t in (before, best, own) if t is not None]
        labels.append(LabelThreshold(label, support, own, tuple(f)))
    score = [score_threshold(probabilities, gold, t, scores_key) for t in (before, best)]
    return Thresholds((before, best), (score[0], score[1]), labels)
