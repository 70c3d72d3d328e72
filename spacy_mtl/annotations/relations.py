"""The layer of relations between spans."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from spacy.tokens import Doc, Span
from spacy.training import Example

from ..attributes import CustomAttribute
from .base import AnnotationLayer, Comparison, Item, has_same_tokens

RELATIONS = CustomAttribute("relations")
# First character of the head, the one after its last, both of the child, the label, the score.
Answer: TypeAlias = Sequence[tuple[int, int, int, int, str, float]]


class Relation(NamedTuple):
    """A labelled relation from one span of a doc to another.

    head, child (Tuple[int, int]): The first token of each span, and the token after its last.
    label (str): The label.
    score (float): Its probability; 1 for a gold relation.
    """

    head: tuple[int, int]
    child: tuple[int, int]
    label: str
    score: float = 1.0


class Relations(AnnotationLayer[Sequence[Relation]]):
    """Relations between spans, in `doc._.relations`: a list of dicts such as `{"head": [0, 2],
    "child": [4, 5], "label": "visits", "score": 0.93}`, whose spans are in tokens. None is missing.

    `read_gold` returns the relations in predicted tokens, without those whose spans cannot be
    aligned.
    """

    name = "relations"
    attributes = ("doc._.relations",)
    unit = "relations"
    score_key = "rel_micro_f"
    detail_keys = ("rel_micro_p", "rel_micro_r")

    def is_annotated(self, doc: Doc) -> bool:
        return RELATIONS.read(doc) is not None

    def get_labels(self, doc: Doc) -> list[str] | None:
        found = get_relations(doc)
        return None if found is None else [relation.label for relation in found]

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        """Copy the relations whose spans are inside of the target."""
        found = get_relations(source)
        if found is not None:
            moved = [move(relation, -start) for relation in found]
            set_relations(target, [own for own in moved if fits(own, len(target))])

    def strip(self, doc: Doc) -> None:
        RELATIONS.write(doc, None)

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        found = get_relations(doc)
        if found is not None:
            set_relations(doc, [relation for relation in found if relation.label not in labels])

    def find_joined(self, doc: Doc) -> set[int]:
        """RETURNS (Set[int]): The tokens before which a cut would part the spans of a relation."""
        found = get_relations(doc) or ()
        bounds = [sorted([*head, *child]) for head, child, *_ in found]
        return {i for first, *_, last in bounds for i in range(first + 1, last)}

    def read_gold(self, example: Example) -> Sequence[Relation]:
        found = get_relations(example.reference) or []
        return found if has_same_tokens(example) else align(example.alignment.y2x, found)

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The relations. Each item is a head span with the first
        token of its child as the target.
        """
        gold = get_relations(example.reference)
        if gold is None:
            return None
        found = find_aligned(example)
        return Comparison(*({make_item(own) for own in side} for side in (gold, found)))

    def get_answer(self, doc: Doc) -> Answer | None:
        """RETURNS (Optional[List[Tuple]]): The characters of both spans, the label and the score of
        each relation; None if they are missing.
        """
        found = get_relations(doc)
        if found is None:
            return None
        spans = [(doc[slice(*own.head)], doc[slice(*own.child)], own) for own in found]
        return [
            (head.start_char, head.end_char, child.start_char, child.end_char, own.label, own.score)
            for head, child, own in spans
        ]

    def set_answer(self, doc: Doc, answer: Answer | None) -> None:
        """Replace the relations. Those with a span that begins or ends inside a token are left
        out.
        """
        self.strip(doc)
        if answer is None:
            return
        found = []
        for start, end, child_start, child_end, label, score in answer:
            head, child = doc.char_span(start, end), doc.char_span(child_start, child_end)
            if head is not None and child is not None:
                bounds = (head.start, head.end), (child.start, child.end)
                found.append(Relation(*bounds, label, score))
        set_relations(doc, found)


def get_relations(doc: Doc) -> list[Relation] | None:
    """RETURNS (Optional[List[Relation]]): The relations of a doc; None if they are missing."""
    found = RELATIONS.read(doc)
    if found is None:
        return None
    return [
        Relation(tuple(own["head"]), tuple(own["child"]), own["label"], own.get("score", 1.0))
        for own in found
    ]


def set_relations(doc: Doc, relations: Iterable[Relation]) -> None:
    """Replace the relations of a doc, sorted by their spans."""
    RELATIONS.write(
        doc,
        [
            {"head": [*head], "child": [*child], "label": label, "score": score}
            for head, child, label, score in sorted(relations)
        ],
    )


def get_relations_of(span: Span) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): The relations of a span, the value of `span._.relations`."""
    place = [span.start, span.end]
    found = RELATIONS.read(span.doc) or ()
    return [own for own in found if place in ([*own["head"]], [*own["child"]])]


def make_relation_arcs(doc: Doc) -> dict[str, list[dict[str, Any]]]:
    """Describe the relations of a doc as displaCy draws trees: `displacy.render(arcs, style="dep",
    manual=True)`.

    doc (Doc): The doc. Each span of a relation becomes one word, tagged with the label of its
        entity. Overlapping spans become one word too.
    RETURNS (Dict[str, List[Dict[str, Any]]]): The words, and an arc from head to child for each
        relation between two words.
    """
    found = get_relations(doc) or []
    starts = {*range(len(doc) + 1)}
    for relation in found:
        for first, last in relation[:2]:
            starts -= {*range(first + 1, last)}
    places = sorted(starts)
    words = [{"text": doc[a:b].text, "tag": doc[a].ent_type_} for a, b in pairwise(places) if a < b]
    word = {token: n for n, (a, b) in enumerate(pairwise(places)) for token in range(a, b)}
    arcs = []
    for (head, _), (child, _), label, _ in found:
        i, j = word[head], word[child]
        if i != j:
            direction = "right" if i < j else "left"
            arcs.append({"start": min(i, j), "end": max(i, j), "label": label, "dir": direction})
    return {"words": words, "arcs": arcs}


def move(relation: Relation, by: int) -> Relation:
    (a, b), (c, d) = relation.head, relation.child
    return relation._replace(head=(a + by, b + by), child=(c + by, d + by))


def fits(relation: Relation, length: int) -> bool:
    bounds = [*relation.head, *relation.child]
    return min(bounds) >= 0 and max(bounds) <= length


def find_aligned(example: Example) -> list[Relation]:
    """RETURNS (List[Relation]): The predicted relations in tokens of the gold doc."""
    found = get_relations(example.predicted) or []
    return found if has_same_tokens(example) else align(example.alignment.x2y, found)


def align(alignment: Any, relations: Iterable[Relation]) -> list[Relation]:
    """RETURNS (List[Relation]): The relations in other tokens, except those whose spans have no
    tokens there.
    """
    found = []
    for relation in relations:
        tokens = [alignment[slice(*span)] for span in relation[:2]]
        if all(map(len, tokens)):
            head, child = ((int(own[0]), int(own[-1]) + 1) for own in tokens)
            found.append(relation._replace(head=head, child=child))
    return found


def make_item(relation: Relation) -> Item:
    return Item(*relation.head, relation.label, relation.child[0])


if not Span.has_extension("relations"):
    Span.set_extension("relations", getter=get_relations_of)
