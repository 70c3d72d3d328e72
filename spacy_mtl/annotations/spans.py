"""Layers of labelled spans: entities, their links to a knowledge base, groups of spans."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy
from spacy.attrs import ENT_IOB, IS_SPACE
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example

from .base import AnnotationLayer, Comparison, Item, has_annotation, has_same_tokens
from .tokens import TokenLayer, copy_attributes

DEFAULT_SPANS_KEY = "sc"  # of spaCy's span categorizer
OUTSIDE = 2  # of ENT_IOB
Place = tuple[int, int, str]  # start, end, label


class Entities(AnnotationLayer[Sequence[str | None]]):
    """Named entities, in `doc.ents`. They do not overlap.

    `read_gold` returns the BILUO tag of each predicted token, None where it is missing or cannot be
    aligned, as `Example.get_aligned_ner` does.
    """

    name = "ents"
    attributes = ("doc.ents", "token.ent_iob", "token.ent_type", "token.ent_kb_id")
    unit = "entities"
    score_key = "ents_f"
    detail_keys = ("ents_p", "ents_r")

    def is_annotated(self, doc: Doc) -> bool:
        return has_annotation(doc, "ENT_IOB")

    def get_labels(self, doc: Doc) -> list[str] | None:
        return [ent.label_ for ent in doc.ents] if self.is_annotated(doc) else None

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        copy_attributes(["ENT_IOB", "ENT_TYPE", "ENT_ID"], source, target, start)

    def strip(self, doc: Doc) -> None:
        doc.set_ents([], default="missing")

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        """Remove the entities of some labels. Their tokens are outside then, not missing."""
        removed = [ent for ent in doc.ents if ent.label_ in labels]
        doc.set_ents([], outside=removed, default="unmodified")

    def find_joined(self, doc: Doc) -> set[int]:
        return find_inside(doc.ents)

    def read_gold(self, example: Example) -> Sequence[str | None]:
        if not has_same_tokens(example):
            return example.get_aligned_ner()
        doc = example.reference
        tags = numpy.full(len(doc), None, dtype=object)
        if doc.has_annotation("ENT_IOB"):
            tags[(doc.to_array(ENT_IOB) == OUTSIDE) | (doc.to_array(IS_SPACE) == 1)] = "O"
            for ent in doc.ents:
                tags[ent.start : ent.end] = f"I-{ent.label_}"
                tags[ent.start], tags[ent.end - 1] = f"B-{ent.label_}", f"L-{ent.label_}"
                if len(ent) == 1:
                    tags[ent.start] = f"U-{ent.label_}"
        return tags.tolist()

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The entities, aligned as by spaCy's `get_ner_prf`, except
        predicted ones where the gold labels are missing.
        """
        gold = example.reference
        if not self.is_annotated(gold):
            return None
        found = {
            item
            for item in align_spans(example, example.predicted.ents)
            if all(token.ent_iob for token in gold[item.start : item.end])
        }
        return Comparison({Item(e.start, e.end, e.label_) for e in gold.ents}, found)

    def get_answer(self, doc: Doc) -> list[Place]:
        """RETURNS (List[Tuple[int, int, str]]): For each entity its first character, the one after
        its last, and its label.
        """
        return [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]

    def set_answer(self, doc: Doc, answer: Iterable[Place]) -> None:
        """Replace the entities. Entities that begin or end inside a token are left out."""
        doc.set_ents(list(find_spans(doc, answer)))


