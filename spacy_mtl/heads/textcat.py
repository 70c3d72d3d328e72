"""`mtl_textcat` and `mtl_textcat_multilabel`: categories of docs, in `doc.cats`."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal

import numpy
from spacy.errors import Errors as SpacyErrors
from spacy.language import Language
from spacy.pipeline.textcat import TextCategorizer
from spacy.pipeline.textcat_multilabel import MultiLabel_TextCategorizer
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import (
    Config,
    Dropout,
    Model,
    ParametricAttention,
    Ragged,
    chain,
    list2ragged,
    reduce_first,
    reduce_max,
    reduce_mean,
    reduce_sum,
)
from thinc.util import get_width

from ..arguments import Rate, Share, Size, checked
from ..encoder.host import isolated
from ..errors import Warnings
from ..types import Bools2d, Floats1d, Floats2d
from .gold import get_cats
from .head import Head, check_outputs, linear, show_as, skip_empty, with_options
from .losses import binary_cross_entropy, cross_entropy, sigmoid, softmax
from .unit_loss import UnitLoss

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

LOWEST, HIGHEST = -80, 10  # scores of which float32 still tells the probabilities apart

Pooling = Literal["mean", "max", "first", "attention", "label_attention"]


class CategoryHead(Head):
    """What the exclusive and the multi-label head share."""

    reads_tokens = False  # it pools them: they may have been merged

    def is_annotated(self, doc: Doc) -> bool:
        return bool(doc.cats)

    def get_gold_labels(self, doc: Doc) -> set[str]:
        return set(doc.cats)

    def find_labels(self, docs: Iterable[Doc]) -> list[str]:
        """RETURNS (List[str]): The categories in gold docs, in the order in which they occur."""
        return list(dict.fromkeys(label for doc in docs for label in doc.cats))

    def get_answer(self, doc: Doc, prediction: Any) -> dict[str, float]:
        return dict(zip(self.labels, map(float, prediction), strict=True))

    def set_answer(self, doc: Doc, answer: dict[str, float]) -> None:
        doc.cats = dict(answer)

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        doc.cats = {label: value for label, value in doc.cats.items() if label not in labels}

    def isolate(self, example: Example) -> Example | None:
        """RETURNS (Optional[Example]): The example with the answers and labels of this head alone,
        None if it has no categories of this head.
        """
        has_labels = not example.reference.cats.keys().isdisjoint(self.labels)
        return super().isolate(example) if has_labels else None

    def set_annotations(self, docs: Iterable[Doc], scores: Any) -> None:
        """Write the probabilities to `doc.cats`, beside those of other categories.

        docs (Iterable[Doc]): The docs.
        scores: What `predict` returned for them.
        """
        super().set_annotations(docs, scores)
        self.keep_answers(docs, scores)

    def check_shared_labels(self) -> None:
        """Warn by W014 if another head has some of the categories: `doc.cats` has room for one."""
        for head in self.siblings:
            if shared := [label for label in self.labels if label in head.labels]:
                names = sorted([self.name, head.name])
                warnings.warn(Warnings.W014.format(names=names, labels=shared))

    def to_probabilities(self, scores: Floats2d) -> Floats2d:
        raise NotImplementedError

    @isolated
    def predict(self, docs: Iterable[Doc]) -> Floats2d:
        """Predict the categories of a batch of docs, without modifying them.

        docs (Iterable[Doc]): The docs.
        RETURNS (Floats2d): A probability for each doc and label; zeros for an empty doc.
        """
        docs = list(docs)
        lengths = numpy.array([len(doc) for doc in docs])
        if self.skip_empty(docs):
            return numpy.zeros((len(docs), len(self.labels)), dtype="f")
        scores = self.get_scores(docs) / self.temperature
        probabilities = self.model.ops.to_numpy(self.to_probabilities(scores))
        return numpy.where(lengths[:, None] > 0, probabilities, 0.0)

    def get_gold(self, examples: Sequence[Example]) -> Floats2d:
        """RETURNS (Floats2d): The value of each doc and label; nan where it is missing, and for an
        empty doc.
        """
        cats = [get_cats(eg, self.name) for eg in examples]
        gold = [[values.get(label, numpy.nan) for label in self.labels] for values in cats]
        array = numpy.array(gold, dtype="f")
        array[[not len(eg.predicted) for eg in examples]] = numpy.nan
        return array


class MultiTaskTextCategorizer(CategoryHead, TextCategorizer):
    """spaCy's text categorizer for categories that exclude each other, with a true mean loss, and
    with docs left out that have no category.
    """

    support_missing_values = True

    def __init__(self, *args: Any, label_smoothing: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg["label_smoothing"] = label_smoothing

    @isolated
    def initialize(  # type: ignore[override]
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Iterable[str] | None = None,
        positive_label: str | None = None,
    ) -> None:
        """Find the labels and size the model.

        get_examples (Callable): Returns a representative sample of examples.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Iterable[str]]): The categories, as written by `init labels`. Otherwise
            they are looked up in the examples.
        positive_label (Optional[str]): Of two categories the one to score.
        RAISES (ValueError): M035 if they disagree with the model, M038 if a weight names another.
        """
        labels = self.choose_labels(get_examples, labels)
        for label in labels:  # known before the categories are checked
            self.add_label(label)
        self._validate_categories(get_examples())
        super().initialize(self.get_sample, nlp=nlp, labels=labels, positive_label=positive_label)
        check_outputs(self.name, self.model, self.labels)
        self.check_shared_labels()
        self.set_class_weights(get_examples)

    def _validate_categories(self, examples: Iterable[Example]) -> None:
        # As spaCy's, but other heads' categories do not exclude this one's.
        labels = set(self.labels)
        for eg in examples:
            cats = get_cats(eg, self.name)
            own = {name: cats[name] for name in cats if name in labels}
            if [*own.values()].count(1.0) > 1:
                raise ValueError(SpacyErrors.E895.format(value=own))
            for value in own.values():
                if value not in (0.0, 1.0):
                    raise ValueError(SpacyErrors.E851.format(val=value))

    def to_probabilities(self, scores: Floats2d) -> Floats2d:
        return softmax(scores)

    def get_mean_loss(
        self, examples: Sequence[Example], scores: Floats2d
    ) -> tuple[float, Floats2d, int]:
        self._validate_categories(examples)
        allowed = self.model.ops.asarray(self.get_allowed(examples))
        smoothing = self.cfg["label_smoothing"]
        return cross_entropy(scores, allowed, label_smoothing=smoothing, focus=self.get_focus())

    def get_allowed(self, examples: Sequence[Example]) -> Bools2d:
        gold = self.get_gold(examples)
        known = (gold == 1).any(axis=1, keepdims=True)
        # The one that is named, or else all that are not ruled out.
        return numpy.where(known, gold == 1, gold != 0)


class MultiTaskMultiLabelTextCategorizer(CategoryHead, MultiLabel_TextCategorizer):
    """spaCy's text categorizer for categories that are independent, with a true mean loss."""

    def __init__(self, *args: Any, label_smoothing: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg["label_smoothing"] = label_smoothing

    @isolated
    def initialize(  # type: ignore[override]
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Iterable[str] | None = None,
    ) -> None:
        """Find the labels and size the model.

        get_examples, nlp, labels: As for exclusive categories.
        RAISES (ValueError): M035 if they disagree with the model, M038 if a weight names another.
        """
        labels = self.choose_labels(get_examples, labels)
        self._validate_categories(islice(get_examples(), 10))
        super().initialize(self.get_sample, nlp=nlp, labels=labels)
        check_outputs(self.name, self.model, self.labels)
        self.check_shared_labels()
        self.set_class_weights(get_examples)

    def to_probabilities(self, scores: Floats2d) -> Floats2d:
        return sigmoid(scores)

    def set_temperature(self, value: float) -> None:
        # The threshold moves with the probabilities, so that no decision changes.
        threshold = self.cfg["threshold"]
        if 0 < threshold < 1:
            score = self.temperature * math.log(threshold / (1 - threshold))
            # Not so cold that float32 would take all probabilities round the threshold for one.
            bound = max(score / HIGHEST, score / LOWEST)
            value = max(value, min(bound, self.temperature))
            self.cfg["threshold"] = 1 / (1 + math.exp(-score / value))
        self.cfg["temperature"] = value

    def make_nll(
        self, examples: Sequence[Example], scores: Floats2d
    ) -> Callable[[float], tuple[float, float, int]]:
        gold = self.get_gold(examples)
        labelled = ~numpy.isnan(gold)
        truths: Any = numpy.where(labelled, gold, 0.0)

        def nll(temperature: float) -> tuple[float, float, int]:
            loss, d_scores, n = binary_cross_entropy(scores / temperature, truths, labelled)
            return loss, float(numpy.vdot(d_scores, scores)), n

        return nll

    def get_confidences(
        self, examples: Sequence[Example], scores: Floats2d, temperature: float
    ) -> tuple[Floats1d, Any]:
        """RETURNS (Tuple[Floats1d, Bools1d]): The probability of yes for each known label, and
        whether yes is right.
        """
        gold = self.get_gold(examples)
        labelled = ~numpy.isnan(gold)
        return sigmoid(scores[labelled] / temperature), gold[labelled] > 0

    def get_mean_loss(
        self, examples: Sequence[Example], scores: Floats2d
    ) -> tuple[float, Floats2d, int]:
        gold = self.get_gold(examples)
        labelled = ~numpy.isnan(gold)
        asarray: Any = self.model.ops.asarray
        return binary_cross_entropy(
            scores,
            asarray(numpy.where(labelled, gold, 0.0).astype("f")),
            asarray(labelled),
            label_smoothing=self.cfg["label_smoothing"],
            focus=self.get_focus(),
        )

    def balance_classes(self, examples: Iterable[Example]) -> dict[str, float]:
        """RETURNS (Dict[str, float]): For each category that occurs how many docs do not have it
        for one that has.
        """
        gold = self.get_gold(list(examples))
        counts = zip(self.labels, (gold == 1).sum(axis=0), (gold == 0).sum(axis=0), strict=True)
        return {label: float(no / yes) for label, yes, no in counts if yes and no}


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
    model: Model,
    threshold: Share,
    label_smoothing: Rate,
    loss: UnitLoss | None,
    scorer: Callable | None,
) -> MultiTaskTextCategorizer:
    """Construct a text categorizer, for exactly one category per doc, that shares its encoder.

    model (Model[List[Doc], Floats2d]): Scores of each label for each doc, before the softmax.
    threshold (float): Not used; the best category is the answer.
    label_smoothing (float): Share of each target that is spread over all labels, 0 to 1.
    loss (Optional[UnitLoss]): `spacy-mtl.UnitLoss.v1`, for hard docs and rare categories.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskTextCategorizer(
        nlp.vocab,
        model,
        name,
        threshold=threshold,
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
    model: Model,
    threshold: Share,
    label_smoothing: Rate,
    loss: UnitLoss | None,
    scorer: Callable | None,
) -> MultiTaskMultiLabelTextCategorizer:
    """Construct a text categorizer, for any number of categories per doc, that shares its encoder.

    model (Model[List[Doc], Floats2d]): Scores of each label for each doc, before the sigmoid.
    threshold (float): From which probability on the scorer counts a category as given.
    label_smoothing (float): Moves each target this far towards 1/2, 0 to 1.
    loss (Optional[UnitLoss]): `spacy-mtl.UnitLoss.v1`, for hard docs and rare categories.
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


