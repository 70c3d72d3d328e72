"""`mtl_lemmatizer`: base forms, in `token.lemma_`."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal

import numpy
from spacy.attrs import LEMMA, ORTH
from spacy.language import Language
from spacy.pipeline.edit_tree_lemmatizer import EditTreeLemmatizer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ..annotations.tokens import Lemmas
from ..arguments import Count, Rate, checked
from ..corpora.scope import is_for
from ..errors import Errors
from ..types import Bools2d, Floats2d, Ints1d, Settings, get_ops
from .base import show_as
from .classifier import ClassifierHead
from .edits import apply_edit, find_edit, has_edit, parse_edit
from .loss_weighting import LossWeighting
from .losses import one_hot

DEFAULT_CONFIG = """
[lemmatizer]
backoff = "orth"
min_tree_freq = 3
overwrite = false
top_k = 3
label_smoothing = 0.0
loss = null
scorer = {"@scorers": "spacy.lemmatizer_scorer.v1"}

[lemmatizer.model]
@architectures = "spacy-mtl.TaggerHead.v1"

[lemmatizer.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
Backoff = Literal["orth", "lower", "norm"]
ODD = 0x9E3779B97F4A7C15


class MultiTaskLemmatizer(ClassifierHead[Ints1d], EditTreeLemmatizer):  # type: ignore[misc]
    """Predicts the edit of each token's form to its lemma. spaCy's lemmatizer is a base class for
    `isinstance` only.
    """

    layer = Lemmas()
    CFG = {**ClassifierHead.CFG, "backoff": str | None, "min_tree_freq": int, "top_k": int}

    def add_label(self, label: str) -> int:
        """Add a label, before the model is initialized.

        label (str): An edit, as `heads.edits.find_edit` returns it.
        RETURNS (int): 0 if the head has the label already, otherwise 1.
        RAISES (ValueError): spaCy's E187 if the label is no string, M032 if the model is
            initialized, M096 if the label is no edit.
        """
        self._check_edits([label])
        return super().add_label(label)

    def _check_edits(self, labels: Iterable[str]) -> None:
        for label in labels:
            if isinstance(label, str) and parse_edit(label) is None:
                raise ValueError(Errors.M096.format(name=self.name, label=label))

    def find_labels(self, get_examples: Callable[[], Iterable[Example]]) -> list[str]:
        """RETURNS (List[str]): The edits that occur at least `min_tree_freq` times."""
        pairs, edits = Counter[tuple[int, int]](), Counter[str]()
        for doc in (eg.reference for eg in get_examples()):
            if is_for(doc, self.name) and self.layer.is_annotated(doc):
                pairs.update(map(tuple, doc.to_array([ORTH, LEMMA]).tolist()))
        for (form, lemma), n in pairs.items():
            edit = find_edit(self.vocab.strings[form], self.vocab.strings[lemma])
            edits.update({edit: n} if edit else {})
        return sorted(edit for edit, n in edits.items() if n >= self.cfg["min_tree_freq"])

    def get_gold_labels(self, doc: Doc) -> set[str]:
        """RETURNS (Set[str]): None: lemmas may have edits that are not among the labels."""
        return set()

    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        """RETURNS (Bools2d): The edit of each token, N x C. All edits are allowed where the lemma
        is missing or cannot be aligned, or its edit is not among the labels.
        """
        index = get_index(self.labels)
        forms = numpy.concatenate([eg.predicted.to_array(ORTH) for eg in examples])
        lemmas = numpy.concatenate([self._read_lemmas(eg) for eg in examples])
        first, place = find_distinct(forms, lemmas)
        strings = self.vocab.strings
        pairs = zip(forms[first].tolist(), lemmas[first].tolist(), strict=True)
        edits = [find_edit(strings[form], strings[lemma]) for form, lemma in pairs]
        return one_hot([index.get(edit, -1) for edit in edits], len(index))[place]

    def _read_lemmas(self, example: Example) -> Ints1d:
        lemmas: Ints1d | None = self.read_gold(example)
        return numpy.zeros(len(example.predicted), dtype="uint64") if lemmas is None else lemmas

    def decode(self, docs: Sequence[Doc], scores: Floats2d) -> list[Ints1d]:
        """Apply to each form its best edit that fits, of the `top_k` best.

        docs (Sequence[Doc]): The batch, with at least one token.
        scores (Floats2d): The scores of the edits, N x C.
        RETURNS (List[Ints1d]): For each doc the hash of each token's lemma; 0 if no edit fits and
            there is no back-off.
        """
        ops = get_ops(self.model)
        forms = numpy.concatenate([doc.to_array(ORTH) for doc in docs])
        lemmas = self._get_backoff(docs)
        rows = numpy.arange(len(forms))
        for _ in range(min(self.cfg["top_k"], scores.shape[1])):
            best = scores.argmax(axis=1)
            found = self._edit(forms[rows], ops.to_numpy(best))
            lemmas[rows[found > 0]] = found[found > 0]
            left = numpy.flatnonzero(found == 0)
            if not len(left):
                break
            rows, scores, best = rows[left], scores[left], best[left]
            scores[ops.xp.arange(len(left)), best] = -numpy.inf
        return numpy.split(lemmas, numpy.cumsum([len(doc) for doc in docs])[:-1])

    def _get_backoff(self, docs: Sequence[Doc]) -> Ints1d:
        backoff: str | None = self.cfg["backoff"]
        if backoff is None:
            return numpy.zeros(sum(map(len, docs)), dtype="uint64")
        return numpy.concatenate([doc.to_array(backoff.upper()) for doc in docs])

    def _edit(self, forms: Ints1d, edits: Ints1d) -> Ints1d:
        """RETURNS (Ints1d): The hash of each form's lemma by an edit, 0 if the edit does not fit.
        Forms are hashes, and edits are numbers of labels.
        """
        first, place = find_distinct(forms, edits)
        labels, strings = self.labels, self.vocab.strings
        pairs = zip(forms[first].tolist(), edits[first].tolist(), strict=True)
        texts = [(labels[edit], strings[form]) for form, edit in pairs]
        lemmas = [apply_edit(*pair) if has_edit(pair[1]) else None for pair in texts]
        hashes = [strings.add(lemma) if lemma else 0 for lemma in lemmas]
        return numpy.array(hashes, dtype="uint64")[place]

    def decode_empty(self, docs: Sequence[Doc]) -> list[Ints1d]:
        return [numpy.zeros(0, dtype="uint64") for _ in docs]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Ints1d]) -> None:
        """Write the lemmas to `token.lemma_`. A lemma that a token has already is replaced only if
        `overwrite` is set.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Ints1d]): The hash of each token's lemma, 0 for none, for each doc.
        """
        for doc, lemmas in zip(docs, predictions, strict=True):
            given = doc.to_array(LEMMA)
            stays = (lemmas == 0) | ((given > 0) & (not self.cfg["overwrite"]))
            if len(doc):
                doc.from_array(LEMMA, numpy.where(stays, given, lemmas))  # type: ignore[arg-type]

    def _load_cfg(self, cfg: object) -> None:
        super()._load_cfg(cfg)
        self._check_edits(self.labels)


