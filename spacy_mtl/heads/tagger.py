"""`mtl_tagger`: a tag for every token, in `token.tag_`."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy
from spacy.attrs import TAG
from spacy.language import Language
from spacy.pipeline.tagger import Tagger
from spacy.strings import get_string_id
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ..annotations.tokens import Tags
from ..arguments import Rate, Size, checked
from ..types import Bools2d, Floats2d, Ints1d, Settings, get_ops
from .base import show_as
from .classifier import ClassifierHead
from .layers import score_tokens
from .loss_weighting import LossWeighting
from .losses import one_hot

DEFAULT_CONFIG = """
[tagger]
overwrite = false
neg_prefix = "!"
label_smoothing = 0.0
loss = null
scorer = {"@scorers": "spacy.tagger_scorer.v1"}

[tagger.model]
@architectures = "spacy-mtl.TaggerHead.v1"

[tagger.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""


class MultiTaskTagger(ClassifierHead[Ints1d], Tagger):  # type: ignore[misc]
    """Tags tokens. spaCy's tagger is a base class for `isinstance` only."""

    layer = Tags()

    def get_gold_labels(self, doc: Doc) -> set[str]:
        # A tag may be among the labels with the prefix itself.
        tags, prefix = super().get_gold_labels(doc), self.cfg["neg_prefix"]
        return {tag.removeprefix(prefix) for tag in tags.difference(self.labels)}

    def get_answer(self, doc: Doc, prediction: Ints1d) -> list[str]:
        labels = self.labels
        return [labels[i] for i in prediction]

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        negative = {f"{self.cfg['neg_prefix']}{label}" for label in labels}
        super().remove_labels(doc, labels | negative)

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Ints1d]) -> None:
        """Write the tags to `token.tag_`. A tag that a token has already is replaced only if
        `overwrite` is set.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Ints1d]): The index of each token's label, for each doc.
        """
        index, _ = get_indices(self.labels, self.cfg["neg_prefix"])
        hashes = numpy.array([*index], dtype="uint64")
        for doc, ids in zip(docs, predictions, strict=True):
            tags = hashes[ids]
            if not self.cfg["overwrite"] and doc.has_annotation("TAG"):
                given = doc.to_array(TAG)
                tags = numpy.where(given, given, tags)
            if len(doc):
                doc.from_array(TAG, tags)  # type: ignore[arg-type]

    def decode(self, docs: Sequence[Doc], scores: Floats2d) -> list[Ints1d]:
        """RETURNS (List[Ints1d]): For each doc the index of each token's label."""
        guesses = get_ops(self.model).to_numpy(scores.argmax(axis=1))
        return numpy.split(guesses, numpy.cumsum([len(doc) for doc in docs])[:-1])

    def decode_empty(self, docs: Sequence[Doc]) -> list[Ints1d]:
        return [numpy.zeros(0, dtype="int64") for _ in docs]

    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        """RETURNS (Bools2d): The tags that the annotation allows for each token, N x C. All tags
        are allowed where the gold tag is missing, cannot be aligned, or is not among the labels.
        """
        index, others = get_indices(self.labels, self.cfg["neg_prefix"])
        tags = numpy.concatenate([self._read_tags(example) for example in examples])
        found, places = numpy.unique(tags, return_inverse=True)
        allowed = one_hot([index.get(tag, -1) for tag in found.tolist()], len(index))
        for row, tag in enumerate(found.tolist()):
            if tag in others:
                allowed[row] = True
                allowed[row, others[tag]] = False
        return allowed[places]

    def _read_tags(self, example: Example) -> Ints1d:
        tags: Ints1d | None = self.read_gold(example)
        return numpy.zeros(len(example.predicted), dtype="uint64") if tags is None else tags


@lru_cache(maxsize=8)
def get_indices(labels: tuple[str, ...], prefix: str) -> tuple[dict[int, int], dict[int, int]]:
    """RETURNS (Tuple[Dict[int, int], Dict[int, int]]): The index of each tag by its hash, and by
    the hash of the tag with the prefix.
    """
    index = {get_string_id(label): i for i, label in enumerate(labels)}
    others = {get_string_id(f"{prefix}{label}"): i for i, label in enumerate(labels) if prefix}
    return index, others


@Language.factory(
    "mtl_tagger",
    assigns=["token.tag"],
    default_config=Config().from_str(DEFAULT_CONFIG)["tagger"],
    default_score_weights={"tag_acc": 1.0},
)
@checked("mtl_tagger")
def make_mtl_tagger(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    overwrite: bool,
    neg_prefix: str,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskTagger:
    """Construct a tagger that shares its encoder.

    model (Model[List[Doc], Floats2d]): Scores of each label for each token.
    overwrite (bool): Whether to replace the tags that a doc has already.
    neg_prefix (str): A gold tag with this prefix rules out the tag for the token.
    label_smoothing (float): Share of each target that is spread over all labels, 0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard tokens and rare tags.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskTagger(
        nlp.vocab,
        model,
        name,
        overwrite=overwrite,
        scorer=scorer,
        neg_prefix=neg_prefix,
        label_smoothing=label_smoothing,
        loss=loss,
    )


show_as("mtl_tagger", "tagger")


@checked("spacy-mtl.TaggerHead.v1")
def build_tagger_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    dropout: Rate | None = None,
    nO: Size | None = None,
) -> Model[list[Doc], Floats2d]:
    """Build a linear layer over the vector of each token.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    dropout (Optional[float]): Dropout of the vectors; null for `[training] dropout`.
    nO (Optional[int]): The number of labels, by default set at initialization.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return score_tokens(tok2vec, dropout, nO)
