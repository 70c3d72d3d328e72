"""What every reader shares: lines of a file and text that spaCy can hold."""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from spacy.tokens import Doc

from ..errors import Errors, Warnings

Cats = dict[str, float]

REPLACEMENT = "\ufffd"
SURROGATES = "[\ud800-\udfff]"
UNKNOWN = float("nan")  # of a category that a doc may have or not


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read a UTF-8 file line by line, without its byte order mark and line ends.

    path (Path): The file; NUL and bytes that are not UTF-8 become U+FFFD, these with a warning.
    RETURNS (Iterator[Tuple[int, str]]): Line numbers from 1, and the lines.
    RAISES (ValueError): If there is no such file.
    """
    broken = 0
    if not path.is_file():
        raise ValueError(Errors.M101.format(path=path))
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            line, found = re.subn(SURROGATES, REPLACEMENT, line)
            if found and not broken:
                warnings.warn(Warnings.W100.format(path=path, line=number))
            broken += found
            yield number, line.rstrip("\n").replace("\0", REPLACEMENT)


def clean(text: str) -> str:
    """Replace the characters that UTF-8, and so spaCy, cannot hold: lone surrogates.

    text (str): Any text.
    RETURNS (str): The text, of the same length.
    """
    return re.sub(SURROGATES, REPLACEMENT, text)


def clean_words(words: Iterable[str]) -> list[str]:
    """Clean the words of a doc, none of which may be empty.

    words (Iterable[str]): The words.
    RETURNS (List[str]): As many words; an empty one becomes U+FFFD.
    """
    return [clean(word) or REPLACEMENT for word in words]


def check_iob(path: Path, tags: Iterable[tuple[int, str]], starts: Iterable[object]) -> list[str]:
    """Check IOB tags, and let an entity begin wherever its sentence does.

    path (Path): The file the tags come from.
    tags (Iterable[Tuple[int, str]]): The line and the tag of each word: `O`, `B-x` or `I-x`.
    starts (Iterable[bool]): Whether the word opens a sentence.
    RETURNS (List[str]): The `ents` of a `Doc`, which repairs any other `I-` without `B-`.
    RAISES (ValueError): If a tag is none of these.
    """
    ents = []
    for (line, tag), start in zip(tags, starts, strict=True):
        if not re.fullmatch("O|[BI]-.+", tag):
            raise ValueError(Errors.M107.format(path=path, line=line, value=tag))
        ents.append(f"B{tag[1:]}" if start and tag[0] == "I" else tag)
    return ents


def with_cats(pairs: Iterable[tuple[Doc, Cats | None]]) -> Iterator[Doc]:
    """Give each categorised doc a value for every label that any of the docs has.

    pairs (Iterable[Tuple[Doc, Optional[Cats]]]): The docs and their known categories, `None`
        where the annotation is missing.
    RETURNS (Iterator[Doc]): The docs; a label that a doc does not name is 0.0 in its `cats`.
    """
    pairs = list(pairs)
    labels = sorted({label for _, cats in pairs for label in cats or ()})
    for doc, cats in pairs:
        doc.cats = {} if cats is None else {label: cats.get(label, 0.0) for label in labels}
        yield doc
