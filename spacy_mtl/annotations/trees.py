"""Layers over sentences: where they start, and their dependency trees."""

from collections.abc import Sequence

import numpy
from spacy.symbols import dep
from spacy.tokens import Doc
from spacy.training import Example

from ..types import Ints2d
from .base import AnnotationLayer, Comparison, Item, has_annotation, has_same_tokens
from .tokens import align_tokens, copy_attributes, get_attributes, set_attributes

Heads = Sequence[int | None]
Labels = Sequence[str | None]
LABEL = "S"  # of a sentence


class Trees(AnnotationLayer[tuple[Heads, Labels]]):
    """Dependency trees, in `token.head` and `token.dep_`.

    `read_gold` returns the head of each predicted token and its relation to the head, None where
    they are missing or cannot be aligned. The root is its own head.
    """

    name = "trees"
    attributes = ("token.dep", "token.head")
    unit = "tokens"
    score_key = "dep_las"
    detail_keys = ("dep_uas",)

    def is_annotated(self, doc: Doc) -> bool:
        return has_annotation(doc, "DEP")

    def get_labels(self, doc: Doc) -> list[str] | None:
        return [token.dep_ for token in doc if token.dep] or None

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        copy_attributes(["HEAD", "DEP"], source, target, start)

    def strip(self, doc: Doc) -> None:
        """Remove the trees. Sentences stay as they are."""
        replace_relations(doc, numpy.zeros((len(doc), 2), dtype="uint64"))

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        values = get_attributes(doc, ["HEAD", "DEP"])
        values[[token.dep_ in labels for token in doc]] = 0
        replace_relations(doc, values)

    def read_gold(self, example: Example) -> tuple[Heads, Labels]:
        if not has_same_tokens(example):
            aligned = example.get_aligned_parse(projectivize=False)  # type: ignore[no-untyped-call]
            heads, labels = aligned
        else:
            heads = [token.head.i for token in example.reference]
            labels = [token.dep_ for token in example.reference]
        heads = [head if label else None for head, label in zip(heads, labels, strict=True)]
        return heads, [label or None for label in labels]

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The relations with their heads, as `Scorer.score_deps`
        finds them, but without predictions that cannot be aligned.
        """
        gold = {Item(t.i, t.i + 1, t.dep_, t.head.i) for t in example.reference if t.dep}
        if not gold:
            return None
        known, aligned = {item.start for item in gold}, dict(align_tokens(example))
        predicted = {
            Item(j, j + 1, token.dep_, aligned.get(token.head.i, -1))
            for i, j in aligned.items()
            if j in known
            for token in [example.predicted[i]]
        }
        return Comparison(gold, predicted)

    def get_answer(self, doc: Doc) -> list[tuple[int, str]]:
        """RETURNS (List[Tuple[int, str]]): Each token's head and relation, empty if missing."""
        return [(token.head.i, token.dep_) for token in doc]

    def set_answer(self, doc: Doc, answer: Sequence[tuple[int, str]]) -> None:
        """Replace the trees, unless tokens have been merged or split."""
        if len(answer) == len(doc):
            array = numpy.zeros((len(doc), 2), dtype="uint64")
            for i, (head, label) in enumerate(answer):
                array[i] = (head - i) % 2**64, doc.vocab.strings.add(label)
            set_attributes(doc, ["HEAD", "DEP"], array)


class Sentences(AnnotationLayer[Sequence[bool | None]]):
    """Sentence boundaries, in `token.is_sent_start`.

    `read_gold` returns whether each predicted token starts a sentence, None where that is missing.
    """

    name = "sents"
    attributes = ("token.is_sent_start", "doc.sents")
    unit = "sentences"
    score_key = "sents_f"
    detail_keys = ("sents_p", "sents_r")

    def is_annotated(self, doc: Doc) -> bool:
        return has_annotation(doc, "SENT_START")

    def get_labels(self, doc: Doc) -> list[str] | None:
        return [LABEL for _ in doc.sents] if self.is_annotated(doc) else None

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        copy_attributes(["SENT_START"], source, target, start)

    def strip(self, doc: Doc) -> None:
        values = numpy.zeros((len(doc), 1), dtype="uint64")
        values[:1] = 1  # as in a new doc
        set_attributes(doc, ["SENT_START"], values)

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        if LABEL in labels:
            self.strip(doc)

    def read_gold(self, example: Example) -> Sequence[bool | None]:
        gold = self.get_answer(example.reference)
        if has_same_tokens(example):
            return gold
        x2y, y2x = example.alignment.x2y, example.alignment.y2x
        found: list[bool | None] = []
        for token in example.predicted:
            values = [gold[j] for j in x2y[token.i]]
            found.append(False if values and None not in values else None)
        for j, is_start in enumerate(gold):
            if is_start and y2x.lengths[j]:
                found[int(y2x[j][0])] = True
        return found

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The sentences as spans, as `Scorer.score_spans` does."""
        if not self.is_annotated(example.reference):
            return None
        spans = example.predicted.sents if self.is_annotated(example.predicted) else ()
        found = example.get_aligned_spans_x2y(spans)
        return Comparison(
            {Item(sent.start, sent.end, LABEL) for sent in example.reference.sents},
            {Item(sent.start, sent.end, LABEL) for sent in found},
        )

    def get_answer(self, doc: Doc) -> list[bool | None]:
        """RETURNS (List[Optional[bool]]): Whether each token starts a sentence."""
        names = {0: None, 1: True}
        return [names.get(value, False) for value in doc.to_array("SENT_START").tolist()]

    def set_answer(self, doc: Doc, answer: Sequence[bool | None]) -> None:
        """Replace the boundaries, unless tokens have been merged or split."""
        if len(answer) == len(doc):
            values = [0 if value is None else (1 if value else -1) for value in answer]
            array = numpy.array(values, dtype="int64").astype("uint64")
            set_attributes(doc, ["SENT_START"], array.reshape(-1, 1))


def replace_relations(doc: Doc, values: Ints2d) -> None:
    """Replace heads and relations, but keep the sentence boundaries.

    doc (Doc): The doc.
    values (Ints2d): For each token the offset of its head and its relation, 0 if missing.
    """
    starts = get_attributes(doc, ["SENT_START"])
    # spaCy finds the children of tokens anew only if there is a relation.
    labelled = values.copy()
    labelled[:, 1] = dep
    set_attributes(doc, ["HEAD", "DEP"], labelled)
    set_attributes(doc, ["DEP"], values[:, 1:])
    set_attributes(doc, ["SENT_START"], starts)