@checked("spacy-mtl.TextCatHead.v1")
def build_textcat_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    pooling: Pooling = "mean",
    dropout: Rate | None = None,
    nO: Size | None = None,
) -> Model[list[Doc], Floats2d]:
    """Build a linear layer over one vector per doc, or per doc and label.

    tok2vec (Model[List[Doc], List[Floats2d]]): Where the vectors come from: a listener or a model
        of its own.
    pooling (str): How tokens become one vector: "mean", "max", "first" token, or a learned
        "attention" over them. With "label_attention" each label has its own attention and vector.
    dropout (Optional[float]): Dropout of the doc's vector, or for "label_attention" of the tokens';
        `[training] dropout` if not given.
    nO (Optional[int]): The number of labels, found at initialization.
    RAISES (ValueError): M058 for an argument out of range.
    """
    poolings: dict[str, Callable[[], Model]] = {
        "mean": reduce_mean,
        "max": reduce_max,
        "first": reduce_first,
        "attention": lambda: chain(ParametricAttention(), reduce_sum()),
    }
    if pooling == "label_attention":
        output = LabelAttention(nO)
        layers = chain(tok2vec, list2ragged(), Dropout(), output)
    else:
        output = linear(nO)
        layers = chain(tok2vec, list2ragged(), skip_empty(poolings[pooling]()), Dropout(), output)
    return with_options(layers, output, tok2vec, dropout)


