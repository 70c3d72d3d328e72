"""Reads JSON: one document, or JSON Lines."""

import json
from functools import lru_cache
from pathlib import Path

from ..errors import Errors
from .text_io import UTF8, read_lines, read_text

Numbered = tuple[int, object]  # a value and the number of its line or record, from 1


def read_items(path: Path, encoding: str = UTF8) -> tuple[str, list[Numbered]]:
    """Read the records of a file: the items of a JSON list, or one value per line.

    path (Path): The file.
    encoding (str): The encoding.
    RETURNS (Tuple[str, List[Tuple[int, object]]]): "record" or "line", which the numbers count, and
        the values with their numbers.
    RAISES (ValueError): M109 if the file is not JSON; as `read_text`.
    """
    value = _load(path, encoding, *_get_version(path))
    if isinstance(value, list) and not is_tuple(value):
        return "record", list(enumerate(value, 1))
    lines = [(n, line) for n, line in read_lines(path, encoding) if line.strip()]
    if not isinstance(value, json.JSONDecodeError):
        return "line", [(lines[0][0], value)]
    if lines and not value.msg.startswith("Extra data"):
        raise ValueError(
            Errors.M109.format(path=path, line=value.lineno, reason=value.msg)
        ) from value
    return "line", [(n, parse_json(path, line, n)) for n, line in lines]


def load_json(path: Path, encoding: str = UTF8) -> object:
    """Read a file that is one JSON document.

    path (Path): The file.
    encoding (str): The encoding.
    RETURNS: The value. The last file's value is cached, so do not change it.
    RAISES (ValueError): M109 if the file is not JSON; as `read_text`.
    """
    value = _load(path, encoding, *_get_version(path))
    if isinstance(value, json.JSONDecodeError):
        raise ValueError(
            Errors.M109.format(path=path, line=value.lineno, reason=value.msg)
        ) from value
    return value


def parse_json(path: Path, content: str, line: int) -> object:
    """Parse one line of JSON Lines.

    path (Path): The file.
    content (str): The line.
    line (int): Its number.
    RETURNS: The value.
    RAISES (ValueError): M109 if it is not JSON.
    """
    try:
        return _parse(content)
    except json.JSONDecodeError as error:
        raise ValueError(Errors.M109.format(path=path, line=line, reason=error.msg)) from error


def is_tuple(value: object) -> bool:
    """RETURNS (bool): Whether a value is a training tuple of spaCy, such as `["text", {...}]`, or a
    text with its label.
    """
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _parse(content: str) -> object:
    # strict=False accepts control characters inside strings.
    return json.loads(content, strict=False)


def _get_version(path: Path) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): What tells a file from its later versions."""
    if not path.is_file():
        raise ValueError(Errors.M101.format(path=path))
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=1)  # all formats look at one file, then its reader, then at the next file
def _load(path: Path, encoding: str, changed: int, size: int) -> object:
    """RETURNS: The value of the JSON document, or the JSONDecodeError."""
    try:
        return _parse(read_text(path, encoding))
    except json.JSONDecodeError as error:
        return error
