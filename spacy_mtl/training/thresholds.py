"""Finds the best threshold of independent categories, spans or relations, among all possible
ones.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy
from spacy.language import Language
from spacy.pipeline.spancat import SpanCategorizer
from spacy.pipeline.textcat_multilabel import MultiLabel_TextCategorizer
from spacy.training import Example

from ..annotations.relations import find_aligned, get_relations
from ..annotations.spans import align_spans, get_place
from ..corpora.scope import is_for
from ..errors import Errors
from ..heads.base import Head
from ..heads.relation.pipe import MultiTaskRelationExtractor
from ..heads.spancat.pipe import MultiTaskSpanCategorizer
from ..types import Floats2d

MACRO, MICRO = "cats_macro_f", "cats_micro_f"
SPAN_PIPES = (SpanCategorizer, MultiTaskSpanCategorizer)
ITEM_PIPES = (*SPAN_PIPES, MultiTaskRelationExtractor)
Places: TypeAlias = Set[tuple[Any, Any, str]]  # both ends or spans, and the label
Probabilities: TypeAlias = dict[tuple[Any, Any, str], float]
LEAST = 0.01  # the least probability of spans and relations to collect
MISSED = -1.0  # instead of the probability of a gold one that is not among them


@dataclass
class LabelThreshold:
    """The effect of thresholds on a label.

    label (str): The label.
    support (int): The number of docs or spans that have the label.
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


def get_scores(pipe: object) -> tuple[str, ...]:
    """RETURNS (Tuple[str, ...]): The scores that a threshold of the component can maximize, the
    usual one first; none if the component has no threshold for independent labels.
    """
    if isinstance(pipe, MultiTaskRelationExtractor):
        return (pipe.layer.score_key,)
    settings = pipe.cfg if isinstance(pipe, SPAN_PIPES) else {}
    if settings.get("threshold") is not None:
        return (f"spans_{settings['spans_key']}_f",)
    return (MACRO, MICRO) if isinstance(pipe, MultiLabel_TextCategorizer) else ()


def read_spans(example: Example, key: str) -> tuple[Probabilities, Places] | None:
    """RETURNS (Optional[Tuple[Probabilities, Places]]): The probability of each predicted span, and
    the gold spans; None if the gold group is missing.
    """
    if key not in example.reference.spans:
        return None
    group = example.predicted.spans.get(key, [])
    scores = group.attrs["scores"] if len(group) else ()
    answers: Probabilities = {}
    for span, p in zip(group, scores, strict=True):
        answers |= {item[:3]: float(p) for item in align_spans(example, [span])}
    return answers, {get_place(span) for span in example.reference.spans[key]}


def read_relations(example: Example) -> tuple[Probabilities, Places] | None:
    """RETURNS (Optional[Tuple[Probabilities, Places]]): The probability of each predicted relation,
    and the gold relations; None if these are missing.
    """
    gold = get_relations(example.reference)
    if gold is None:
        return None
    answers = {relation[:3]: relation.score for relation in find_aligned(example)}
    return answers, {relation[:3] for relation in gold}


def to_columns(
    pairs: Iterable[tuple[Probabilities, Places]], labels: Sequence[str]
) -> tuple[Floats2d, Floats2d]:
    """Read spans or relations like categories. Each predicted or gold one is a unit with one known
    label.

    pairs (Iterable[Tuple[Probabilities, Places]]): Predicted and gold ones of each doc.
    labels (Sequence[str]): The labels, L.
    RETURNS (Tuple[Floats2d, Floats2d]): The predicted probability of each unit and label, U x L,
        MISSED for gold ones without a prediction; and the gold value, nan for other labels.
    """
    index, found = {label: i for i, label in enumerate(labels)}, []
    for answers, gold in pairs:
        places = [place for place in gold | answers.keys() if place[2] in index]
        found += [(index[p[2]], answers.get(p, MISSED), p in gold) for p in places]
    probabilities = numpy.zeros((len(found), len(labels)))
    golds = numpy.full((len(found), len(labels)), numpy.nan)
    for row, (label, p, is_gold) in enumerate(found):
        probabilities[row, label], golds[row, label] = p, is_gold
    return probabilities, golds


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
    if scores_key != MACRO:
        counts = counts.sum(axis=1, keepdims=True)
    right, wrong, missed = counts
    return float((2 * right / numpy.maximum(2 * right + wrong + missed, 1)).mean())


