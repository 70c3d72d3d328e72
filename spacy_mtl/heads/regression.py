"""`mtl_regression`: numbers that belong to a doc, in `doc._.scores`."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ..annotations.documents import Numbers, get_numbers, write_numbers
from ..arguments import checked
from ..corpora.scope import is_for
from ..corpora.streams import read_whole
from ..encoder.host import isolated
from ..storage import check_type, raise_mismatch
from ..types import Floats1d, Floats2d, Settings, get_ops, get_xp
from .base import Head

DEFAULT_CONFIG = """
[regression]
objective = "squared_error"
scorer = {"@scorers": "spacy-mtl.regression_scorer.v1"}

[regression.model]
@architectures = "spacy-mtl.TextCatHead.v1"
pooling = "mean"

[regression.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
Objective = Literal["squared_error", "gaussian"]
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
SCORES = ("scores_pearson", "scores_spearman", "scores_mae")
# The logarithm of the least variance, relative to that of the training data: a deviation of 1 %.
LEAST_LOG_VARIANCE = 2 * math.log(0.01)


class MultiTaskRegressor(Head[Floats2d, Floats1d]):
    """Predicts numbers of docs, such as a rating. The labels are the names of the numbers.

    The model predicts numbers scaled to mean 0 and deviation 1 over the training data. The scaling
    is saved with the head.
    """

    layer = Numbers()
    reads_tokens = False  # tokens may have been merged: they are pooled
    CFG = {**Head.CFG, "objective": str, "scaling": dict[str, list[str]]}

    @property
    def is_gaussian(self) -> bool:
        return bool(self.cfg["objective"] == "gaussian")

    def get_outputs(self) -> list[str]:
        """RETURNS (List[str]): The names of the numbers, and for Gaussians those of their log
        variances.
        """
        variances = [f"{label} log variance" for label in self.labels] if self.is_gaussian else []
        return [*self.labels, *variances]

    @property
    def label_data(self) -> Settings:
        """RETURNS (Dict[str, Any]): The names, and the mean and deviation of each number, as `init
        labels` writes and `initialize` reads them.
        """
        scaling = [[label, *pair] for label, pair in self.cfg["scaling"].items()]
        return {"labels": list(self.labels), "scaling": scaling}

    @isolated
    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: dict[str, Any] | Sequence[str] | None = None,
    ) -> None:
        """Find the names of the numbers, measure their means and deviations, and set the sizes of
        the model.

        get_examples (Callable): Returns a representative sample of examples.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Union[Dict[str, Any], Sequence[str]]]): The names, or names and scaling, as
            written by `init labels`. By default both are collected from the examples.
        RAISES (ValueError): As the other heads; M291 for a number that is infinite.
        """
        super().initialize(get_examples, nlp=nlp, labels=labels)
        rows = labels.get("scaling") if isinstance(labels, Mapping) else None
        if rows is None:
            rows = measure(self.labels, self._read_docs(read_whole(get_examples)))
        entry = f"initialize.components.{self.name}.labels.scaling"
        found = check_type(rows, list[tuple[str, str, str]], entry)
        for number in (number for _, *pair in found for number in pair):
            if not NUMBER.fullmatch(number):
                raise_mismatch(entry, number, "a number as a string")
        self.cfg["scaling"] = {name: [mean, deviation] for name, mean, deviation in found}

    def _read_docs(self, get_examples: Callable[[], Iterable[Example]]) -> Iterable[Doc]:
        docs = (eg.reference for eg in get_examples())
        return (doc for doc in docs if is_for(doc, self.name))

    def get_scaling(self) -> tuple[Floats1d, Floats1d]:
        """RETURNS (Tuple[Floats1d, Floats1d]): The mean and the deviation of each number, C."""
        pairs = [self.cfg["scaling"].get(label, ["0", "1"]) for label in self.labels]
        means, deviations = numpy.array(pairs, dtype="f").reshape(-1, 2).T
        return means, deviations

    def get_targets(self, examples: Sequence[Example]) -> Floats2d:
        """RETURNS (Floats2d): The scaled gold number of each doc and name, D x C. It is nan where
        it is missing, and for an empty doc.
        """
        gold = numpy.full((len(examples), len(self.labels)), numpy.nan, dtype="f")
        means, deviations = self.get_scaling()
        for row, eg in zip(gold, examples, strict=True):
            if len(eg.predicted) and (known := self.read_gold(eg)):
                row[:] = [known.get(label, numpy.nan) for label in self.labels]
        scaled: Floats2d = (gold - means) / deviations
        return scaled

    def loss(self, examples: Sequence[Example], scores: Floats2d) -> tuple[float, Floats2d, int]:
        """Compute the mean over the known numbers: half the squared error of the scaled number, or
        the negative log-likelihood of a Gaussian in nats: Nix and Weigend (1994), "Estimating the
        mean and variance of the target probability distribution", equation 5.
        """
        targets = get_ops(self.model).asarray(self.get_targets(examples))
        return gaussian_nll(scores, targets) if self.is_gaussian else squared_error(scores, targets)

    def decode(self, docs: Sequence[Doc], scores: Floats2d) -> list[Floats1d]:
        """RETURNS (List[Floats1d]): The numbers of each doc, C; the means for an empty doc."""
        means, deviations = self.get_scaling()
        scaled: Floats2d = get_ops(self.model).to_numpy(scores)[:, : len(self.labels)]
        is_filled = numpy.array([[len(doc) > 0] for doc in docs])
        return list(means + deviations * numpy.where(is_filled, scaled, 0.0))

    def decode_empty(self, docs: Sequence[Doc]) -> list[Floats1d]:
        return [self.get_scaling()[0] for _ in docs]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Floats1d]) -> None:
        """Write the numbers to `doc._.scores`. Other numbers stay.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Floats1d]): The numbers of each doc.
        """
        for doc, numbers in zip(docs, predictions, strict=True):
            write_numbers(doc, zip(self.labels, map(float, numbers), strict=True))

    def get_answer(self, doc: Doc, prediction: Floats1d) -> dict[str, float]:
        return dict(zip(self.labels, map(float, prediction), strict=True))