@lru_cache(maxsize=8)
def get_index(labels: tuple[str, ...]) -> dict[str | None, int]:
    """RETURNS (Dict[str, int]): The number of each label."""
    return {label: i for i, label in enumerate(labels)}


def find_distinct(a: Ints1d, b: Ints1d) -> tuple[Ints1d, Ints1d]:
    """Find the distinct pairs of two arrays of numbers.

    a, b (Ints1d): The numbers of N pairs.
    RETURNS (Tuple[Ints1d, Ints1d]): The first place of each of D distinct pairs, D, and the number
        of each pair among them, N.
    """
    # One number per pair. Two different pairs have the same number once in 2 ** 64 pairs.
    keys = a.astype("uint64") * numpy.uint64(ODD) + b.astype("uint64")
    _, first, place = numpy.unique(keys, return_index=True, return_inverse=True)
    return first, place


@Language.factory(
    "mtl_lemmatizer",
    assigns=["token.lemma"],
    default_config=Config().from_str(DEFAULT_CONFIG)["lemmatizer"],
    default_score_weights={"lemma_acc": 1.0},
)
@checked("mtl_lemmatizer")
def make_mtl_lemmatizer(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    backoff: Backoff | None,
    min_tree_freq: Count,
    overwrite: bool,
    top_k: Count,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskLemmatizer:
    """Construct a lemmatizer that shares its encoder.

    model (Model[List[Doc], Floats2d]): Scores of each edit for each token.
    backoff (Optional[str]): The lemma of a token whose form no edit fits: its form, "orth", the
        form in lower case, "lower", or its norm, "norm". None leaves the lemma as it is.
    min_tree_freq (int): The least number of tokens with an edit, for it to become a label.
    overwrite (bool): Whether to replace the lemmas that a doc has already.
    top_k (int): The number of edits to try for each token, the most probable ones.
    label_smoothing (float): Share of each target that is spread over all edits, 0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard tokens and rare edits.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskLemmatizer(
        nlp.vocab,
        model,
        name,
        backoff=backoff,
        min_tree_freq=min_tree_freq,
        overwrite=overwrite,
        top_k=top_k,
        scorer=scorer,
        label_smoothing=label_smoothing,
        loss=loss,
    )


show_as("mtl_lemmatizer", "trainable_lemmatizer")
