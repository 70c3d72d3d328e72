"""`mtl_textcat` and `mtl_textcat_multilabel`: categories of docs, in `doc.cats`."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy
from spacy.errors import Errors as SpacyErrors
from spacy.language import Language
from spacy.pipeline.textcat import TextCategorizer
from spacy.pipeline.textcat_multilabel import MultiLabel_TextCategorizer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ...annotations.categories import Categories
from ...arguments import Rate, Share, checked
from ...encoder.host import isolated
from ...errors import Warnings
from ...types import Bools1d, Bools2d, Floats1d, Floats2d, Ints2d, Settings, get_ops
from ..base import show_as
from ..calibration import Likelihood, ThresholdHead
from ..classifier import ClassifierHead
from ..loss_weighting import LossWeighting
from ..losses import binary_cross_entropy, sigmoid, softmax
from ..prior import get_log_odds
from ..rating import Rating, RatingHead

DEFAULT_CONFIG = """
[textcat]
threshold = 0.0
label_smoothing = 0.0
loss = null
scorer = {"@scorers": "spacy-mtl.textcat_scorer.v1"}

[textcat.model]
@architectures = "spacy-mtl.TextCatHead.v1"
pooling = "mean"

[textcat.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
EXCLUSIVE_CONFIG = Config().from_str(DEFAULT_CONFIG)["textcat"]
MULTILABEL_CONFIG = {
    **EXCLUSIVE_CONFIG,
    "threshold": 0.5,
    "scorer": {"@scorers": "spacy.textcat_multilabel_scorer.v2"},
}
SCORE_WEIGHTS = {
    "cats_score": 1.0,
    "cats_score_desc": None,
    "cats_micro_p": None,
    "cats_micro_r": None,
    "cats_micro_f": None,
    "cats_macro_p": None,
    "cats_macro_r": None,
    "cats_macro_f": None,
    "cats_macro_auc": None,
    "cats_f_per_type": None,
    "cats_auc_per_type": None,
}


class CategoryHead(RatingHead[Floats2d, Floats1d]):
    """A head that predicts the probability of each category of a doc."""

    layer = Categories()
    reads_tokens = False  # tokens may have been merged: they are pooled

    def to_probabilities(self, scores: Floats2d) -> Floats2d:
        """RETURNS (Floats2d): The probability of each doc and label."""
        raise NotImplementedError

    def isolate(self, example: Example) -> Example | None:
        """RETURNS (Optional[Example]): The example as this head alone would have it; None if it has
        no gold value for a category of this head.
        """
        has_labels = not example.reference.cats.keys().isdisjoint(self.labels)
        return super().isolate(example) if has_labels else None

    def get_answer(self, doc: Doc, prediction: Floats1d) -> dict[str, float]:
        return dict(zip(self.labels, map(float, prediction), strict=True))

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Floats1d]) -> None:
        """Write the probabilities to `doc.cats`. Other categories stay.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Floats1d]): The probabilities of each doc.
        """
        for doc, prediction in zip(docs, predictions, strict=True):
            doc.cats.update(self.get_answer(doc, prediction))

    def decode(self, docs: Sequence[Doc], scores: Floats2d) -> Floats2d:  # type: ignore[override]
        """RETURNS (Floats2d): The probability of each doc and label; zeros for an empty doc."""
        probabilities = self.to_probabilities(scores / self.temperature)
        is_filled = numpy.array([[len(doc) > 0] for doc in docs])
        return numpy.where(is_filled, get_ops(self.model).to_numpy(probabilities), 0.0)

    def decode_empty(self, docs: Sequence[Doc]) -> Floats2d:  # type: ignore[override]
        return numpy.zeros((len(docs), len(self.labels)), dtype="f")

    def read_values(self, examples: Sequence[Example]) -> Floats2d:
        """RETURNS (Floats2d): The gold value of each doc and label, D x L. It is nan where it is
        missing, and for an empty doc.
        """
        gold = numpy.full((len(examples), len(self.labels)), numpy.nan, dtype="f")
        for row, eg in zip(gold, examples, strict=True):
            if len(eg.predicted) and (cats := self.read_gold(eg)):
                row[:] = [cats.get(label, numpy.nan) for label in self.labels]
        return gold

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Check the categories at initialization. Warn by W014 if another head has some of them:
        `doc.cats` has one value for each.

        RAISES (ValueError): spaCy's E143 if there are none.
        """
        super().check_labels(get_examples)
        for head in self.siblings:
            if shared := [label for label in self.labels if label in head.labels]:
                names = sorted([self.name, head.name])
                warnings.warn(Warnings.W014.format(names=names, labels=shared))


class MultiTaskTextCategorizer(  # type: ignore[misc]
    CategoryHead, ClassifierHead[Floats1d], TextCategorizer
):
    """Predicts which one of several categories a doc has. spaCy's text categorizer is a base class
    for `isinstance`.
    """

    support_missing_values = True

    @isolated
    def initialize(  # type: ignore[override]
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: dict[str, Any] | Sequence[str] | None = None,
        positive_label: str | None = None,
    ) -> None:
        """Find the labels, set the sizes of the model, and start its bias at the frequencies of the
        labels.

        get_examples (Callable): Returns a representative sample of examples.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Union[Dict[str, Any], Sequence[str]]]): The categories, or categories and
            counts, as written by `init labels`. By default both are collected from the examples.
        positive_label (Optional[str]): The category to score, if there are two.
        RAISES (ValueError): M035 if the labels do not fit the model, M038 if a class weight names
            another label, M049 or M170 for categories and counts of another form, spaCy's E867,
            E919 or E920 if a label is missing.
        """
        self.cfg["positive_label"] = positive_label
        super().initialize(get_examples, nlp=nlp, labels=labels)

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        positive, labels = self.cfg["positive_label"], self.labels
        check_categories(self, get_examples())
        if len(labels) < 2:
            raise ValueError(SpacyErrors.E867)
        if positive is not None and positive not in labels:
            raise ValueError(SpacyErrors.E920.format(pos_label=positive, labels=labels))
        if positive is not None and len(labels) != 2:
            raise ValueError(SpacyErrors.E919.format(pos_label=positive, labels=labels))
        super().check_labels(get_examples)

    def to_probabilities(self, scores: Floats2d) -> Floats2d:
        return softmax(scores)

    def loss(self, examples: Sequence[Example], scores: Floats2d) -> tuple[float, Floats2d, int]:
        check_categories(self, examples)
        return super().loss(examples, scores)

    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        gold = self.read_values(examples)
        known = (gold == 1).any(axis=1, keepdims=True)
        # The positive category. If it is not annotated: all categories that are not negative.
        allowed: Bools2d = numpy.where(known, gold == 1, gold != 0)
        return allowed


class MultiTaskMultiLabelTextCategorizer(  # type: ignore[misc]
    CategoryHead, ThresholdHead[Floats2d, Floats1d], MultiLabel_TextCategorizer
):
    """Predicts independent categories of a doc. spaCy's text categorizer is a base class for
    `isinstance`.
    """

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        self._validate_categories(islice(get_examples(), 10))
        super().check_labels(get_examples)

    def to_probabilities(self, scores: Floats2d) -> Floats2d:
        return sigmoid(scores)

    def get_targets(self, examples: Sequence[Example]) -> tuple[Floats2d, Bools2d]:
        """RETURNS (Tuple[Floats2d, Bools2d]): 1 for each category that a doc has, otherwise 0, and
        whether that is annotated, both D x L.
        """
        gold = self.read_values(examples)
        labelled = ~numpy.isnan(gold)
        return numpy.where(labelled, gold, 0.0).astype("f"), labelled

    def loss(self, examples: Sequence[Example], scores: Floats2d) -> tuple[float, Floats2d, int]:
        truths, labelled = map(get_ops(self.model).asarray, self.get_targets(examples))
        smoothing = self.cfg["label_smoothing"]
        weights = self.get_weights()
        return binary_cross_entropy(
            scores, truths, labelled, label_smoothing=smoothing, weights=weights
        )

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d:
        counts = numpy.zeros((len(self.labels), 2), dtype="int64")
        for example in examples:
            gold = self.read_values([example])
            counts += numpy.concatenate([gold == 1, gold == 0]).T
        return counts

    def get_bias(self, counts: Floats2d) -> Floats1d:
        """RETURNS (Floats1d): The bias, C. Its sigmoid is the share of docs with each label."""
        return get_log_odds(counts)

    def balance_classes(self, examples: Iterable[Example]) -> dict[str, float]:
        """RETURNS (Dict[str, float]): For each category the number of docs without it per doc with
        it.
        """
        counts = zip(self.labels, self.count_outputs(examples).tolist(), strict=True)
        return {label: no / yes for label, (yes, no) in counts if yes and no}

    def make_nll(self, examples: Sequence[Example], scores: Floats2d) -> Likelihood:
        truths, labelled = self.get_targets(examples)

        def nll(temperature: float) -> tuple[float, float, int]:
            loss, d_scores, n = binary_cross_entropy(scores / temperature, truths, labelled)
            return loss, float(numpy.vdot(d_scores, scores)), n

        return nll

    def get_confidences(
        self, examples: Sequence[Example], scores: Floats2d, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        """RETURNS (Tuple[Floats1d, Bools1d]): The probability of each category whose gold value is
        known, and whether the doc has the category.
        """
        truths, labelled = self.get_targets(examples)
        return sigmoid(scores / temperature)[labelled], truths[labelled] > 0

    def rate_labels(self, examples: Sequence[Example], scores: Floats2d) -> list[list[Rating]]:
        """RETURNS (List[List[Rating]]): The contradicted values of each doc. A category that the
        doc does not have is called "not" and its name. More probable than 0.5 counts as predicted,
        whatever the threshold.
        """
        truths, labelled = self.get_targets(examples)
        p, is_gold = sigmoid(scores / self.temperature), truths > 0
        found: list[list[Rating]] = [[] for _ in examples]
        for i, j in numpy.argwhere(labelled & (is_gold != (p > 0.5))).tolist():
            label, likely = self.labels[j], float(p[i, j])
            sides = [(label, likely), (f"not {label}", 1 - likely)]
            (gold, p_gold), (predicted, p_predicted) = sides if is_gold[i, j] else sides[::-1]
            end = len(examples[i].predicted)
            found[i].append(Rating(0, end, gold, predicted, p_gold, p_predicted))
        return found


def check_categories(head: CategoryHead, examples: Iterable[Example]) -> None:
    """Check that no doc has two categories of a head.

    RAISES (ValueError): spaCy's E895 for two categories, E851 for a value other than 0 and 1.
    """
    labels = set(head.labels)
    for eg in examples:
        cats = head.read_gold(eg) or {}
        own = {label: cats[label] for label in cats if label in labels}
        if [*own.values()].count(1.0) > 1:
            raise ValueError(SpacyErrors.E895.format(value=own))
        for value in own.values():
            if value not in (0.0, 1.0):
                raise ValueError(SpacyErrors.E851.format(val=value))


@Language.factory(
    "mtl_textcat",
    assigns=["doc.cats"],
    default_config=EXCLUSIVE_CONFIG,
    default_score_weights=SCORE_WEIGHTS,
)
@checked("mtl_textcat")
def make_mtl_textcat(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    threshold: Share,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskTextCategorizer:
    """Construct a text categorizer that shares its encoder, for exactly one category per doc.

    model (Model[List[Doc], Floats2d]): Scores of each label for each doc, before the softmax.
    threshold (float): Not used: the best category is predicted.
    label_smoothing (float): Share of each target that is spread over all labels, 0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard docs and rare categories.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskTextCategorizer(
        nlp.vocab,
        model,
        name,
        threshold=threshold,
        positive_label=None,
        scorer=scorer,
        label_smoothing=label_smoothing,
        loss=loss,
    )


show_as("mtl_textcat", "textcat")


@Language.factory(
    "mtl_textcat_multilabel",
    assigns=["doc.cats"],
    default_config=MULTILABEL_CONFIG,
    default_score_weights=SCORE_WEIGHTS,
)
@checked("mtl_textcat_multilabel")
def make_mtl_textcat_multilabel(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    threshold: Share,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskMultiLabelTextCategorizer:
    """Construct a text categorizer that shares its encoder, for any number of categories per doc.

    model (Model[List[Doc], Floats2d]): Scores of each label for each doc, before the sigmoid.
    threshold (float): The least probability at which the scorer counts a category as predicted.
    label_smoothing (float): Moves each target this far towards 1/2, 0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard docs and rare categories.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskMultiLabelTextCategorizer(
        nlp.vocab,
        model,
        name,
        threshold=threshold,
        scorer=scorer,
        label_smoothing=label_smoothing,
        loss=loss,
    )


show_as("mtl_textcat_multilabel", "textcat_multilabel")
