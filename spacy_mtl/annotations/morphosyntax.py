"""The layer of parts of speech and morphological features together."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy
from spacy.morphology import Morphology as SpacyMorphology
from spacy.tokens import Doc
from spacy.training import Example

from ..types import Ints2d
from .base import AnnotationLayer, Comparison, Item
from .tokens import Morphology, Pos, align_tokens

Answer: TypeAlias = tuple[Sequence[str], Sequence[str]]  # each token's part of speech and features
POS = "POS"  # the field of parts of speech, as in labels of spaCy's morphologizer
EMPTY: str = SpacyMorphology.EMPTY_MORPH


class Morphosyntax(AnnotationLayer[Ints2d]):
    """Parts of speech and morphological features, in `token.pos_` and `token.morph`. Either may be
    missing.

    The label of a token is such as "POS=NOUN|Case=Nom|Number=Sing". A head learns its parts. The
    part "_" stands for a token without features. A token with missing features has neither.

    `read_gold` returns the hashes of each predicted token's part of speech and features, N x 2. 0
    is a missing one.

    The layer is not registered: `Pos` and `Morphology` are, each on its own.
    """

    name = Morphology.name  # of the main part
    parts = Pos(), Morphology()
    attributes = (*Morphology.attributes, *Pos.attributes)
    unit = "tokens"
    score_key = Morphology.score_key
    detail_keys = (Pos.score_key,)

    @property
    def comparison_key(self) -> str:
        return "pos_morph_acc"

    def is_annotated(self, doc: Doc) -> bool:
        return any(layer.is_annotated(doc) for layer in self.parts)

    def get_labels(self, doc: Doc) -> list[str] | None:
        return [label for label in make_labels(*self.get_answer(doc)) if label] or None

    def split_label(self, label: str) -> list[str]:
        return label.split("|")

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        for layer in self.parts:
            layer.copy(source, target, start)

    def strip(self, doc: Doc) -> None:
        for layer in self.parts:
            layer.strip(doc)

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        """Remove parts of labels. The features of a token are missing if "_" and all the token's
        features are removed.
        """
        pos, morphs = self.get_answer(doc)
        kept = {morph: remove_features(morph, labels) for morph in set(morphs)}
        self.set_answer(
            doc,
            (
                ["" if f"{POS}={value}" in labels else value for value in pos],
                [kept[morph] for morph in morphs],
            ),
        )

    def read_gold(self, example: Example) -> Ints2d:
        columns = [layer.read_gold(example) for layer in self.parts]
        return numpy.stack(columns, axis=1)

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The labels, aligned as by `Scorer.score_token_attr`.
        Predictions lack what is missing in the gold label.
        """
        gold_pos, gold_morphs = self.get_answer(example.reference)
        gold = {i: lab for i, lab in enumerate(make_labels(gold_pos, gold_morphs)) if lab}
        if not gold:
            return None
        pos, morphs = self.get_answer(example.predicted)
        pairs = [(i, j) for i, j in align_tokens(example) if j in gold]
        found = make_labels(
            (pos[i] if gold_pos[j] else "" for i, j in pairs),
            (morphs[i] if gold_morphs[j] else "" for i, j in pairs),
        )
        return Comparison(
            {Item(i, i + 1, label) for i, label in gold.items()},
            {Item(j, j + 1, label) for (_, j), label in zip(pairs, found, strict=True)},
        )

    def get_answer(self, doc: Doc) -> Answer:
        """RETURNS (Tuple[List[str], List[str]]): Each token's part of speech and its features,
        empty if they are missing.
        """
        pos, morph = self.parts
        return pos.get_answer(doc), morph.get_answer(doc)

    def set_answer(self, doc: Doc, answer: Answer) -> None:
        """Replace all labels, unless tokens have been merged or split."""
        for layer, values in zip(self.parts, answer, strict=True):
            layer.set_answer(doc, values)


def make_labels(pos: Iterable[str], morphs: Iterable[str]) -> list[str]:
    """RETURNS (List[str]): The label of each token, empty if both parts are missing."""
    pairs = zip(pos, morphs, strict=True)
    return ["|".join(filter(None, (p and f"{POS}={p}", morph))) for p, morph in pairs]


def remove_features(morph: str, labels: set[str]) -> str:
    """RETURNS (str): Features without some of them; empty, for missing, if "_" is removed too."""
    kept = [feature for feature in morph.split("|") if feature not in {*labels, "", EMPTY}]
    is_missing = not morph or EMPTY in labels
    return "|".join(kept) or ("" if is_missing else EMPTY)
