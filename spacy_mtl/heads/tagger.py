"""`mtl_tagger`: a tag for every token, in `token.tag_`."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy
from spacy.language import Language
from spacy.pipeline.tagger import Tagger
from spacy.strings import get_string_id
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ..arguments import Rate, Size, checked
from ..encoder.host import isolated
from ..types import Bools2d, Floats2d
from .gold import get_tags
from .head import Head, check_outputs, score_tokens, show_as
from .losses import cross_entropy, one_hot
from .unit_loss import UnitLoss

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


class MultiTaskTagger(Head, Tagger):
    """spaCy's tagger with a true mean loss, for any number of other heads beside it."""

    @isolated
    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Find the labels and size the model.

        get_examples (Callable): Returns a representative sample of examples.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Sequence[str]]): The tags, as written by `init labels`. Otherwise they are
            looked up in the examples.
        RAISES (ValueError): M035 if they disagree with the model, M038 if a weight names another.
        """
        labels = self.choose_labels(get_examples, labels)
        super().initialize(self.get_sample, nlp=nlp, labels=labels)
        check_outputs(self.name, self.model, self.labels)
        self.set_class_weights(get_examples)

    def is_annotated(self, doc: Doc) -> bool:
        return doc.has_annotation("TAG")

    def get_gold_labels(self, doc: Doc) -> set[str]:
        prefix = self.cfg["neg_prefix"]
        return {t.tag_.removeprefix(prefix) for t in doc if t.tag_ and t.tag_ not in self.labels}

    def find_labels(self, docs: Iterable[Doc]) -> list[str]:
        """RETURNS (List[str]): The tags in gold docs, as spaCy's tagger finds them."""
        return sorted({token.tag_ for doc in docs for token in doc if token.tag_})

    def get_answer(self, doc: Doc, prediction: Any) -> list[str]:
        return [self.labels[i] for i in prediction]

    def set_answer(self, doc: Doc, answer: list[str]) -> None:
        if len(answer) == len(doc):  # no tokens have been merged or split since
            for token, tag in zip(doc, answer, strict=True):
                token.tag_ = tag

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        for token in doc:
            if token.tag_.removeprefix(self.cfg["neg_prefix"]) in labels:
                token.tag_ = ""

    def set_annotations(self, docs: Iterable[Doc], batch_tag_ids: Any) -> None:
        """Write the tags to `token.tag_`, unless a token has one and `overwrite` is false.

        docs (Iterable[Doc]): The docs.
        batch_tag_ids: What `predict` returned for them.
        """
        super().set_annotations(docs, batch_tag_ids)
        self.keep_answers(docs, batch_tag_ids)

    @isolated
    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Predict the tags of a batch of docs, without modifying them.

        docs (Iterable[Doc]): The docs.
        RETURNS (List[Ints1d]): For each doc the index of each token's label.
        """
        docs = list(docs)
        if self.skip_empty(docs):
            return [numpy.zeros(0, dtype="int64") for _ in docs]
        guesses = self.model.ops.to_numpy(self.get_scores(docs).argmax(axis=1))
        return numpy.split(guesses, numpy.cumsum([len(doc) for doc in docs])[:-1])

    def get_mean_loss(
        self, examples: Sequence[Example], scores: Floats2d
    ) -> tuple[float, Floats2d, int]:
        allowed = self.model.ops.asarray(self.get_allowed(examples))
        smoothing = self.cfg["label_smoothing"]
        return cross_entropy(scores, allowed, label_smoothing=smoothing, focus=self.get_focus())

    def get_allowed(self, examples: Sequence[Example]) -> Bools2d:
        """RETURNS (Bools2d): The tags that the annotation allows for each token; all where there
        is none, where it cannot be aligned, or where the tag is not among the labels.
        """
        index, others = get_indices(self.labels, self.cfg["neg_prefix"])
        tags = numpy.concatenate([get_tags(eg, self.name) for eg in examples])
        found, places = numpy.unique(tags, return_inverse=True)
        allowed = one_hot([index.get(tag, -1) for tag in found.tolist()], len(index), numpy)
        for row, tag in enumerate(found.tolist()):
            if tag in others:
                allowed[row] = True
                allowed[row, others[tag]] = False
        return allowed[places]


@lru_cache(maxsize=8)
def get_indices(labels: tuple[str, ...], prefix: str) -> tuple[dict[int, int], dict[int, int]]:
    """RETURNS (Tuple[Dict[int, int], Dict[int, int]]): The index of each tag by its hash, and by
    that of the tag with the prefix.
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
    model: Model,
    overwrite: bool,
    neg_prefix: str,
    label_smoothing: Rate,
    loss: UnitLoss | None,
    scorer: Callable | None,
) -> MultiTaskTagger:
    """Construct a tagger that shares its encoder.

    model (Model[List[Doc], Floats2d]): Scores of each label for each token.
    overwrite (bool): Whether to replace tags that a doc has already.
    neg_prefix (str): A gold tag with this prefix says what the token is not.
    label_smoothing (float): Share of each target that is spread over all labels, 0 to 1.
    loss (Optional[UnitLoss]): `spacy-mtl.UnitLoss.v1`, for hard tokens and rare tags.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskTagger(
        nlp.vocab,
        model,
        name=name,
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
    """Build a linear layer over each token's vector.

    tok2vec (Model[List[Doc], List[Floats2d]]): Where the vectors come from: a listener or a model
        of its own.
    dropout (Optional[float]): Dropout of the vectors; `[training] dropout` if it is not given.
    nO (Optional[int]): The number of labels, found at initialization.
    """
    return score_tokens(tok2vec, dropout, nO)
