"""Reads slot filling corpora such as SNIPS and ATIS: folders with seq.in, seq.out and label."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from .text_io import check_iob, clean_words, read_lines


def read_slots(path: Path, vocab: Vocab) -> Iterator[Doc]:
    """Read utterances: slots become entities, the intent becomes the category.

    path (Path): The folder of the three files, or one of these files.
    vocab (Vocab): The vocab of the docs.
    YIELDS (Doc): The docs. `cats` has one label, with the value 1, or is empty if the line in
        `label` is blank.
    RAISES (ValueError): M108 if the lines of the files do not match, M107 if a tag is not IOB.
    """
    folder = path if path.is_dir() else path.parent
    files = [folder / name for name in ("seq.in", "seq.out", "label")]
    for line, row in enumerate(zip_longest(*map(_read_stripped, files)), 1):
        for file, value in zip(files, row, strict=True):
            if value is None:
                raise ValueError(Errors.M108.format(path=file, line=line, value=row))
        utterance, slots, intent = row
        words, tags = _split(utterance), _split(slots)
        if len(words) != len(tags) or (intent and not words):
            raise ValueError(Errors.M108.format(path=files[1], line=line, value=row))
        if words:
            starts = [i == 0 for i in range(len(words))]
            doc = Doc(
                vocab,
                words=clean_words(words),
                spaces=[*[True] * (len(words) - 1), False],
                ents=check_iob(files[1], ((line, tag) for tag in tags), starts),
            )
            if intent:
                doc.cats = {intent: 1.0}
            yield doc


def _read_stripped(path: Path) -> list[str]:
    """Read the lines of a file, without blank lines at its end."""
    lines = [line.strip() for _, line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _split(line: str) -> list[str]:
    # Splits at spaces and tabs only: `str.split` would also split at a no-break space.
    return [word for word in re.split("[ \t]+", line) if word]
