"""`mtl_morphologizer`: the part of speech and the features of every token, in `token.pos_` and
`token.morph`.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy
from spacy.errors import Errors as SpacyErrors
from spacy.language import Language
from spacy.pipeline.morphologizer import Morphologizer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ...annotations.morphosyntax import Morphosyntax
from ...annotations.tokens import get_attributes as get_values
from ...annotations.tokens import set_attributes as set_values
from ...arguments import Rate, checked
from ...errors import Errors
from ...types import Bools1d, Bools2d, Floats1d, Floats2d, Ints2d, Settings, get_ops
from ..base import show_as
from ..calibration import CalibratableHead, Likelihood
from ..loss_weighting import LossWeighting
from ..losses import find_known, joint_cross_entropy, log_softmax
from ..prior import count_masks, get_log_shares
from .attributes import (
    Attributes,
    get_allowed,
    get_attributes,
    is_label,
    make_hashes,
    merge_features,
    normalize,
)

DEFAULT_CONFIG = """
[morphologizer]
overwrite = true
extend = false
label_smoothing = 0.0
loss = null
scorer = {"@scorers": "spacy.morphologizer_scorer.v1"}

[morphologizer.model]
@architectures = "spacy-mtl.TaggerHead.v1"

[morphologizer.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
COLUMNS: list[int | str] = ["POS", "MORPH"]


class MultiTaskMorphologizer(CalibratableHead[Floats2d, Ints2d], Morphologizer):  # type: ignore[misc]
    """Predicts parts of speech and morphological features: one softmax for the part of speech, and
    one for each feature, whose classes are its values and its absence. The loss of a token is the
    sum of their losses, which is its joint negative log-likelihood. Tokens can so get sets of
    features that no training token has.

    The labels are parts of speech and features, such as "POS=NOUN" and "Case=Nom". The label "_"
    stands for tokens without features. spaCy's morphologizer, whose labels are whole sets, is a
    base class for `isinstance` only.
    """

    layer = Morphosyntax()
    CFG = {**CalibratableHead.CFG, "extend": bool}

    @property
    def attributes(self) -> Attributes:
        """RETURNS (Attributes): The outputs of the model, by attribute."""
        return get_attributes(self.labels)

    @property
    def groups(self) -> list[slice]:
        """RETURNS (List[slice]): The outputs of each attribute, A."""
        return [*self.attributes.groups.values()]

    # Labels

    def get_outputs(self) -> list[str]:
        """RETURNS (List[str]): The class of each output of the model: "Case/Nom" for the label
        "Case=Nom", since no key of a config can contain "=", and "Case/_" for its absence.
        """
        return [output.replace("=", "/", 1) for output in self.attributes.outputs]

    def add_label(self, label: str) -> int:
        """Add labels, before the model is initialized.

        label (str): A feature, a part of speech, or several of them, such as
            "Case=Nom|POS=PRON".
        RETURNS (int): 0 if the head has all of them already, otherwise 1.
        RAISES (ValueError): spaCy's E187 if the label is no string, M032 if the model is
            initialized, M093 for a label of another form.
        """
        parts = [label]
        if isinstance(label, str):
            parts = [normalize(part) for part in self.layer.split_label(label)]
            self._check_form(parts)
        return max([super(MultiTaskMorphologizer, self).add_label(part) for part in parts])

    def _check_form(self, labels: Iterable[str]) -> None:
        for label in labels:
            if not is_label(label):
                raise ValueError(Errors.M093.format(name=self.name, label=label))

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Check the labels at initialization.

        get_examples (Callable): Returns a representative sample of examples.
        RAISES (ValueError): spaCy's E143 if there is neither a part of speech nor a feature.
        """
        if not self.get_outputs():
            raise ValueError(SpacyErrors.E143.format(name=self.name))

    def _load_cfg(self, cfg: object) -> None:
        super()._load_cfg(cfg)
        self._check_form(self.labels)

    # Training

    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        """RETURNS (Bools2d): The outputs that the annotation allows for each token, N x C. All
        values of an attribute are allowed where it is missing, cannot be aligned, or has a value
        that is not among the labels.
        """
        gold = numpy.concatenate([self._read_gold(example) for example in examples])
        vocabs = (example.reference.vocab for example in examples)
        stores = {id(vocab): vocab.strings for vocab in vocabs}
        return get_allowed(self.attributes, gold, stores.values())

    def _read_gold(self, example: Example) -> Ints2d:
        gold: Ints2d | None = self.read_gold(example)
        return numpy.zeros((len(example.predicted), 2), dtype="uint64") if gold is None else gold

    def loss(self, examples: Sequence[Example], scores: Floats2d) -> tuple[float, Floats2d, int]:
        """Compute the mean joint negative log-likelihood per token.

        examples (Sequence[Example]): The batch.
        scores (Floats2d): The score of each output for each token, N x C.
        RETURNS (Tuple[float, Floats2d, int]): The mean in nats over tokens with a part of speech or
            features, its gradient N x C, and the number of these tokens.
        """
        allowed = get_ops(self.model).asarray(self.get_targets(examples))
        smoothing = self.cfg.get("label_smoothing", 0.0)
        return joint_cross_entropy(
            scores, allowed, self.groups, label_smoothing=smoothing, weights=self.get_weights()
        )

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d:
        masks = [self.get_targets([example]) for example in examples]
        parts = [
            count_masks((mask[:, group] for mask in masks), group.stop - group.start)
            for group in self.groups
        ]
        return numpy.concatenate(parts)

    def get_bias(self, counts: Floats2d) -> Floats1d:
        """RETURNS (Floats1d): The bias, C. The softmaxes of attributes give the shares of their
        values.
        """
        return numpy.concatenate([get_log_shares(counts[group]) for group in self.groups])

    def balance_classes(self, examples: Iterable[Example]) -> dict[str, float]:
        """RETURNS (Dict[str, float]): Class weights under which all values of an attribute that
        occur have the same total.
        """
        counts, outputs = self.count_outputs(examples)[:, 0], self.get_outputs()
        weights: dict[str, float] = {}
        for group in self.groups:
            own = counts[group].tolist()
            found = {name: n for name, n in zip(outputs[group], own, strict=True) if n}
            total = sum(found.values())
            weights |= {name: total / (len(found) * n) for name, n in found.items()}
        return weights

    # Calibration

    def make_nll(self, examples: Sequence[Example], scores: Floats2d) -> Likelihood:
        allowed, groups = self.get_targets(examples), self.groups

        def nll(temperature: float) -> tuple[float, float, int]:
            loss, d_scores, n = joint_cross_entropy(scores / temperature, allowed, groups)
            return loss, float(numpy.vdot(d_scores, scores)), n

        return nll

    def get_confidences(
        self, examples: Sequence[Example], scores: Floats2d, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        """RETURNS (Tuple[Floats1d, Bools1d]): The joint probability of the predicted values of each
        token's known attributes, and whether all these values are right.
        """
        allowed, groups = self.get_targets(examples), self.groups
        known, rows = find_known(allowed, groups), numpy.arange(len(allowed))
        log_p, is_right = numpy.zeros(len(allowed), dtype="f"), numpy.ones(len(allowed), dtype=bool)
        for group, is_known in zip(groups, known.T, strict=True):
            own = log_softmax(scores[:, group] / temperature)
            log_p += numpy.where(is_known, own.max(axis=1), 0.0)
            is_right &= ~is_known | allowed[:, group][rows, own.argmax(axis=1)]
        labelled = known.any(axis=1)
        return numpy.exp(log_p[labelled]), is_right[labelled]

    # Prediction

    def decode(self, docs: Sequence[Doc], scores: Floats2d) -> list[Ints2d]:
        """RETURNS (List[Ints2d]): For each token of each doc the place of the best value among the
        outputs of each attribute, N x A.
        """
        ops = get_ops(self.model)
        best = ops.xp.stack([scores[:, group].argmax(axis=1) for group in self.groups], axis=1)
        return numpy.split(ops.to_numpy(best), numpy.cumsum([len(doc) for doc in docs])[:-1])

    def decode_empty(self, docs: Sequence[Doc]) -> list[Ints2d]:
        return [numpy.zeros((0, len(self.groups)), dtype="int64") for _ in docs]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Ints2d]) -> None:
        """Write to `token.pos_` and `token.morph`, the latter if features were in the training
        data. `overwrite` and `extend` say what happens to values that a token has already.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Ints2d]): The place of each token's value among the outputs of each
            attribute, N x A, for each doc.
        """
        hashes = make_hashes(self.attributes, numpy.concatenate(predictions), self.vocab)
        ends = numpy.cumsum([len(doc) for doc in docs])[:-1]
        for doc, own in zip(docs, numpy.split(hashes, ends), strict=True):
            if len(doc):
                set_values(doc, COLUMNS, self._merge(own, get_values(doc, COLUMNS)))

    def _merge(self, own: Ints2d, given: Ints2d) -> Ints2d:
        """RETURNS (Ints2d): The hashes to write, N x 2, of the predicted and the given ones."""
        overwrite = self.cfg["overwrite"]
        merged = numpy.where((own == 0) | ((given != 0) & (not overwrite)), given, own)
        if self.cfg["extend"] and self.attributes.has_morph:
            weaker, stronger = (given, own) if overwrite else (own, given)
            merged[:, 1] = merge_features(self.vocab, weaker[:, 1], stronger[:, 1])
        return merged


@Language.factory(
    "mtl_morphologizer",
    assigns=["token.morph", "token.pos"],
    default_config=Config().from_str(DEFAULT_CONFIG)["morphologizer"],
    default_score_weights={"morph_acc": 0.5, "pos_acc": 0.5, "morph_per_feat": None},
)
@checked("mtl_morphologizer")
def make_mtl_morphologizer(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    overwrite: bool,
    extend: bool,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskMorphologizer:
    """Construct a morphologizer that shares its encoder.

    model (Model[List[Doc], Floats2d]): Scores of each part of speech, and of each value of each
        feature, for each token.
    overwrite (bool): Whether to replace the parts of speech and features that a doc has already.
    extend (bool): Whether to keep the other features of a token that has some already. A feature
        with two values gets the predicted one if `overwrite` is set.
    label_smoothing (float): Share of each target that is spread over all values of its attribute,
        0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard tokens and rare values. The
        weight of a token is the mean weight of its classes, such as "POS/NOUN", "Case/Nom" and
        "Number/_" for no number.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskMorphologizer(
        nlp.vocab,
        model,
        name,
        overwrite=overwrite,
        extend=extend,
        scorer=scorer,
        label_smoothing=label_smoothing,
        loss=loss,
    )


show_as("mtl_morphologizer", "morphologizer")