def measure(labels: Sequence[str], docs: Iterable[Doc]) -> list[tuple[str, str, str]]:
    """RETURNS (List[Tuple[str, str, str]]): The name, the mean and the standard deviation of each
    number. The deviation of numbers that are all equal is 1. JSON files of spaCy round numbers to
    ten decimals, but keep strings.
    """
    values: dict[str, list[float]] = {label: [] for label in labels}
    for doc in docs:
        for label, value in get_numbers(doc).items():
            if label in values:
                values[label].append(value)
    arrays = {label: numpy.array(found or [0.0]) for label, found in values.items()}
    scales = {label: (array.mean(), array.std() or 1.0) for label, array in arrays.items()}
    return [(label, str(float(mean)), str(float(sd))) for label, (mean, sd) in scales.items()]


def squared_error(scores: Floats2d, targets: Floats2d) -> tuple[float, Floats2d, int]:
    """Compute half the mean squared error.

    scores, targets (Floats2d): Predicted and gold numbers, D x C. A gold number that is nan is
        missing.
    RETURNS (Tuple[float, Floats2d, int]): The mean over known numbers, its gradient, and how many
        are known.
    """
    xp = get_xp(scores)
    errors = xp.where(xp.isnan(targets), 0.0, scores - targets).astype("f")
    n = int((~xp.isnan(targets)).sum())
    return float((errors**2).sum() / (2 * max(n, 1))), errors / max(n, 1), n


