"""Sets entities and groups of spans that files give by their offsets."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from spacy.tokens import Doc, Span, Token
from spacy.util import filter_spans

from ..errors import Errors
from .omissions import Omissions
from .text_io import clean, make_error

LABELS = ("label", "type", "entity", "labels")  # keys of a span's label, or labels
_KNOWN = {
    *("start", "end", "start_offset", "end_offset", "token_start", "token_end", *LABELS),
    *("text", "value", "id", "score", "confidence", "confidence_entity"),
    *("source", "pattern", "priority", "rank", "extractor", "input_hash"),
}


class Place(NamedTuple):
    """A labelled span of a text.

    line (int): Its line in the file, or the number of its record.
    start (int): Its first character or token.
    end (int): The character or token after its last.
    label (str): The label.
    in_tokens (bool): Whether it counts tokens.
    text (Optional[str]): The text that it covers, if the file says it.
    """

    line: int
    start: int
    end: int
    label: str
    in_tokens: bool = False
    text: str | None = None


def read_places(
    omissions: Omissions, line: int, key: str, value: object, in_tokens: bool = False
) -> Iterator[Place]:
    """Read labelled spans from JSON.

    omissions (Omissions): The file.
    line (int): The line.
    key (str): The key of the spans, for messages.
    value: A list of `[start, end, label]`, or of objects with two offsets and a label.
    in_tokens (bool): Whether lists count tokens, to the last one.
    YIELDS (Place): The spans.
    RAISES (ValueError): M114 for another value.
    """
    where = omissions.get_place(line)
    if not isinstance(value, list):
        raise make_error(where, key, value, "a list")
    for item in value:
        is_token, text = in_tokens, None
        offsets: list[object] = []
        labels: list[object] = []
        if isinstance(item, dict):
            is_token = item.get("start", item.get("start_offset")) is None
            names = ("token_start", "token_end") if is_token else ("start", "end")
            offsets = [item.get(name, item.get(f"{name}_offset")) for name in names]
            label = next((item[name] for name in LABELS if item.get(name)), None)
            labels = label if isinstance(label, list) else [label]
            text = item["text"] if isinstance(item.get("text"), str) else None
            for name in sorted(item.keys() - _KNOWN):
                omissions.add_unread(f"keys of {key}", name, line)
        elif isinstance(item, list):
            *offsets, label = item or [None]
            labels = [label]
        numbers = [offset for offset in offsets if type(offset) is int]
        strings = [label for label in labels if isinstance(label, str) and label]
        if len(offsets) != 2 or offsets != numbers or not labels or labels != strings:
            fix = "[start, end, label], or an object with start, end and label"
            raise make_error(where, "an entity", item, fix)
        start, end = numbers
        for name in strings:
            yield Place(line, start, end + is_token, clean(name), is_token, text)


def set_places(
    doc: Doc,
    omissions: Omissions,
    places: Iterable[Place],
    *,
    group: str = "",
    unknown: Iterable[Place] = (),
    is_partial: bool = False,
) -> None:
    """Set the entities or a group of spans.

    Spaces at the edges of spans are cut off. Where `skip_errors` leaves out an entity, its tokens
    are missing, unless another entity covers them.

    doc (Doc): The doc, without this annotation.
    omissions (Omissions): The file.
    places (Iterable[Place]): The spans.
    group (str): The key in `doc.spans`; empty for `doc.ents`.
    unknown (Iterable[Place]): Spans whose tokens are missing.
    is_partial (bool): Whether all other tokens are missing, not outside of entities.
    RAISES (ValueError): M111 if a span does not fit the tokens, M153 if its text is another, M155
        if it overlaps another entity. With `skip_errors`, such spans are left out.
    """
    spans: list[tuple[int, Span]] = []
    missing = {token.i for place in unknown for token in _find_tokens(doc, place)}
    for place in dict.fromkeys(places):
        try:
            spans.append((place.line, _find_span(doc, omissions, place)))
        except ValueError as error:
            omissions.add_error("entities that do not fit the text", place.line, error)
            missing |= {token.i for token in _find_tokens(doc, place)}
    if group:
        doc.spans[group] = [span for _, span in spans]
        return
    kept = filter_spans(span for _, span in spans)
    for line, span in spans:
        if span not in kept:
            message = Errors.M155.format(
                where=omissions.get_place(line),
                entity=_show(span),
                other=next(_show(other) for other in kept if _overlap(span, other)),
            )
            omissions.add_error("entities that overlap a longer one", line, ValueError(message))
            missing |= set(range(span.start, span.end))
    missing -= {token.i for span in kept for token in span}
    default = "missing" if is_partial else "outside"
    doc.set_ents(kept, missing=[doc[i : i + 1] for i in sorted(missing)], default=default)


def _find_span(doc: Doc, omissions: Omissions, place: Place) -> Span:
    """RETURNS (Span): The span of a place, without spaces at its edges.
    RAISES (ValueError): M111 or M153 if it does not fit.
    """
    line, start, end, label, in_tokens, text = place
    where = omissions.get_place(line)
    if in_tokens and 0 <= start < end <= len(doc):
        start, end = doc[start].idx, doc[end - 1].idx + len(doc[end - 1])
    elif in_tokens or not 0 <= start < end <= len(doc.text):
        raise _make_error(where, doc, place)
    covered = doc.text[start:end]
    if text is not None and _squeeze(text) != _squeeze(covered):
        entity = [start, end, label]
        raise ValueError(Errors.M153.format(where=where, entity=entity, value=covered, text=text))
    trimmed = covered.strip()
    if trimmed not in ("", covered):
        start += covered.index(trimmed)
        end = start + len(trimmed)
        omissions.add_left_out("spaces at the edges of entities", line)
    span = doc.char_span(start, end, label=label) if trimmed else None
    if span is None:
        raise _make_error(where, doc, place)
    return span


def _find_tokens(doc: Doc, place: Place) -> list[Token]:
    """RETURNS (List[Token]): The tokens that a span touches."""
    if place.in_tokens:
        return list(doc[max(place.start, 0) : max(place.end, 0)])
    return [t for t in doc if place.start < t.idx + len(t) and t.idx < place.end]


def _make_error(where: str, doc: Doc, place: Place) -> ValueError:
    value = "" if place.in_tokens else doc.text[place.start : place.end]
    tokens = [token.text for token in _find_tokens(doc, place)]
    entity = [place.start, place.end, place.label]
    return ValueError(Errors.M111.format(where=where, entity=entity, value=value, tokens=tokens))


def _squeeze(text: str) -> str:
    r"""RETURNS (str): A text without spaces and line breaks. Label Studio writes them as "\n"."""
    return "".join(text.replace("\\n", "\n").split())


def _show(span: Span) -> str:
    return f"{[span.start_char, span.end_char, span.label_]} ({span.text!r})"


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end
