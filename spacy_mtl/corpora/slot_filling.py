"""Reads slot filling corpora such as SNIPS and ATIS: folders with seq.in, seq.out and label."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from .omissions import Omissions
from .text_io import UTF8, check_iob, clean_words, read_lines


def read_slots(
    path: Path, vocab: Vocab, *, encoding: str = UTF8, skip_errors: bool = False
) -> Iterator[Doc]:
    """Read utterances: slots become entities, the intent becomes the category.

    path (Path): The folder of the three files, or one of these files.
    vocab (Vocab): The vocab of the docs.
    encoding (str): The encoding, as in `read_text`.
    skip_errors (bool): Whether to leave out utterances whose lines do not fit.
    YIELDS (Doc): The docs. `cats` has one label, with the value 1, or is empty if the line in
        `label` is blank.
    RAISES (ValueError): M108 if the lines of the files do not match, M107 if a tag is wrong; others
        as `read_text`.
    """
    folder = path if path.is_dir() else path.parent
    files = [folder / name for name in ("seq.in", "seq.out", "label")]
    columns = [_read_stripped(file, encoding) for file in files]
    for file, values in zip(files, columns, strict=True):
        if len(values) < max(map(len, columns)):
            line = len(values) + 1
            row = [*zip_longest(*columns)][len(values)]
            raise ValueError(Errors.M108.format(path=file, line=line, value=row))
    with Omissions(folder, skip_errors) as omissions:
        for line, row in enumerate(zip(*columns, strict=True), 1):
            with omissions.skipping("utterances", line):
                if doc := _make_doc(vocab, files[1], line, *row):
                    yield doc


def _make_doc(
    vocab: Vocab, path: Path, line: int, utterance: str, slots: str, intent: str
) -> Doc | None:
    words, tags = _split(utterance), _split(slots)
    if len(words) != len(tags) or (intent and not words):
        raise ValueError(Errors.M108.format(path=path, line=line, value=(utterance, slots, intent)))
    if not words:
        return None
    doc = Doc(
        vocab,
        words=clean_words(words),
        spaces=[*[True] * (len(words) - 1), False],
        ents=check_iob(path, ((line, tag) for tag in tags), (i == 0 for i in range(len(words)))),
    )
    if intent:
        doc.cats = {intent: 1.0}
    return doc


def _read_stripped(path: Path, encoding: str) -> list[str]:
    """Read the lines of a file, without blank lines at its end."""
    lines = [line.strip() for _, line in read_lines(path, encoding)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _split(line: str) -> list[str]:
    # Splits at spaces and tabs only: `str.split` would also split at a no-break space.
    return [word for word in re.split("[ \t]+", line) if word]
