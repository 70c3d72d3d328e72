"""Names of labels that a file stores as numbers, as data sets of Hugging Face do."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

from ..errors import Errors, Warnings, quote
from ..types import Settings
from .omissions import Omissions
from .record_layout import BOOL, NUMBER, NUMBERS, ROLES, Records, find_kind

Names = Mapping[str, list[str]]  # by key; those under ANY stand for any key

ANY = ""


def parse_names(value: str) -> Names:
    """Read the option `--names`.

    value (str): Names with commas between them, in order from 0; such lists for several keys, as
        "ner_tags=O,B-PER;label=no,yes"; or the path of a file. A file has one name per line, or is
        JSON: a list, an object of lists by key, an object of names by number (`id2label`), or
        `dataset_info.json` of Hugging Face.
    RETURNS (Names): The names.
    """
    if not value:
        return {}
    if Path(value).is_file():
        content = Path(value).read_text(encoding="utf-8-sig")
        try:
            return find_names(json.loads(content))
        except json.JSONDecodeError:
            return {ANY: [line.strip() for line in content.splitlines() if line.strip()]}
    if "=" not in value:
        return {ANY: _split(value)}
    parts = [part.partition("=") for part in value.split(";") if part.strip()]
    return {key.strip(): _split(names) for key, _, names in parts}


def find_names(value: object) -> Names:
    """Find names in JSON.

    value: A JSON value, as in `parse_names`.
    RETURNS (Names): The names.
    """
    if isinstance(value, list):
        return {ANY: [str(name) for name in value]}
    if not isinstance(value, dict):
        return {}
    if value and all(str(key).isdigit() for key in value):
        return {ANY: [str(value[key]) for key in sorted(value, key=int)]}
    for key in ("info", "features", "id2label"):
        if isinstance(value.get(key), dict):
            return find_names(value[key])
    found = {}
    for key, item in value.items():
        while isinstance(item, dict):  # a feature of Hugging Face, or a sequence of it
            item = item.get("names", item.get("feature"))
        if isinstance(item, list):
            found[str(key)] = [str(name) for name in item]
    return found


def name_labels(
    omissions: Omissions, records: Records, names: Names, category: str = ""
) -> Records:
    """Replace the numbers of labels by their names. Numbers below 0 become null.

    omissions (Omissions): The file.
    records (Sequence[Tuple[int, Settings]]): Its records with their numbers.
    names (Names): The names.
    category (str): The key of the categories, if it is not one of the usual keys.
    RETURNS (Sequence[Tuple[int, Settings]]): The records. If there are names for some keys only,
        the other keys with numbers are left out.
    RAISES (ValueError): M152 if the names of a key are missing, M114 if a number has no name.
    """
    kinds = {key: find_kind(omissions, records, key) for key in [*ROLES, category]}
    keys = [key for key, kind in kinds.items() if kind in (NUMBER, NUMBERS)]
    open_keys = [key for key in keys if key not in names]
    if open_keys and (not names or (ANY in names and len(open_keys) > 1)):
        raise ValueError(Errors.M152.format(path=omissions.path, keys=quote(open_keys)))
    if names:
        keys += [key for key, kind in kinds.items() if kind == BOOL]
    for key in names:
        if key not in keys and not (key == ANY and keys):
            value = f"{key}=..." if key else ",".join(names[key])
            warnings.warn(Warnings.W130.format(path=omissions.path, names=value))
    return [(line, _name(omissions, line, record, keys, names)) for line, record in records]


def _name(
    omissions: Omissions, line: int, record: Settings, keys: list[str], names: Names
) -> Settings:
    result = dict(record)
    for key in keys:
        value, own = record.get(key), names.get(key, names.get(ANY))
        if value is None or value == "":
            continue
        if own is None:
            omissions.add_unread("keys with numbers", key, line)
            del result[key]
            continue
        numbers = value if isinstance(value, list) else [value]
        if any(n is not None and n < 0 for n in numbers):
            omissions.add_left_out("labels that are numbers below 0", line)
        if any(n is not None and n >= len(own) for n in numbers):
            raise ValueError(
                Errors.M114.format(
                    where=omissions.get_place(line),
                    key=key,
                    value=value,
                    fix=f"at most {len(own) - 1}, as --names has {len(own)} names",
                )
            )
        named = [None if n is None or n < 0 else own[n] for n in numbers]
        result[key] = named if isinstance(value, list) else named[0]
    return result


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
