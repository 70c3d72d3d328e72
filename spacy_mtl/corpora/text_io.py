"""Helpers of all corpus readers: lines of a file, and text that spaCy accepts."""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from spacy.tokens import Doc

from ..errors import Errors, Warnings

Cats = dict[str, float]

REPLACEMENT = "\ufffd"
SURROGATES = "[\ud800-\udfff]"
UNKNOWN = float("nan")  # the value of a category that is not annotated


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read a UTF-8 file line by line, without its byte order mark and line ends.

    NUL and bytes that are not UTF-8 become U+FFFD. W100 warns of such bytes.

    path (Path): The file.
    YIELDS (Tuple[int, str]): The line number, from 1, and the line.
    RAISES (ValueError): M101 if the file does not exist.
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
    """Replace lone surrogates, which UTF-8 cannot encode and spaCy refuses.

    text (str): The text.
    RETURNS (str): The text, of the same length.
    """
    return re.sub(SURROGATES, REPLACEMENT, text)


def clean_words(words: Iterable[str]) -> list[str]:
    """Replace lone surrogates and empty words, which a doc cannot contain.

    words (Iterable[str]): The words.
    RETURNS (List[str]): The same number of words. An empty word becomes U+FFFD.
    """
    return [clean(word) or REPLACEMENT for word in words]


def check_iob(path: Path, tags: Iterable[tuple[int, str]], starts: Iterable[object]) -> list[str]:
    """Check IOB tags. An `I-` tag at the start of a sentence becomes `B-`.

    path (Path): The file the tags come from.
    tags (Iterable[Tuple[int, str]]): The line and the tag of each word: `O`, `B-x` or `I-x`.
    starts (Iterable[bool]): Whether each word opens a sentence.
    RETURNS (List[str]): The `ents` argument of `Doc`, which repairs any other `I-` without `B-`.
    RAISES (ValueError): M107 for any other tag.
    """
    ents = []
    for (line, tag), start in zip(tags, starts, strict=True):
        if not re.fullmatch("O|[BI]-.+", tag):
            raise ValueError(Errors.M107.format(path=path, line=line, value=tag))
        ents.append(f"B{tag[1:]}" if start and tag[0] == "I" else tag)
    return ents


def with_cats(pairs: Iterable[tuple[Doc, Cats | None]]) -> Iterator[Doc]:
    """Set `doc.cats` to a value for every label of the corpus.

    pairs (Iterable[Tuple[Doc, Optional[Cats]]]): The docs and their annotated categories, `None`
        if the annotation is missing.
    YIELDS (Doc): The docs. Labels that are not annotated get 0.0. A doc without annotation gets
        empty `cats`.
    """
    pairs = list(pairs)
    labels = sorted({label for _, cats in pairs for label in cats or ()})
    for doc, cats in pairs:
        doc.cats = {} if cats is None else {label: cats.get(label, 0.0) for label in labels}
        yield doc
