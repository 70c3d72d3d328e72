"""The formats that can be read, and which one a path holds."""

from collections.abc import Callable, Iterable, Iterator
from math import isnan
from pathlib import Path
from typing import NamedTuple

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from .conllu import read_conllu
from .slots import read_slots
from .source import with_cats
from .tables import read_clinc, read_csv, read_jsonl, read_tsv


class Format(NamedTuple):
    """A reader, the names of its files as glob patterns, and the options it takes."""

    read: Callable[..., Iterator[Doc]]
    names: tuple[str, ...]
    options: tuple[str, ...]


AUTO = "auto"
FORMATS = {
    "conllu": Format(read_conllu, ("*.conllu",), ("tags", "category")),
    "slots": Format(read_slots, ("seq.in", "seq.out", "label"), ()),
    "jsonl": Format(read_jsonl, ("*.jsonl",), ("lang",)),
    "csv": Format(read_csv, ("*.csv",), ("text", "category", "separator", "lang")),
    "tsv": Format(read_tsv, ("*.tsv",), ("text", "category", "separator", "lang")),
    "clinc": Format(read_clinc, ("*.json",), ("split", "lang")),
}


def guess_format(path: Path) -> str | None:
    """Tell the format of a file from its name.

    path (Path): The file.
    RETURNS (Optional[str]): The name of the format, if one fits.
    """
    for name, format in FORMATS.items():
        if any(path.match(pattern) for pattern in format.names):
            return name
    return None


def find_files(paths: Iterable[Path], format: str = AUTO) -> list[tuple[str, Path]]:
    """Find what to read in files and folders, whose subfolders are left out.

    paths (Iterable[Path]): Files, or folders of files of the format.
    format (str): A name in `FORMATS`, or "auto" to tell it from the file names.
    RETURNS (List[Tuple[str, Path]]): Formats and paths; a slots corpus is one path, its folder.
    RAISES (ValueError): If a path does not exist or its format is unknown.
    """
    found: dict[tuple[str, Path], None] = {}
    for path in paths:
        if not path.exists():
            raise ValueError(Errors.M101.format(path=path))
        if path.is_dir():
            named = [(guess_format(file), file) for file in sorted(path.iterdir())]
        else:
            named = [(guess_format(path) if format == AUTO else format, path)]
        known = [(n, f) for n, f in named if n in FORMATS and format in (AUTO, n)]
        if not known:
            raise ValueError(Errors.M102.format(path=path, format=format, formats=list(FORMATS)))
        for name, file in known:
            found[name, file.parent if name == "slots" else file] = None
    return list(found)


def read_docs(
    paths: Iterable[Path], vocab: Vocab, *, format: str = AUTO, **options: str | None
) -> Iterator[Doc]:
    """Read files and folders as one corpus.

    paths (Iterable[Path]): Files, or folders of files of the format.
    vocab (Vocab): The vocab of the docs.
    format (str): A name in `FORMATS`, or "auto" to tell it from the file names.
    **options (Optional[str]): Options of the readers; each reader gets those that it takes,
        and its own default for `None`.
    RETURNS (Iterator[Doc]): The docs, with `cats` over all labels of the corpus.
    RAISES (ValueError): If a path or what it holds cannot be read.
    """
    known = {key for entry in FORMATS.values() for key in entry.options}
    for key in options.keys() - known:
        raise ValueError(Errors.M113.format(value=key, option="option", choices=sorted(known)))
    pairs = []
    for name, file in find_files(paths, format):
        read, _, takes = FORMATS[name]
        given = {key: options[key] for key in takes if options.get(key) is not None}
        pairs += [(doc, doc.cats or None) for doc in read(file, vocab, **given)]
    for doc in with_cats(pairs):
        doc.cats = {label: value for label, value in doc.cats.items() if not isnan(value)}
        yield doc
