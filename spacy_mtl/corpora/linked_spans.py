"""Reads relations between spans from the records of files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from spacy.tokens import Doc

from ..annotations.relations import Relation, set_relations
from ..errors import Errors
from ..types import Settings
from .json_files import Numbered
from .omissions import Omissions
from .text_io import clean, make_error

KEY = "relations"
LABELS = ("label", "type")
# Pairs of keys that name the spans: tokens or indices of Prodigy and of `doc._.relations`, spans of
# Prodigy, ids of doccano.
ENDS = (("head_span", "child_span"), ("from_id", "to_id"), ("head", "child"))
KNOWN = {*LABELS, *(key for pair in ENDS for key in pair), "id", "color", "score"}
FIX = (
    "an object with a label and head and child, head_span and child_span, or from_id and to_id, or "
    "a list of the first and last token of both spans and the label"
)
Span = tuple[int, int]  # the first token and the one after the last


def read_links(
    omissions: Omissions, doc: Doc, items: Iterable[Numbered], ents: Iterable[object]
) -> None:
    """Set the relations of a doc.

    omissions (Omissions): The file.
    doc (Doc): The doc.
    items (Iterable[Tuple[int, object]]): The relations with the numbers of their lines or records.
    ents (Iterable[object]): The entities, objects whose `id` the relations may name.
    RAISES (ValueError): M114 for a relation of another form, M139 for spans that do not fit the
        tokens. With `skip_errors` such relations are left out.
    """
    by_id = {own["id"]: own for own in ents if isinstance(own, dict) and "id" in own}
    found = list[Relation]()
    for line, item in items:
        where = omissions.get_place(line)
        with omissions.skipping("relations that do not fit", line):
            if isinstance(item, dict):
                for name in sorted(item.keys() - KNOWN):
                    omissions.add_unread(f"keys of {KEY}", name, line)
            first, second, label = _read_link(where, item, by_id)
            head, child = _find_tokens(doc, first), _find_tokens(doc, second)
            if head is None or child is None:
                raise ValueError(Errors.M139.format(where=where, relation=item, text=doc.text[:40]))
            found.append(Relation(head, child, label))
    set_relations(doc, dict.fromkeys(found))


def _read_link(
    where: str, item: object, by_id: Mapping[object, Settings]
) -> tuple[object, object, str]:
    """RETURNS (Tuple[object, object, str]): What names both spans, and the label."""
    if isinstance(item, list) and len(item) > 4 and isinstance(item[4], str):
        head, child = _close(item)
        return head, child, clean(item[4])
    if isinstance(item, dict):
        label = next((item[key] for key in LABELS if item.get(key)), None)
        for head, child in ENDS:
            if isinstance(label, str) and {head, child} <= item.keys():
                ends = [item[head], item[child]]
                if head == "from_id":
                    ends = [by_id.get(end) for end in ends]
                return ends[0], ends[1], clean(label)
    raise make_error(where, "a relation", item, FIX)


def _close(item: Sequence[object]) -> Iterator[object]:
    for start, last in (item[:2], item[2:4]):
        yield [start, last + 1] if isinstance(last, int) else None


def _find_tokens(doc: Doc, end: object) -> Span | None:
    """RETURNS (Optional[Tuple[int, int]]): The tokens of a span: a token, the first and the one
    after the last, or an object with characters; None if there are no such tokens.
    """
    if isinstance(end, int):
        end = [end, end + 1]
    if isinstance(end, dict):
        start, stop = (end.get(key, end.get(f"{key}_offset")) for key in ("start", "end"))
        if isinstance(start, int) and isinstance(stop, int) and 0 <= start < stop:
            span = doc.char_span(start, stop)
            return None if span is None else (span.start, span.end)
    if isinstance(end, list) and len(end) == 2 and all(type(place) is int for place in end):
        start, stop = end
        return (start, stop) if 0 <= start < stop <= len(doc) else None
    return None
