"""The formats of corpora: how to read them, and which format a file has."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import catalogue
from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from .conllu import read_conllu
from .slot_filling import read_slots
from .tables import read_clinc, read_csv, read_jsonl, read_tsv
from .text_io import with_cats

AUTO = "auto"

formats = catalogue.create("spacy_mtl", "formats", entry_points=True)


@dataclass(frozen=True)
class Format:
    """A file format of corpora.

    A package adds its own by an entry point in the group `spacy_mtl_formats`: an instance, under
    the name that users give as `--format`. `spacy mtl convert` reads it without an import.

    read (Callable[..., Iterator[Doc]]): The reader. It gets the path, the vocab of the docs and the
        options. Annotations that it does not set are missing. It raises a ValueError for wrong
        input.
    patterns (Sequence[str]): The names of its files, as glob patterns.
    options (Sequence[str]): The reader's keyword arguments. All are strings and have defaults.
    """

    read: Callable[..., Iterator[Doc]]
    patterns: Sequence[str]
    options: Sequence[str] = ()

    def matches(self, path: Path) -> bool:
        """Tell whether a file has the format. Override it to look at the content.

        path (Path): The file.
        RETURNS (bool): Whether its name fits a pattern.
        """
        return any(path.match(pattern) for pattern in self.patterns)

    def get_source(self, path: Path) -> Path:
        """RETURNS (Path): The path to read for a file: the file, or the folder of a corpus that
        consists of several files.
        """
        return path


class FolderFormat(Format):
    """A format of corpora that are folders of several files."""

    def get_source(self, path: Path) -> Path:
        return path if path.is_dir() else path.parent


CONLLU = Format(read_conllu, ["*.conllu"], ["tags", "category"])
SLOTS = FolderFormat(read_slots, ["seq.in", "seq.out", "label"])
JSONL = Format(read_jsonl, ["*.jsonl"], ["lang"])
CSV = Format(read_csv, ["*.csv"], ["text", "category", "separator", "lang"])
TSV = Format(read_tsv, ["*.tsv"], ["text", "category", "separator", "lang"])
CLINC = Format(read_clinc, ["*.json"], ["split", "lang"])


def get_formats() -> dict[str, Format]:
    """RETURNS (Dict[str, Format]): All registered formats, by name.
    RAISES (ValueError): M128 if something else is registered.
    """
    found = dict(sorted(formats.get_all().items()))
    for name, value in found.items():
        if not isinstance(value, Format):
            raise ValueError(Errors.M128.format(name=name, value=value))
    return found


def guess_format(path: Path, known: Mapping[str, Format] | None = None) -> str | None:
    """Find the format of a file.

    path (Path): The file.
    known (Optional[Mapping[str, Format]]): The formats by name, by default all.
    RETURNS (Optional[str]): The name of the format, None if no format matches.
    RAISES (ValueError): M129 if several formats match.
    """
    entries = get_formats() if known is None else known
    names = [name for name, entry in entries.items() if entry.matches(path)]
    if len(names) > 1:
        raise ValueError(Errors.M129.format(path=path, names=names))
    return names[0] if names else None


def find_files(paths: Iterable[Path], format: str = AUTO) -> list[tuple[str, Path]]:
    """Find the corpora in files and folders. Subfolders are left out.

    paths (Iterable[Path]): Files, or folders of files of the format.
    format (str): The name of a format, or "auto" to guess it from the files.
    RETURNS (List[Tuple[str, Path]]): The format and the path of each corpus, which is a file or, in
        formats of several files, a folder.
    RAISES (ValueError): M101 for a path that does not exist, M102 for an unknown format, M129 for a
        file that several formats match.
    """
    known = get_formats()
    found: dict[tuple[str, Path], None] = {}
    for path in paths:
        if not path.exists():
            raise ValueError(Errors.M101.format(path=path))
        named = [
            (name, file)
            for name, file in _name_formats(path, format, known)
            if name in known and format in (AUTO, name)
        ]
        if not named:
            raise ValueError(Errors.M102.format(path=path, format=format, formats=list(known)))
        found |= {(name, known[name].get_source(file)): None for name, file in named}
    return list(found)


def _name_formats(
    path: Path, format: str, known: Mapping[str, Format]
) -> Iterator[tuple[str | None, Path]]:
    if not path.is_dir():
        yield (guess_format(path, known) if format == AUTO else format), path
        return
    for file in sorted(path.iterdir()):
        if format == AUTO:
            yield guess_format(file, known), file
        elif format in known and known[format].matches(file):
            yield format, file


def read_docs(
    paths: Iterable[Path], vocab: Vocab, *, format: str = AUTO, **options: str | None
) -> Iterator[Doc]:
    """Read files and folders as one corpus.

    paths (Iterable[Path]): Files, or folders of files of the format.
    vocab (Vocab): The vocab of the docs.
    format (str): The name of a format, or "auto" to guess it from the files.
    **options (Optional[str]): Options of the readers. Each reader gets the options that its format
        has; None stands for the reader's default.
    YIELDS (Doc): The docs, with `cats` over all labels of the corpus.
    RAISES (ValueError): M113 for an unknown option; others if a path cannot be read.
    """
    known = get_formats()
    choices = sorted({key for entry in known.values() for key in entry.options})
    for key in options.keys() - set(choices):
        raise ValueError(Errors.M113.format(value=key, option="option", choices=choices))
    pairs = []
    for name, path in find_files(paths, format):
        entry = known[name]
        given = {key: options[key] for key in entry.options if options.get(key) is not None}
        pairs += [(doc, doc.cats or None) for doc in entry.read(path, vocab, **given)]
    for doc in with_cats(pairs):
        doc.cats = {label: value for label, value in doc.cats.items() if not isnan(value)}
        yield doc