def LabelAttention(nO: int | None = None) -> Model[Ragged, Floats2d]:
    """Score each label by a linear layer of its own over a mean of the tokens that is weighted by
    an attention of its own: Mullenbach et al. (2018), "Explainable Prediction of Medical Codes from
    Clinical Text", section 2.3.

    All that is made of N tokens and L labels is N x L: a token's score is found before the mean,
    not a vector for each label after it. At first the attention is even, and all scores are 0.

    nO (Optional[int]): The number of labels, found at initialization.
    """
    return Model(
        "label_attention",
        _label_attention_forward,
        init=_label_attention_init,
        dims={"nO": nO, "nI": None},
        params={"Q": None, "W": None, "b": None},
    )


def _label_attention_init(
    model: Model[Ragged, Floats2d], X: Ragged | None = None, Y: Floats2d | None = None
) -> None:
    if X is not None:
        model.set_dim("nI", get_width(X))
    if Y is not None:
        model.set_dim("nO", get_width(Y))
    shape = model.get_dim("nO"), model.get_dim("nI")
    model.set_param("Q", model.ops.alloc2f(*shape))
    model.set_param("W", model.ops.alloc2f(*shape))
    model.set_param("b", model.ops.alloc1f(shape[0]))


def _label_attention_forward(
    model: Model[Ragged, Floats2d], docs: Ragged, is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], Ragged]]:
    ops: Any = model.ops
    X: Any = docs.dataXd
    Q, W, b = (model.get_param(name) for name in ("Q", "W", "b"))
    filled = ops.xp.flatnonzero(docs.lengths)
    lengths = docs.lengths[filled]

    def repeat(rows: Floats2d) -> Floats2d:
        return ops.backprop_reduce_sum(rows, lengths)  # each doc's row for each of its tokens

    attention = ops.gemm(X, Q, trans2=True)
    attention -= repeat(ops.reduce_max(attention, lengths)[0])
    ops.xp.exp(attention, out=attention)
    attention /= repeat(ops.reduce_sum(attention, lengths))
    scores = ops.gemm(X, W, trans2=True)
    means = ops.reduce_sum(attention * scores, lengths)
    output = ops.alloc2f(len(docs.lengths), means.shape[1])
    output[filled] = means
    output += b

    def backprop(d_output: Floats2d) -> Ragged:
        d_scores = attention * repeat(d_output[filled])
        d_attention = d_scores * (scores - repeat(means))  # before the softmax
        model.inc_grad("b", d_output.sum(axis=0))
        model.inc_grad("W", ops.gemm(d_scores, X, trans1=True))
        model.inc_grad("Q", ops.gemm(d_attention, X, trans1=True))
        dX = ops.gemm(d_scores, W) + ops.gemm(d_attention, Q)
        return Ragged(dX, docs.lengths)

    return output, backprop


def score_textcat(
    examples: Iterable[Example], *, labels: Iterable[str], **kwargs: Any
) -> dict[str, Any]:
    """Score exclusive categories over the docs that have one.

    Docs without a gold category are left out, as are those that only another head has one for;
    spaCy's scorer counts them as errors.

    examples (Iterable[Example]): The examples.
    labels (Iterable[str]): The head's.
    RETURNS (Dict[str, Any]): The scores of `Scorer.score_cats`, None if no doc has a category, but
        for the name of the score.
    """
    labels = list(labels)
    labelled = [eg for eg in examples if any(map(eg.reference.cats.get, labels))]
    scores = Scorer.score_cats(labelled, "cats", labels=labels, multi_label=False, **kwargs)
    if not labelled:
        return dict.fromkeys(scores) | {"cats_score_desc": scores["cats_score_desc"]}
    return scores


def make_textcat_scorer() -> Callable:
    """RETURNS (Callable): The scorer of exclusive categories."""
    return score_textcat
