"""Helpers of all corpus readers: lines of a file, and text that spaCy accepts."""

import codecs
import re
import reprlib
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from io import StringIO
from pathlib import Path

from spacy import blank
from spacy.language import Language
from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors, Warnings

Cats = dict[str, float]

REPLACEMENT = "\ufffd"
SURROGATES = "[\ud800-\udfff]"
UTF8 = "utf-8"
MARKS = {codecs.BOM_UTF8: UTF8, codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
HEAD = 2**16  # bytes that are read to find out a format
NO_TAG = {"", "_", "-", "-X-"}  # values of columns that stand for a missing label
IOB = re.compile("([BIMESLU])-(.+)")
UNKNOWN = float("nan")  # the value of a category that is not annotated
OTHERS = ""  # key of the value of all categories that `cats` does not name: 0.0 unless UNKNOWN


def read_lines(path: Path, encoding: str = UTF8) -> Iterator[tuple[int, str]]:
    """Read a text file line by line, without its byte order mark and line ends.

    path (Path): The file.
    encoding (str): The encoding, as in `read_text`.
    YIELDS (Tuple[int, str]): The line number, from 1, and the line.
    RAISES (ValueError): As `read_text`.
    """
    yield from enumerate(split_lines(read_text(path, encoding)), 1)


def split_lines(text: str) -> list[str]:
    """RETURNS (List[str]): The lines of a text, without the line ends of any operating system.
    `str.splitlines` would also split at form feeds and the like.
    """
    return [line.rstrip("\n") for line in StringIO(text, newline=None)]


def read_text(path: Path, encoding: str = UTF8) -> str:
    """Read a text file, without its byte order mark. A NUL becomes U+FFFD.

    A few broken bytes also become U+FFFD, and W100 counts them. They are few if more characters
    beyond ASCII are valid than broken. Otherwise the file has another encoding, which is an error.

    path (Path): The file.
    encoding (str): The encoding. A byte order mark in the file overrides it.
    RETURNS (str): The text.
    RAISES (ValueError): M101 if the file does not exist, M131 for an unknown encoding, M132 if the
        bytes do not have the encoding.
    """
    if not path.is_file():
        raise ValueError(Errors.M101.format(path=path))
    data = path.read_bytes()
    data, encoding = _split_mark(data, encoding)
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise ValueError(Errors.M131.format(encoding=encoding)) from error
    except UnicodeDecodeError as error:
        text = data.decode(encoding, errors="replace")
        broken = text.count(REPLACEMENT)
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        if broken >= sum(not char.isascii() for char in text) - broken:
            raise ValueError(
                Errors.M132.format(path=path, line=line, byte=byte, encoding=encoding)
            ) from error
        warnings.warn(
            Warnings.W100.format(path=path, line=line, byte=byte, encoding=encoding, n=broken)
        )
    if text.count("\0") > len(text) // 4:
        raise ValueError(Errors.M132.format(path=path, line=1, byte=0, encoding=encoding))
    return text.replace("\0", REPLACEMENT)


def read_head(path: Path) -> str:
    """Read the first part of a file, to find out its format.

    path (Path): The file.
    RETURNS (str): At most 65,536 bytes as text, up to the end of a line. Empty if there is no such
        file. Bytes that are not UTF-8 become U+FFFD.
    """
    if not path.is_file():
        return ""
    stat = path.stat()
    return _read_head(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)  # all formats look at one file, then at the next
def _read_head(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        data = file.read(HEAD)
    data, encoding = _split_mark(data, UTF8)
    text = data.decode(encoding, errors="replace")
    lines = StringIO(text, newline=None).read()
    return lines if size <= HEAD or "\n" not in lines else lines[: lines.rindex("\n") + 1]


def _split_mark(data: bytes, encoding: str) -> tuple[bytes, str]:
    """RETURNS (Tuple[bytes, str]): The data without its byte order mark, and the encoding that the
    mark stands for. Without a mark, the given encoding.
    """
    for mark, marked in MARKS.items():
        if data.startswith(mark):
            return data.removeprefix(mark), marked
    return data, encoding


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
    """Convert entity tags of the schemes IOB1, IOB2, IOBES, BMES and BILOU to IOB2.

    One rule reads all schemes. A tag with I, M, E or L continues the entity of the word before if
    that has the same label and is not its end (E, S, L or U). Otherwise I begins an entity.

    path (Path): The file the tags come from.
    tags (Iterable[Tuple[int, str]]): The line and the tag of each word: `O`, or a prefix and a
        label, such as `B-x`. A tag in `NO_TAG` is missing.
    starts (Iterable[bool]): Whether each word opens a sentence.
    RETURNS (List[str]): The `ents` argument of `Doc`, with "" for missing tags.
    RAISES (ValueError): M107 for any other tag, and for M, E and L outside of an entity.
    """
    ents = []
    unfinished = ""  # the label of the entity that the next word may continue
    for (line, tag), start in zip(tags, starts, strict=True):
        if tag in NO_TAG or tag == "O":
            ents.append("" if tag in NO_TAG else "O")
            unfinished = ""
            continue
        match = IOB.fullmatch(tag)
        prefix, label = match.groups() if match else ("", "")
        goes_on = prefix in "IMEL" and label == unfinished and not start
        if not label or (prefix in "MEL" and not goes_on):
            raise ValueError(Errors.M107.format(path=path, line=line, value=tag))
        ents.append(f"{'I' if goes_on else 'B'}-{label}")
        unfinished = label if prefix in "BIM" else ""
    return ents


def parse_comment(line: str) -> tuple[str, str]:
    """Split a comment such as `# key = value` or `# key: value`.

    line (str): The comment, from its `#`.
    RETURNS (Tuple[str, str]): The key and the value. Without a value, the whole text is the key.
    """
    key, *value = re.split(r"\s*=\s*|:\s+", line[1:].strip(), maxsplit=1)
    return key, "".join(value)


def with_cats(pairs: Iterable[tuple[Doc, Cats | None]]) -> Iterator[Doc]:
    """Set `doc.cats` to a value for every label of the corpus.

    pairs (Iterable[Tuple[Doc, Optional[Cats]]]): The docs and their annotated categories, `None`
        if the annotation is missing.
    YIELDS (Doc): The docs. Labels that are not annotated get 0.0, or UNKNOWN if `cats` has OTHERS.
        A doc without annotation gets empty `cats`.
    """
    pairs = list(pairs)
    labels = sorted({label for _, cats in pairs for label in cats or () if label != OTHERS})
    for doc, cats in pairs:
        doc.cats = {}
        if cats is not None:
            others = cats.get(OTHERS, 0.0)
            doc.cats = {label: cats.get(label, others) for label in labels}
            doc.cats |= {OTHERS: others} if OTHERS in cats else {}
        yield doc


def make_error(where: Path | str, key: str, value: object, fix: str) -> ValueError:
    """Make the error of a value of the wrong kind.

    where (Union[Path, str]): The file and the line.
    key (str): What has the value, such as a key.
    value: The value.
    fix (str): What it must be.
    RETURNS (ValueError): M114.
    """
    return ValueError(Errors.M114.format(where=where, key=key, value=reprlib.repr(value), fix=fix))


@lru_cache(maxsize=1)  # a folder may have thousands of files, and spaCy needs 0.1 s for a tokenizer
def get_tokenizer(lang: str, vocab: Vocab) -> Language:
    """RETURNS (Language): A pipeline of the language that only splits texts into tokens."""
    return blank(lang, vocab=vocab)


def split_names(text: str) -> list[str]:
    """RETURNS (List[str]): The names in a list that is separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
