"""Measures how far the probabilities of heads can be trusted, and fits their temperatures.

Guo et al. (2017), "On Calibration of Modern Neural Networks": section 2 defines the expected
calibration error, section 4.2 the temperature.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from ..errors import Errors, quote
from ..heads.calibration import CalibratableHead, Likelihood
from ..types import Bools1d, Floats1d, get_ops
from .thresholds import set_threshold

# The output of a head's model: one or more arrays. Its type depends on the head.
Scores: TypeAlias = object
AnyHead: TypeAlias = CalibratableHead[Any, Any]
Scored: TypeAlias = list[tuple[list[Doc], Scores]]  # batches of docs, and their scores on the CPU
Batches: TypeAlias = Sequence[tuple[list[Example], Scores]]
Part: TypeAlias = tuple[AnyHead, Batches]  # a head, and the examples that it has scored
# A pipeline, and examples that it was not trained on.
HeldOut: TypeAlias = tuple[Language, Sequence[Example]]
BINS = 15
COLDEST, HOTTEST = 0.05, 20.0
STEPS = 16  # bisections: the temperature is exact to 0.01 %


@dataclass
class Calibration:
    """The effect of a temperature on a head. Each pair is the value before and after.

    units (int): The number of known labels.
    temperature (Tuple[float, float]): The divisor of the scores.
    nll (Tuple[float, float]): The mean negative log-likelihood per unit in nats.
    ece (Tuple[float, float]): The expected calibration error, 0 to 1; nan without predictions.
    """

    units: int
    temperature: tuple[float, float]
    nll: tuple[float, float]
    ece: tuple[float, float]


@dataclass
class Bin:
    """Predictions whose confidences are in the same range.

    count (int): The number of predictions.
    confidence (float): The mean of their probabilities.
    accuracy (float): The share of right predictions.
    """

    count: int
    confidence: float
    accuracy: float


def calibrate(nlp: Language, examples: Sequence[Example]) -> dict[str, Calibration]:
    """Set the temperature of each head to the value at which the gold labels are most likely. The
    pipeline runs once.

    nlp (Language): The pipeline. Its heads keep their temperatures in their `cfg`. The model card
        shows the effects, from `nlp.meta["calibration"]`.
    examples (Sequence[Example]): Examples that the pipeline was not trained on. Their predicted
        docs are annotated.
    RETURNS (Dict[str, Calibration]): The effect on each head that the examples have labels for.
    RAISES (ValueError): M079 if the pipeline has no head of spacy-mtl, M080 if no example has
        labels.
    """
    return calibrate_by([(nlp, examples)], nlp)


def calibrate_by(held_out: Iterable[HeldOut], nlp: Language) -> dict[str, Calibration]:
    """Set the temperature of each head as `calibrate` does, by the scores of other pipelines, such
    as those of the folds of a cross-validation.

    held_out (Iterable[Tuple[Language, Sequence[Example]]]): Pipelines with the same heads, and
        examples for each. Each pipeline runs once.
    nlp (Language): The pipeline whose temperatures to set.
    RETURNS (Dict[str, Calibration]): The result of `calibrate`.
    RAISES (ValueError): M079 or M080, as `calibrate`.
    """
    heads = find_calibratable(nlp)
    parts: dict[str, list[Part]] = {name: [] for name in heads}
    for pipeline, examples in held_out:
        with keep_scores(pipeline) as scored:
            for _ in pipeline.pipe(eg.predicted for eg in examples):
                pass
        own = find_calibratable(pipeline)
        for name in parts:
            parts[name].append((own[name], find_examples(examples, scored[name])))
    if not heads:
        raise ValueError(Errors.M079.format(pipes=quote(nlp.pipe_names)))
    found = {}
    for name, head in heads.items():
        calibration = calibrate_head(head, parts[name])
        if calibration is not None:
            found[name] = calibration
            if "threshold" in head.cfg:
                set_threshold(nlp, name, head.cfg["threshold"])
    if not found:
        raise ValueError(Errors.M080.format(heads=quote(heads)))
    nlp.meta["calibration"] = {**nlp.meta.get("calibration", {}), **to_json(found)}
    return found


def to_json(found: Mapping[str, Calibration]) -> dict[str, dict[str, object]]:
    """RETURNS (Dict[str, Dict]): The calibrations as the model card shows them."""
    return {
        name: {
            "units": c.units,
            "temperature": c.temperature[1],
            "ece": [None if math.isnan(error) else error for error in c.ece],
        }
        for name, c in found.items()
    }


def calibrate_head(head: AnyHead, parts: Sequence[Part]) -> Calibration | None:
    """Set the temperature of a head.

    head (CalibratableHead): The head.
    parts (Sequence[Tuple[CalibratableHead, Batches]]): Examples with their scores by this head, or
        by heads of other pipelines, whose labels may have another order.
    RETURNS (Optional[Calibration]): The effect; None if no label is known.
    """
    nll, before = get_nll(parts), head.temperature
    loss, _, units = nll(before)
    if not units:
        return None
    head.set_temperature(fit_temperature(nll))
    after = head.temperature
    ece = []
    for temperature in (before, after):
        pairs = [get_confidences(*part, temperature) for part in parts]
        confidences, is_right = (numpy.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        ece.append(get_ece(make_bins(confidences, is_right)))
    return Calibration(units, (before, after), (loss, nll(after)[0]), (ece[0], ece[1]))


def find_calibratable(nlp: Language) -> dict[str, AnyHead]:
    """RETURNS (Dict[str, CalibratableHead]): The enabled heads that have a temperature."""
    pipes: list[tuple[str, object]] = [*nlp.pipeline]
    return {name: pipe for name, pipe in pipes if isinstance(pipe, CalibratableHead)}


@contextmanager
def keep_scores(nlp: Language) -> Iterator[Mapping[str, Scored]]:
    """Keep the scores of heads while a pipeline runs.

    nlp (Language): The pipeline.
    YIELDS (Mapping[str, Scored]): The scores so far of each head that has a temperature.
    """
    heads = find_calibratable(nlp)
    kept: dict[str, Scored] = {name: [] for name in heads}
    for name, head in heads.items():
        head.prediction_callback = partial(_keep, head, kept[name])
    try:
        yield kept
    finally:
        for head in heads.values():
            head.prediction_callback = None


def _keep(head: AnyHead, kept: Scored, docs: list[Doc], scores: Scores) -> None:
    to_numpy = get_ops(head.model).to_numpy
    if isinstance(scores, tuple):
        kept.append((docs, tuple(numpy.array(to_numpy(array)) for array in scores)))
    else:
        kept.append((docs, numpy.array(to_numpy(scores))))


def find_examples(examples: Iterable[Example], scored: Scored) -> Batches:
    """RETURNS (Sequence[Tuple[List[Example], Scores]]): The examples of each batch of docs, with
    the scores of the batch.
    """
    by_doc = {id(eg.predicted): eg for eg in examples}
    return [([by_doc[id(doc)] for doc in docs], scores) for docs, scores in scored]


def get_nll(parts: Sequence[Part]) -> Likelihood:
    """RETURNS (Likelihood): The result of `CalibratableHead.make_nll`, over several batches."""
    likelihoods = [
        head.make_nll(examples, scores) for head, batches in parts for examples, scores in batches
    ]

    def nll(temperature: float) -> tuple[float, float, int]:
        found = [likelihood(temperature) for likelihood in likelihoods]
        total = sum(n for _, _, n in found)
        loss = sum(n * loss for loss, _, n in found) / max(total, 1)
        slope = sum(n * slope for _, slope, n in found) / max(total, 1)
        return loss, slope, total

    return nll


def get_confidences(
    head: AnyHead, batches: Batches, temperature: float
) -> tuple[Floats1d, Bools1d]:
    """RETURNS (Tuple[Floats1d, Bools1d]): The result of `CalibratableHead.get_confidences`, over
    several batches.
    """
    found = [head.get_confidences(examples, scores, temperature) for examples, scores in batches]
    confidences, is_right = zip(*found, strict=True) if found else ([()], [()])
    return numpy.concatenate(confidences), numpy.concatenate(is_right).astype(bool)


def fit_temperature(nll: Likelihood) -> float:
    """Find the temperature with the highest likelihood, between COLDEST and HOTTEST. The
    log-likelihood is concave in the inverse temperature if all units have one gold label.

    nll (Likelihood): The likelihood as a function of the temperature.
    RETURNS (float): The temperature; 1 if the likelihood does not depend on it.
    """
    if not nll(1.0)[1]:
        return 1.0
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if nll(math.exp(middle))[1] > 0:  # the best temperature is higher
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def make_bins(confidences: Floats1d, is_right: Bools1d) -> list[Bin]:
    """Group predictions by confidence.

    confidences (Floats1d): The probability of each prediction, N.
    is_right (Bools1d): Whether each prediction is right, N.
    RETURNS (List[Bin]): The filled bins of BINS ranges of equal width. A range includes its upper
        end.
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
    """RETURNS (float): The expected calibration error: the mean over predictions of the distance
    between the confidence and the accuracy of their bin. nan without predictions.
    """
    total = sum(b.count for b in bins)
    gaps = math.fsum(b.count * abs(b.confidence - b.accuracy) for b in bins)
    return gaps / total if total else math.nan
