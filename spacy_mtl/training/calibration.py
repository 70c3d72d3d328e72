"""How far the probabilities of heads can be believed, and the temperatures that make them better.

Guo et al. (2017), "On Calibration of Modern Neural Networks": section 2 has the expected
calibration error, section 4.2 the temperature.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from ..errors import Errors, quote
from ..heads.head import Head
from ..types import Floats1d
from .thresholds import set_threshold

Scored: TypeAlias = list[tuple[list[Doc], Any]]  # batches of docs with their scores, on the CPU
BINS = 15
COLDEST, HOTTEST = 0.05, 20.0
STEPS = 16  # of halving: 0.01 %


@dataclass
class Calibration:
    """What a temperature does for a head: each pair is before and after.

    units (int): How many labels are known.
    temperature (Tuple[float, float]): What scores are divided by.
    nll (Tuple[float, float]): The mean negative log-likelihood per unit in nats.
    ece (Tuple[float, float]): The expected calibration error, 0 to 1; nan where nothing is
        predicted.
    """

    units: int
    temperature: tuple[float, float]
    nll: tuple[float, float]
    ece: tuple[float, float]


@dataclass
class Bin:
    """Predictions with confidences in the same range.

    count (int): How many they are.
    confidence (float): The mean of their probabilities.
    accuracy (float): The share of them that is right.
    """

    count: int
    confidence: float
    accuracy: float


def calibrate(nlp: Language, examples: Sequence[Example]) -> dict[str, Calibration]:
    """Give each head the temperature at which the labels are most likely, from one pass.

    nlp (Language): The pipeline. Its heads keep their temperatures in their `cfg`.
    examples (Sequence[Example]): What they were not trained on. The predicted docs are annotated.
    RETURNS (Dict[str, Calibration]): What it does for each head of spacy-mtl that has labels.
    RAISES (ValueError): M079 if the pipeline has no such head, M080 if no example has labels.
    """
    with keep_scores(nlp) as scored:
        for _ in nlp.pipe(eg.predicted for eg in examples):
            pass
    if not scored:
        raise ValueError(Errors.M079.format(pipes=quote(nlp.pipe_names)))
    found = {}
    for name, kept in scored.items():
        head: Any = nlp.get_pipe(name)
        batches = find_examples(examples, kept)
        nll = get_nll(head, batches)
        before = head.temperature
        loss, _, units = nll(before)
        if units:
            head.set_temperature(fit_temperature(nll))
            after = head.temperature
            ece = [get_ece(make_bins(*get_confidences(head, batches, t))) for t in (before, after)]
            found[name] = Calibration(
                units, (before, after), (loss, nll(after)[0]), (ece[0], ece[1])
            )
            if "threshold" in head.cfg:
                set_threshold(nlp, name, head.cfg["threshold"])
    if not found:
        raise ValueError(Errors.M080.format(heads=quote(scored)))
    return found


@contextmanager
def keep_scores(nlp: Language) -> Iterator[Mapping[str, Scored]]:
    """Keep what heads make their predictions of, while a pipeline runs.

    nlp (Language): The pipeline.
    YIELDS (Mapping[str, Scored]): For each head of spacy-mtl what it has predicted so far.
    """
    pipes: list[tuple[str, Any]] = nlp.pipeline
    heads = {name: pipe for name, pipe in pipes if isinstance(pipe, Head)}
    kept: dict[str, Scored] = {name: [] for name in heads}
    for name, head in heads.items():
        head.watch = partial(_keep, head, kept[name])
    try:
        yield kept
    finally:
        for head in heads.values():
            head.watch = None


def _keep(head: Head, kept: Scored, docs: list[Doc], scores: Any) -> None:
    def copy(array: Any) -> Any:
        return numpy.array(head.model.ops.to_numpy(array))

    kept.append((docs, tuple(map(copy, scores)) if isinstance(scores, tuple) else copy(scores)))


def find_examples(examples: Iterable[Example], scored: Scored) -> list[tuple[list[Example], Any]]:
    """RETURNS (List[Tuple[List[Example], Any]]): The examples of each batch of docs, with its
    scores.
    """
    by_doc = {id(eg.predicted): eg for eg in examples}
    return [([by_doc[id(doc)] for doc in docs], scores) for docs, scores in scored]


def get_nll(
    head: Head, batches: Sequence[tuple[list[Example], Any]]
) -> Callable[[float], tuple[float, float, int]]:
    """RETURNS (Callable): As of `Head.make_nll`, over several batches."""
    parts = [head.make_nll(examples, scores) for examples, scores in batches]

    def nll(temperature: float) -> tuple[float, float, int]:
        found = [part(temperature) for part in parts]
        total = sum(n for _, _, n in found)
        loss = sum(n * loss for loss, _, n in found) / max(total, 1)
        slope = sum(n * slope for _, slope, n in found) / max(total, 1)
        return loss, slope, total

    return nll


def get_confidences(
    head: Head, batches: Sequence[tuple[list[Example], Any]], temperature: float
) -> tuple[Floats1d, Any]:
    """RETURNS (Tuple[Floats1d, Bools1d]): As of `Head.get_confidences`, over several batches."""
    found = [head.get_confidences(examples, scores, temperature) for examples, scores in batches]
    confidences, is_right = zip(*found, strict=True) if found else ([()], [()])
    return numpy.concatenate(confidences), numpy.concatenate(is_right).astype(bool)


def fit_temperature(nll: Callable[[float], tuple[float, float, int]]) -> float:
    """Find the temperature at which a likelihood is highest, from COLDEST to HOTTEST. There is one,
    as where all units have one gold label the likelihood is concave in the temperature's inverse.

    nll (Callable): As of `Head.make_nll`.
    RETURNS (float): The temperature.
    """
    if not nll(1.0)[1]:
        return 1.0  # the best, or of an untrained head as good as any
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if nll(math.exp(middle))[1] > 0:  # better if hotter
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def make_bins(confidences: Floats1d, is_right: Any) -> list[Bin]:
    """Put predictions of about the same confidence together.

    confidences (Floats1d): The probability of each prediction, N.
    is_right (Bools1d): Which of them are right, N.
    RETURNS (List[Bin]): Those of BINS ranges of equal width that hold any.
    """
    index = numpy.clip(numpy.ceil(confidences * BINS) - 1, 0, BINS - 1)
    return [
        Bin(
            int((index == i).sum()),
            float(confidences[index == i].mean(dtype="float64")),
            float(is_right[index == i].mean()),
        )
        for i in numpy.unique(index)
    ]


def get_ece(bins: Sequence[Bin]) -> float:
    """RETURNS (float): The expected calibration error: how far, on average over predictions, the
    confidence of a bin is from its accuracy. nan without predictions.
    """
    total = sum(b.count for b in bins)
    gaps = math.fsum(b.count * abs(b.confidence - b.accuracy) for b in bins)
    return gaps / total if total else math.nan
