"""The formats of corpora: how to read them, and which format a file has."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import catalogue
from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..annotations import get_layers
from ..errors import Errors, Warnings, quote
from .brat import read_brat
from .columns import looks_like_columns, read_columns
from .conllu import looks_like_conllu, read_conllu
from .documents import drop_other_data
from .fasttext import looks_like_fasttext, read_fasttext
from .intents import is_clinc, is_snips, read_clinc, read_snips
from .json_files import load_json
from .json_records import read_json
from .label_studio import is_label_studio, read_label_studio
from .parquet import read_parquet
from .rasa import is_rasa, read_rasa
from .slot_filling import read_slots
from .spacy_files import is_spacy_json, read_spacy, read_spacy_json
from .squad import is_squad, read_squad
from .tables import read_csv, read_tsv
from .text_io import OTHERS, read_head

AUTO = "auto"
SHOWN = 10  # names in a message

formats = catalogue.create("spacy_mtl", "formats", entry_points=True)


@dataclass(frozen=True)
class Format:
    """A file format of corpora.

    A package adds its own by an entry point in the group `spacy_mtl_formats`: an instance, under
    the name that users give as `--format`. `spacy mtl convert` reads it without an import.

    read (Callable[..., Iterator[Doc]]): The reader. It gets the path, the vocab of the docs and the
        options. Annotations that it does not set are missing. It raises a ValueError for wrong
        input.
    patterns (Sequence[str]): The names of its files, as glob patterns. Upper and lower case are
        the same.
    options (Sequence[str]): The reader's keyword arguments. All have defaults, and all are strings
        but `skip_errors`, a bool: whether wrong parts of a file are left out. `encoding` is the
        name of the files' encoding.
    accepts (Optional[Callable[[str], bool]]): Tells whether the first lines of a file have the
        format. Set it where several formats share a pattern.
    """

    read: Callable[..., Iterator[Doc]]
    patterns: Sequence[str]
    options: Sequence[str] = ()
    accepts: Callable[[str], bool] | None = None

    def has_name(self, path: Path) -> bool:
        """RETURNS (bool): Whether the name of a file fits a pattern."""
        name = Path(str(path).lower())
        return any(name.match(pattern.lower()) for pattern in self.patterns)

    def matches(self, path: Path) -> bool:
        """Tell whether a file has the format.

        path (Path): The file.
        RETURNS (bool): Whether its name fits a pattern, and its first lines the format.
        """
        return self.has_name(path) and (self.accepts is None or self.accepts(read_head(path)))

    def get_source(self, path: Path) -> Path:
        """RETURNS (Path): The path to read for a file: the file, or the folder of a corpus that
        consists of several files.
        """
        return path


class FolderFormat(Format):
    """A format of corpora that are folders of several files."""

    def get_source(self, path: Path) -> Path:
        return path if path.is_dir() else path.parent


@dataclass(frozen=True)
class JsonFormat(Format):
    """A format of files that are one JSON document.

    has_form (Callable[[object], bool]): Tells whether a JSON value has the format.
    """

    has_form: Callable[[object], bool] = bool

    def matches(self, path: Path) -> bool:
        try:
            return super().matches(path) and self.has_form(load_json(path))
        except ValueError:
            return False


class OtherJson(Format):
    """The format of JSON files that have no other format."""

    def matches(self, path: Path) -> bool:
        others = [entry for entry in get_formats().values() if entry is not self]
        return super().matches(path) and not any(entry.matches(path) for entry in others)


class StandoffFormat(Format):
    """A format of pairs of files: a `.txt` with the text and an `.ann` with its labels."""

    def matches(self, path: Path) -> bool:
        return super().matches(path) and self.get_source(path).exists()

    def get_source(self, path: Path) -> Path:
        return path.with_suffix(".ann")


def _looks_like_table(head: str) -> bool:
    return not looks_like_columns(head)


CONLLU = Format(
    read_conllu,
    ["*.conllu", "*.conll", "*.conllx"],
    ["tags", "category", "misc", "spans", "encoding", "skip_errors"],
    looks_like_conllu,
)
COLUMNS = Format(
    read_columns,
    [
        *("*.conll", "*.conllup", "*.iob", "*.iob2", "*.bio", "*.iobes", "*.bioes", "*.bilou"),
        *("*.bmes", "*.tsv", "*.txt"),
    ],
    ["columns", "category", "encoding", "skip_errors"],
    looks_like_columns,
)
FASTTEXT = Format(
    read_fasttext,
    ["*.txt", "*.ft", "*.train", "*.valid", "*.test"],
    ["lang", "encoding"],
    looks_like_fasttext,
)
SLOTS = FolderFormat(read_slots, ["seq.in", "seq.out", "label"], ["encoding", "skip_errors"])
TABLE = [
    "text",
    "category",
    "scores",
    "target",
    "separator",
    "delimiter",
    "lang",
    "encoding",
    "skip_errors",
]
CSV = Format(read_csv, ["*.csv"], TABLE)
TSV = Format(read_tsv, ["*.tsv"], TABLE, _looks_like_table)

SPANS = ["lang", "spans", "skip_errors"]  # options of readers of entities
RECORDS = [*SPANS, "text", "category", "names"]
JSONL = Format(read_json, ["*.jsonl", "*.ndjson"], [*RECORDS, "encoding"])
JSON = OtherJson(read_json, ["*.json"], [*RECORDS, "encoding"])
PARQUET = Format(read_parquet, ["*.parquet"], RECORDS)
CLINC = JsonFormat(read_clinc, ["*.json"], ["split", "lang"], has_form=is_clinc)
SNIPS = JsonFormat(read_snips, ["*.json"], SPANS, has_form=is_snips)
LABEL_STUDIO = JsonFormat(
    read_label_studio, ["*.json"], [*SPANS, "text", "category"], has_form=is_label_studio
)
SQUAD = JsonFormat(read_squad, ["*.json"], [*SPANS, "encoding"], has_form=is_squad)
RASA = Format(read_rasa, ["*.yml", "*.yaml", "*.json"], [*SPANS, "encoding"], is_rasa)
SPACY_JSON = JsonFormat(read_spacy_json, ["*.json"], ["skip_errors"], has_form=is_spacy_json)
SPACY = Format(read_spacy, ["*.spacy"])
BRAT = StandoffFormat(read_brat, ["*.ann", "*.txt"], [*SPANS, "encoding"])


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
    RETURNS (Optional[str]): The name of the format that matches. If none does, the only one whose
        names fit, so that its reader can tell what is wrong. Otherwise None.
    RAISES (ValueError): M129 if several formats match.
    """
    entries = get_formats() if known is None else known
    names = [name for name, entry in entries.items() if entry.matches(path)]
    if len(names) > 1:
        raise ValueError(Errors.M129.format(path=path, names=names))
    names = names or [name for name, entry in entries.items() if entry.has_name(path)]
    return names[0] if len(names) == 1 else None