def find_threshold(probabilities: Floats2d, gold: Floats2d, scores_key: str) -> float:
    """Find the best threshold.

    probabilities (Floats2d): The predicted probability of each doc and label, N x L.
    gold (Floats2d): The gold values: 1 or 0, nan where they are missing, N x L.
    scores_key (str): "cats_macro_f", the mean of the labels' F; otherwise F of all predictions.
    RETURNS (float): The threshold. Among equally good thresholds it is the middle of the widest gap
        between two probabilities.
    """
    known = ~numpy.isnan(gold)
    p, is_right, column = probabilities[known], gold[known] == 1, known.nonzero()[1]
    n_columns = gold.shape[1]
    if scores_key != MACRO:
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
    is_last &= p > MISSED
    p, scores = p[is_last], scores[is_last]
    if not len(p):
        return 0.5
    below = numpy.r_[p[1:], 0.0]
    best = numpy.lexsort((p - below, scores.round(12)))[-1]
    return float((p[best] + below[best]) / 2)


def read_answers(
    nlp: Language, examples: Sequence[Example], name: str, least: float, labels: Sequence[str]
) -> tuple[Floats2d, Floats2d]:
    """Run a pipeline, and read the answers of a component.

    nlp (Language): The pipeline. It runs over the examples once.
    examples (Sequence[Example]): The examples. Their predicted docs are annotated.
    name (str): The component.
    least (float): The least probability of spans and relations.
    labels (Sequence[str]): The labels. A pipeline that does not know one does not predict it.
    RETURNS (Tuple[Floats2d, Floats2d]): The result of `read_categories` or `to_columns`.
    """
    pipe: Any = nlp.get_pipe(name)
    has_items, before = isinstance(pipe, ITEM_PIPES), pipe.cfg["threshold"]
    try:
        if has_items:
            pipe.cfg["threshold"] = least
        for _ in nlp.pipe(eg.predicted for eg in examples):
            pass
    finally:
        pipe.cfg["threshold"] = before
    if has_items:
        own = [eg for eg in examples if not isinstance(pipe, Head) or is_for(eg.reference, name)]
        if isinstance(pipe, MultiTaskRelationExtractor):
            found = map(read_relations, own)
        else:
            found = (read_spans(eg, pipe.key) for eg in own)
        return to_columns(filter(None, found), labels)
    if isinstance(pipe, Head):
        examples = [own for eg in examples if (own := pipe.isolate(eg)) is not None]
    return read_categories(examples, labels)


def find_thresholds(
    nlp: Language, examples: Sequence[Example], name: str, scores_key: str | None = None
) -> Thresholds:
    """Find the best threshold of a component with independent categories, spans or relations.

    nlp (Language): The pipeline. It runs over the examples once.
    examples (Sequence[Example]): The examples. Their predicted docs are annotated.
    name (str): The component.
    scores_key (Optional[str]): The score to maximize, one of `get_scores`; None for the first.
    RETURNS (Thresholds): The best threshold, with scores.
    RAISES (ValueError): M083 if no doc has any of the labels, M113 for another score.
    """
    return find_thresholds_by([(nlp, examples)], nlp, name, scores_key)


def find_thresholds_by(
    held_out: Iterable[tuple[Language, Sequence[Example]]],
    nlp: Language,
    name: str,
    scores_key: str | None = None,
) -> Thresholds:
    """Find the best threshold as `find_thresholds` does, by the predictions of other pipelines,
    such as those of the folds of a cross-validation.

    held_out (Iterable[Tuple[Language, Sequence[Example]]]): Pipelines with the same component, and
        examples for each. Each pipeline runs once.
    nlp (Language): The pipeline with the threshold and the labels to compare.
    name, scores_key: The arguments of `find_thresholds`.
    RETURNS (Thresholds): The result of `find_thresholds`.
    RAISES (ValueError): M083 or M113, as `find_thresholds`.
    """
    pipe: Any = nlp.get_pipe(name)
    scores_key = scores_key or get_scores(pipe)[0]
    if scores_key not in get_scores(pipe):
        choices = list(get_scores(pipe))
        raise ValueError(
            Errors.M113.format(value=scores_key, option="--scores-key", choices=choices)
        )
    before = pipe.cfg["threshold"]
    least = min(LEAST, before) if isinstance(pipe, ITEM_PIPES) else 0.0
    answers = [
        read_answers(pipeline, examples, name, least, pipe.labels)
        for pipeline, examples in held_out
    ]
    probabilities, gold = (numpy.concatenate(arrays) for arrays in zip(*answers, strict=True))
    if not (gold == 1).any():
        raise ValueError(Errors.M083.format(name=name))
    best = max(find_threshold(probabilities, gold, scores_key), least)
    labels = []
    for i, label in enumerate(pipe.labels):
        column = probabilities[:, [i]], gold[:, [i]]
        support = int((column[1] == 1).sum())
        own = max(find_threshold(*column, scores_key), least) if support else None
        f = [score_threshold(*column, t, scores_key) for t in (before, best, own) if t is not None]
        labels.append(LabelThreshold(label, support, own, tuple(f)))
    score = [score_threshold(probabilities, gold, t, scores_key) for t in (before, best)]
    return Thresholds((before, best), (score[0], score[1]), labels)
