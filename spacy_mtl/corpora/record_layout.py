"""Finds out what the keys of a file's records mean, from their names and values."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from spacy.parts_of_speech import IDS as UPOS

from ..errors import Errors
from ..types import Settings
from .columns import has_entities
from .omissions import Omissions

Role = Literal["spans", "iob", "tags", "cats"]
Records = Sequence[tuple[int, Settings]]
Layout = dict[str, Role]  # by key, in the order in which the keys of a role are tried

WORDS = ("tokens", "words", "sentence")
ROLES: Layout = {
    **dict.fromkeys(("entities", "spans", "ents"), "spans"),
    **dict.fromkeys(("ner_tags", "ner", "slots"), "iob"),
    **dict.fromkeys(("tags", "xpos", "pos_tags", "pos", "upos"), "tags"),
    **dict.fromkeys(("cats", "label", "labels", "category", "categories", "class"), "cats"),
    **dict.fromkeys(("intent", "sentiment", "topic"), "cats"),
}
MIXED = ("label", "labels")  # keys that hold categories, spans or tags

STRING, STRINGS = "a string", "a list of strings"
NUMBER, NUMBERS = "a whole number", "a list of whole numbers"
ITEMS, OBJECT, BOOL, OTHER = "a list of spans", "an object", "true or false", "something else"
ALIKE = [{STRING, STRINGS}, {NUMBER, NUMBERS}]


def find_layout(omissions: Omissions, records: Records, category: str = "") -> Layout:
    """Find the keys with labels.

    omissions (Omissions): The file.
    records (Sequence[Tuple[int, Settings]]): Its records with their numbers.
    category (str): The key of the categories; empty to look for it.
    RETURNS (Layout): The role of each key with labels.
    RAISES (ValueError): M151 if a key has values of different kinds, M110 if no record has the key
        of the categories.
    """
    found = {key for _, record in records for key in record}
    if category and category not in found:
        fix = "Name one of these with --category"
        names = sorted(key for key in found if not key.startswith("_"))
        raise ValueError(
            Errors.M110.format(where=omissions.path, column=category, found=names, fix=fix)
        )
    keys = [key for key in ROLES if key in found and key != category]
    layout: Layout = {key: _find_role(omissions, records, key) for key in keys}
    if category:
        others = {key: role for key, role in layout.items() if role != "cats"}
        return {**others, category: "cats"}
    return layout


def _find_role(omissions: Omissions, records: Records, key: str) -> Role:
    kind = find_kind(omissions, records, key)
    if (kind == ITEMS and ROLES[key] != "tags") or (kind == OBJECT and key == "spans"):
        return "spans"
    if kind == STRINGS and ROLES[key] == "spans":
        return "iob"
    if kind == STRINGS and (key == "tags" or (key in MIXED and _fits_words(records, key))):
        tags = Counter(str(tag) for tag in _flatten(records, key) if tag is not None)
        # "O" as the most frequent tag stands for entities, even if the others lack a prefix.
        is_outside = [tag for tag, _ in tags.most_common(1)] == ["O"]
        return "iob" if is_outside or has_entities(tags) else "tags"
    return ROLES[key]


def find_kind(omissions: Omissions, records: Records, key: str) -> str | None:
    """RETURNS (Optional[str]): The kind of a key's values; None if all are empty. Of a value and a
    list of such values, it is the list.
    RAISES (ValueError): M151 if the kinds of two records do not fit together.
    """
    kind = None
    first = 0
    for line, record in records:
        own = _get_kind(record.get(key))
        if own is None or own == kind:
            continue
        if kind is not None and not any({own, kind} <= kinds for kinds in ALIKE):
            raise ValueError(
                Errors.M151.format(
                    where=omissions.get_place(line),
                    key=key,
                    kind=own,
                    known=kind,
                    unit=omissions.unit,
                    first=first,
                )
            )
        if kind is None or own in (STRINGS, NUMBERS):
            kind, first = own, line
    return kind


def _get_kind(value: object) -> str | None:
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, list):
        if all(isinstance(item, str | None) for item in value):
            return STRINGS
        if all(item is None or type(item) is int for item in value):
            return NUMBERS
        return ITEMS if all(isinstance(item, list | dict) for item in value) else OTHER
    kinds = {bool: BOOL, int: NUMBER, str: STRING, dict: OBJECT}
    return kinds.get(type(value), OTHER)


def is_upos(records: Records, key: str) -> bool:
    """RETURNS (bool): Whether all tags of a key are universal parts of speech, or missing."""
    return all(tag is None or tag in UPOS for tag in _flatten(records, key))


def _flatten(records: Records, key: str) -> Iterator[object]:
    for _, record in records:
        yield from record[key] if isinstance(record.get(key), list) else ()


def _fits_words(records: Records, key: str) -> bool:
    """RETURNS (bool): Whether a key has one value for each token in all records."""
    return all(
        len(record[key]) == len(words)
        for _, record in records
        if isinstance(record.get(key), list)
        for words in [next((record[name] for name in WORDS if record.get(name)), ())]
    )