def gaussian_nll(scores: Floats2d, targets: Floats2d) -> tuple[float, Floats2d, int]:
    """Compute the mean negative log-likelihood of numbers under Gaussians.

    scores (Floats2d): The predicted means and logarithms of variances, D x 2 C.
    targets (Floats2d): The gold numbers, D x C. A number that is nan is missing.
    RETURNS (Tuple[float, Floats2d, int]): The mean over known numbers in nats, its gradient D x
        2 C, and how many are known.
    """
    xp = get_xp(scores)
    means, logs = xp.split(scores, 2, axis=1)
    known = ~xp.isnan(targets)
    n = int(known.sum())
    bounded = xp.maximum(logs, LEAST_LOG_VARIANCE)
    errors = xp.where(known, means - targets, 0.0)
    ratios = errors**2 * xp.exp(-bounded)
    losses = xp.where(known, (ratios + bounded + math.log(2 * math.pi)) / 2, 0.0)
    d_logs = xp.where(known & (logs >= LEAST_LOG_VARIANCE), (1 - ratios) / 2, 0.0)
    gradient = xp.concatenate([errors * xp.exp(-bounded), d_logs], axis=1) / max(n, 1)
    return float(losses.sum() / max(n, 1)), gradient.astype("f"), n


def score_numbers(examples: Iterable[Example], **kwargs: Any) -> Settings:
    """Score the numbers of docs.

    examples (Iterable[Example]): The examples.
    **kwargs: Not used.
    RETURNS (Dict[str, Any]): The means over names of Pearson's and Spearman's correlation and of
        the mean absolute error, under `scores_pearson`, `scores_spearman` and `scores_mae`, and the
        three of each name under `scores_per_name`. A correlation of numbers of which all are equal
        is 0. All are None if no number is known.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for eg in examples:
        found = get_numbers(eg.predicted)
        for name, value in get_numbers(eg.reference).items():
            if name in found:
                pairs.setdefault(name, []).append((found[name], value))
    per_name = {name: score_pairs(numpy.array(values)) for name, values in sorted(pairs.items())}
    if not per_name:
        return dict.fromkeys([*SCORES, "scores_per_name"])
    means = {key: float(numpy.mean([own[key] for own in per_name.values()])) for key in SCORES}
    return {**means, "scores_per_name": per_name}


def score_pairs(pairs: Floats2d) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The scores of predicted and gold numbers, N x 2."""
    predicted, gold = pairs.T
    return {
        "scores_pearson": correlate(predicted, gold),
        "scores_spearman": correlate(rank(predicted), rank(gold)),
        "scores_mae": float(numpy.abs(predicted - gold).mean()),
    }


def correlate(a: Floats1d, b: Floats1d) -> float:
    """RETURNS (float): Pearson's correlation; 0 if all numbers of a side are equal."""
    a, b = a - a.mean(), b - b.mean()
    norm = numpy.linalg.norm(a) * numpy.linalg.norm(b)
    return float(a @ b / norm) if norm > 1e-12 else 0.0


def rank(values: Floats1d) -> Floats1d:
    """RETURNS (Floats1d): The rank of each number, from 0. Equal numbers have their mean rank."""
    _, place, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats1d = (numpy.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks


def make_regression_scorer() -> Callable[..., Settings]:
    """RETURNS (Callable): The scorer of numbers."""
    return score_numbers


@Language.factory(
    "mtl_regression",
    assigns=["doc._.scores"],
    default_config=Config().from_str(DEFAULT_CONFIG)["regression"],
    default_score_weights={"scores_pearson": 1.0, "scores_spearman": None, "scores_mae": None},
)
@checked("mtl_regression")
def make_mtl_regression(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    objective: Objective,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskRegressor:
    """Construct a regressor that shares its encoder.

    model (Model[List[Doc], Floats2d]): Numbers of each doc.
    objective (str): "squared_error", or "gaussian" to learn the variance of each number too.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskRegressor(
        nlp.vocab, model, name, scorer=scorer, objective=objective, scaling={}
    )