def find_files(
    paths: Iterable[Path], format: str = AUTO, output: Path | None = None
) -> list[tuple[str, Path]]:
    """Find the corpora in files and folders. Subfolders are left out.

    W113 warns of what is left out of a folder, except hidden files.

    paths (Iterable[Path]): Files, or folders of files of the format.
    format (str): The name of a format, or "auto" to guess it from the files.
    output (Optional[Path]): A file that is no input, even if a folder has it.
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
        named, skipped = _name_formats(path, format, known, output)
        if not named:
            raise ValueError(Errors.M102.format(path=path, format=format, formats=list(known)))
        if skipped:
            names = quote(skipped[:SHOWN]) + (", ..." if len(skipped) > SHOWN else "")
            message = Warnings.W113.format(folder=path, n=len(skipped), names=names)
            warnings.warn(message)
        found |= {(name, known[name].get_source(file)): None for name, file in named}
    return list(found)


def _name_formats(
    path: Path, format: str, known: Mapping[str, Format], output: Path | None
) -> tuple[list[tuple[str, Path]], list[str]]:
    """RETURNS (Tuple[List[Tuple[str, Path]], List[str]]): The files of a path with their formats,
    and the names of other files and of subfolders.
    """
    if not path.is_dir():
        name = guess_format(path, known) if format == AUTO else format
        return ([(name, path)] if name is not None and name in known else []), []
    named, skipped = [], []
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or (output and file.resolve() == output.resolve()):
            continue
        if format == AUTO:
            name = None if file.is_dir() else guess_format(file, known)
        else:
            name = format if format in known and known[format].matches(file) else None
        if name is None:
            skipped.append(f"{file.name}/" if file.is_dir() else file.name)
        else:
            named.append((name, file))
    return named, skipped


def read_docs(
    paths: Iterable[Path],
    vocab: Vocab,
    *,
    format: str = AUTO,
    output: Path | None = None,
    **options: str | bool | None,
) -> Iterator[Doc]:
    """Read files and folders as one corpus.

    A doc with categories gets the value 0 for the other labels that its file knows. Files that
    share a label know the labels of each other. Other files do not: a file of topics says nothing
    about the intents in another. Of the user data of docs only the document id is kept.

    paths (Iterable[Path]): Files, or folders of files of the format.
    vocab (Vocab): The vocab of the docs.
    format (str): The name of a format, or "auto" to guess it from the files.
    output (Optional[Path]): A file that is no input, even if a folder has it.
    **options (Optional[Union[str, bool]]): Options of the readers. Each reader gets the options
        that its format has; None stands for the reader's default.
    YIELDS (Doc): The docs. W114 warns of a file without docs, W115 of one without annotations.
    RAISES (ValueError): M113 for an unknown option, M130 for an option that no file's format has;
        others if a path cannot be read.
    """
    known = get_formats()
    choices = sorted({key for entry in known.values() for key in entry.options})
    for key in options.keys() - set(choices):
        raise ValueError(Errors.M113.format(value=key, option="option", choices=choices))
    files = find_files(paths, format, output)
    _check_options({name for name, _ in files}, known, options)
    corpora = []
    for name, path in files:
        entry = known[name]
        given = {key: options[key] for key in entry.options if options.get(key) is not None}
        corpora.append(list(entry.read(path, vocab, **given)))
    layers = [layer for name, layer in get_layers().items() if name != "sents"]
    for (name, path), docs in zip(files, corpora, strict=True):
        if not docs and any(corpora):
            warnings.warn(Warnings.W114.format(path=path, format=name))
        elif docs and not any(layer.is_annotated(doc) for doc in docs for layer in layers):
            warnings.warn(Warnings.W115.format(path=path, format=name, n=len(docs)))
    _fill_cats(corpora)
    for docs in corpora:
        drop_other_data(docs)
        yield from docs


def _check_options(
    used: set[str], known: Mapping[str, Format], options: Mapping[str, str | bool | None]
) -> None:
    """Refuse an option that no file's format has. `lang` is also that of the docs."""
    for key, value in options.items():
        users = [name for name, entry in known.items() if key in entry.options]
        if key != "lang" and value not in (None, False) and used.isdisjoint(users):
            option, names = f"--{key.replace('_', '-')}", ", ".join(sorted(used))
            raise ValueError(
                Errors.M130.format(option=option, formats=names, choices=", ".join(users))
            )


def _fill_cats(corpora: Iterable[Sequence[Doc]]) -> None:
    """Set the categories of docs to 0 where they have none, and remove unknown ones, which are NaN.

    corpora (Iterable[Sequence[Doc]]): The docs of each file. Files that share a label, if only by
        way of another file, have the same labels.
    """
    groups: list[set[str]] = []
    for docs in corpora:
        labels = {label for doc in docs for label in doc.cats if label != OTHERS}
        for group in [group for group in groups if not group.isdisjoint(labels)]:
            groups.remove(group)
            labels |= group
        groups.append(labels)
    for doc in (doc for docs in corpora for doc in docs if doc.cats):
        labels = next(group for group in groups if not group.isdisjoint(doc.cats))
        others = doc.cats.get(OTHERS, 0.0)
        values = {label: doc.cats.get(label, others) for label in sorted(labels)}
        doc.cats = {label: value for label, value in values.items() if not isnan(value)}
