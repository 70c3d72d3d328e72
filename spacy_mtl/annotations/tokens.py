"""Layers with one label per token: tags, parts of speech, morphology, lemmas, entity links."""

from collections.abc import Sequence
from typing import ClassVar

import numpy
from spacy.attrs import IS_SPACE
from spacy.tokens import Doc
from spacy.training import Example

from ..types import Bools1d, Ints1d, Ints2d
from .base import AnnotationLayer, Comparison, Item, has_annotation, has_same_tokens


class TokenLayer(AnnotationLayer[Ints1d]):
    """A label for each token, stored in one of its attributes. 0 is a missing label.

    `read_gold` returns the hash of each predicted token's label, 0 where it is missing or no single
    gold token is aligned.

    attr (str): The attribute for `Doc.to_array`, such as "TAG".
    """

    attr: ClassVar[str]
    unit = "tokens"

    def is_annotated(self, doc: Doc) -> bool:
        return has_annotation(doc, self.attr)

    def get_labels(self, doc: Doc) -> list[str] | None:
        return [label for label in self.get_answer(doc) if label] or None

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        copy_attributes([self.attr], source, target, start)

    def strip(self, doc: Doc) -> None:
        set_attributes(doc, [self.attr], numpy.zeros((len(doc), 1), dtype="uint64"))

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        self.set_answer(doc, ["" if label in labels else label for label in self.get_answer(doc)])

    def read_gold(self, example: Example) -> Ints1d:
        if has_same_tokens(example):
            return example.reference.to_array(self.attr)  # type: ignore[return-value]
        return numpy.array([value or 0 for value in example.get_aligned(self.attr)], dtype="uint64")

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The labels, aligned as by `Scorer.score_token_attr`."""
        gold = {i: label for i, label in enumerate(self.get_answer(example.reference)) if label}
        if not gold:
            return None
        predicted = self.get_answer(example.predicted)
        found = {(j, predicted[i]) for i, j in align_tokens(example) if j in gold}
        return Comparison(
            {Item(i, i + 1, label) for i, label in gold.items()},
            {Item(i, i + 1, label) for i, label in found},
        )

    def get_answer(self, doc: Doc) -> list[str]:
        """RETURNS (List[str]): Each token's label, empty if it is missing."""
        return [doc.vocab.strings[value] for value in doc.to_array(self.attr).tolist()]

    def set_answer(self, doc: Doc, answer: Sequence[str]) -> None:
        """Replace all labels, unless tokens have been merged or split."""
        if len(answer) == len(doc):
            values = numpy.array([doc.vocab.strings.add(label) for label in answer], dtype="uint64")
            set_attributes(doc, [self.attr], values.reshape(-1, 1))


class Tags(TokenLayer):
    """Fine-grained parts of speech, in `token.tag_`."""

    name, attr = "tags", "TAG"
    attributes = ("token.tag",)
    score_key = "tag_acc"


class Pos(TokenLayer):
    """Universal parts of speech, in `token.pos_`."""

    name, attr = "pos", "POS"
    attributes = ("token.pos",)
    score_key = "pos_acc"


class Morphology(TokenLayer):
    """Morphological features as one label per token, such as "Case=Nom|Number=Sing", in
    `token.morph`; "_" if a token has none.
    """

    name, attr = "morphs", "MORPH"
    attributes = ("token.morph",)
    score_key = "morph_acc"


class Lemmas(TokenLayer):
    """Base forms, in `token.lemma_`."""

    name, attr = "lemmas", "LEMMA"
    attributes = ("token.lemma",)
    score_key = "lemma_acc"
    is_open = True


def copy_attributes(attrs: list[int | str], source: Doc, target: Doc, start: int) -> None:
    """Copy token attributes to a doc of the source's tokens from `start` on."""
    set_attributes(target, attrs, get_attributes(source, attrs)[start : start + len(target)])


def get_attributes(doc: Doc, attrs: list[int | str]) -> Ints2d:
    """RETURNS (Ints2d): Token attributes by token, as unsigned integers of 64 bits."""
    values = doc.to_array(attrs)
    return values.reshape(len(doc), len(attrs))  # type: ignore[return-value]


def set_attributes(doc: Doc, attrs: list[int | str], values: Ints2d) -> None:
    """Set token attributes.

    doc (Doc): The doc.
    attrs (List[Union[int, str]]): The attributes, as for `Doc.from_array`.
    values (Ints2d): Their values for each token, as unsigned integers of 64 bits.
    """
    doc.from_array(attrs, values)  # type: ignore[arg-type]


def align_tokens(example: Example) -> list[tuple[int, int]]:
    """RETURNS (List[Tuple[int, int]]): Each predicted token that is no white space and is aligned
    to a single gold token, and that token.
    """
    x2y = example.alignment.x2y
    is_space: Bools1d = example.predicted.to_array(IS_SPACE) == 1
    ours = numpy.flatnonzero((x2y.lengths == 1) & ~is_space).tolist()
    return [(i, int(x2y[i][0])) for i in ours]