class EntityLinks(TokenLayer):
    """The ids of entities in a knowledge base, in `token.ent_kb_id_` of the entities' tokens."""

    name, attr = "links", "ENT_KB_ID"
    attributes = ("token.ent_kb_id",)
    score_key = "nel_micro_f"
    detail_keys = ("nel_micro_p", "nel_micro_r")
    is_open = True

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The ids of the entities that both docs have, as
        `Scorer.score_links` compares them.
        """
        if not self.is_annotated(example.reference):
            return None
        gold = {(ent.start_char, ent.end_char): ent for ent in example.reference.ents}
        both = [
            (gold[place], ent)
            for ent in example.predicted.ents
            if (place := (ent.start_char, ent.end_char)) in gold
        ]
        return Comparison(
            {Item(ent.start, ent.end, ent.kb_id_) for ent, _ in both if ent.kb_id},
            {Item(ent.start, ent.end, found.kb_id_) for ent, found in both if found.kb_id},
        )


class SpanGroups(AnnotationLayer[Mapping[str, Sequence[Place]]]):
    """Groups of spans that may overlap, in `doc.spans`: all groups, or the one of a component.

    `read_gold` returns the spans of each group in predicted tokens, without those that cannot be
    aligned. A group that is missing is not annotated. The score key of all groups is that of
    spaCy's default group, "sc".

    key (Optional[str]): The only group; None for all.
    """

    name = "spans"
    attributes = ("doc.spans",)
    unit = "spans"

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        if key is not None:
            self.name = f"spans_{key}"
        f, p, r = (f"spans_{DEFAULT_SPANS_KEY if key is None else key}_{kind}" for kind in "fpr")
        self.score_key, self.detail_keys = f, (p, r)

    def get_part(self, settings: Mapping[str, Any]) -> "SpanGroups":
        return SpanGroups(settings.get("spans_key"))

    def find_parts(self, score_keys: Iterable[str]) -> list["SpanGroups"]:
        matches = [re.fullmatch("spans_(.+)_f", key) for key in score_keys]
        return [SpanGroups(match[1]) for match in matches if match] or [self]

    def name_score(self, key: str) -> str:
        default = f"spans_{DEFAULT_SPANS_KEY}_"
        is_other = self.key is not None and key.startswith(default)
        return f"spans_{self.key}_{key.removeprefix(default)}" if is_other else key

    def get_groups(self, doc: Doc) -> dict[str, SpanGroup]:
        """RETURNS (Dict[str, SpanGroup]): The groups of a doc that belong to the layer."""
        groups = dict(doc.spans.items())
        return {key: group for key, group in groups.items() if self.key in (None, key)}

    def is_annotated(self, doc: Doc) -> bool:
        return bool(self.get_groups(doc))

    def get_labels(self, doc: Doc) -> list[str] | None:
        if not self.is_annotated(doc):
            return None
        return [span.label_ for group in self.get_groups(doc).values() for span in group]

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        end = start + len(target)
        for key, group in self.get_groups(source).items():
            inside = [span for span in group if start <= span.start and span.end <= end]
            target.spans[key] = [copy_span(span, target, start) for span in inside]

    def strip(self, doc: Doc) -> None:
        for key in self.get_groups(doc):
            del doc.spans[key]

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        for key, group in self.get_groups(doc).items():
            doc.spans[key] = [span for span in group if span.label_ not in labels]

    def find_joined(self, doc: Doc) -> set[int]:
        return find_inside(span for group in self.get_groups(doc).values() for span in group)

    def read_gold(self, example: Example) -> Mapping[str, Sequence[Place]]:
        groups = self.get_groups(example.reference)
        if has_same_tokens(example):
            return {key: [get_place(span) for span in group] for key, group in groups.items()}
        return {
            key: [
                get_place(span) for span in example.get_aligned_spans_y2x(group, allow_overlap=True)
            ]
            for key, group in groups.items()
        }

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The spans of the groups that the gold doc has, aligned as
        by `Scorer.score_spans`.
        """
        groups = self.get_groups(example.reference)
        if not groups:
            return None
        found = [
            span
            for key in groups
            for span in example.get_aligned_spans_x2y(
                example.predicted.spans.get(key, []), allow_overlap=True
            )
        ]
        gold = [span for group in groups.values() for span in group]
        return Comparison(
            {Item(*get_place(span)) for span in gold}, {Item(*get_place(span)) for span in found}
        )

    def get_answer(self, doc: Doc) -> dict[str, list[Place]]:
        """RETURNS (Dict[str, List[Tuple[int, int, str]]]): For each span of each group its first
        character, the one after its last, and its label.
        """
        return {
            key: [(span.start_char, span.end_char, span.label_) for span in group]
            for key, group in self.get_groups(doc).items()
        }

    def set_answer(self, doc: Doc, answer: Mapping[str, Iterable[Place]]) -> None:
        """Replace the spans. Spans that begin or end inside a token are left out."""
        self.strip(doc)
        for key, places in answer.items():
            doc.spans[key] = list(find_spans(doc, places))


class Answers(SpanGroups):
    """Answers to the question of a doc of two texts, in a group of `doc.spans`. An empty group says
    that the context has no answer. The layer is not registered: it is a group of spans.
    """

    is_open = True

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.score_key, self.detail_keys = "qa_f1", ("qa_exact",)


def get_place(span: Span) -> Place:
    return span.start, span.end, span.label_


def find_inside(spans: Iterable[Span]) -> set[int]:
    """RETURNS (Set[int]): The tokens of the spans except the first of each."""
    return {i for span in spans for i in range(span.start + 1, span.end)}


def find_spans(doc: Doc, places: Iterable[Place]) -> Iterator[Span]:
    """YIELDS (Span): The span of each place in characters, if it is one of whole tokens."""
    for start, end, label in places:
        if (span := doc.char_span(start, end, label=label)) is not None:
            yield span


def copy_span(span: Span, target: Doc, start: int) -> Span:
    """RETURNS (Span): The span in a doc of the same tokens from `start` on."""
    return Span(
        target,
        span.start - start,
        span.end - start,
        span.label,
        kb_id=span.kb_id,
        span_id=span.id,
    )


def align_spans(example: Example, spans: Iterable[Span]) -> Iterator[Item]:
    """YIELDS (Item): Each predicted span with its first and last aligned tokens."""
    for span in spans:
        tokens = example.alignment.x2y[span.start : span.end]
        if len(tokens):
            yield Item(int(tokens[0]), int(tokens[-1]) + 1, span.label_)
