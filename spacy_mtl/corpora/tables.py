"""Reads one doc per row from CSV and TSV."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Literal, NamedTuple

from spacy import blank
from spacy.language import Language
from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..annotations.documents import DEFAULT_TEXT, write_numbers
from ..attributes import CustomAttribute
from ..errors import Errors
from ..pairs import make_pair
from ..types import Settings
from .columns import Sentence, has_entities, label_words, make_docs
from .omissions import Omissions
from .text_io import (
    UNKNOWN,
    UTF8,
    Cats,
    clean,
    make_error,
    read_text,
    split_lines,
    split_names,
    with_cats,
)

GENERATED = CustomAttribute(DEFAULT_TEXT)
MAX_CELL = 2**31 - 1  # characters; the csv module's default is 131,072
DELIMITERS = {",": ",", ";": ";", "tab": "\t", "|": "|"}
# Names of columns in lower case. The first that a table has is read.
TEXTS = ("text", "sentence", "utterance")
LABELS = ("label", "labels", "category", "intent", "class")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
TOKENS = {
    "word": "word",
    "token": "word",
    "lemma": "lemma",
    "pos": "tag",
    "tag": "ner",
    "ner": "ner",
}
IDS = {"", "id", "index"}  # names of columns without labels, in lower case
MISSING = {"", "nan", "NaN", "<NA>"}  # cells without a value, as pandas writes them
SHARES = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "False": 0.0, "True": 1.0}
HINT = "Name the column of the texts with --text, and of the labels with --category."


def read_csv(
    path: Path,
    vocab: Vocab,
    *,
    text: str = "",
    category: str = "",
    scores: str = "",
    target: str = "",
    separator: str = "",
    delimiter: str = "",
    lang: str = "en",
    encoding: str = UTF8,
    skip_errors: bool = False,
    quoting: Literal[0, 1, 2, 3] = csv.QUOTE_MINIMAL,
) -> Iterator[Doc]:
    """Read the texts, categories, numbers and texts to generate of a table with a header. A table
    with two columns of texts, such as premise and hypothesis, has docs of two texts, as `make_pair`
    makes them.

    A table with a word per row has a column of sentences, such as `Sentence #`, whose value may
    stand in the first row of each sentence only. Its columns are named word or token, lemma, pos,
    and tag or ner.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    text (str): The column of the texts, or the two columns of pairs with a comma between them. Rows
        without text are left out. By default text, sentence or utterance, or the names in PAIRS.
    category (str): The column of the labels, or several columns of 0 and 1 with commas between
        them, one for each label. By default label, labels, category, intent or class, or else all
        columns of 0 and 1, if there are several, or else the only column besides the texts, unless
        it is one of `scores`.
    scores (str): The columns of numbers, with commas between them. A blank cell is a missing
        number.
    target (str): The column of the texts to generate, for `doc._.generated`. A blank cell is a
        missing text.
    separator (str): The string between two labels of one text. With a separator, a blank cell
        means that no label applies. Without one, it means that the category is missing.
    delimiter (str): The character between two columns, or "tab". By default the line `sep=;` of
        Excel tells it, or else the header.
    lang (str): The language whose tokenizer splits the texts.
    encoding (str): The encoding, as in `read_text`.
    skip_errors (bool): Whether to leave out rows with another number of columns.
    quoting (Literal[0, 1, 2, 3]): The handling of quotes, a constant of the `csv` module.
    YIELDS (Doc): The docs. `cats` has all labels of the file, with NaN for unknown ones.
    RAISES (ValueError): M110 if a column is missing, M103 if a row has another number of columns,
        M114 for a share of a label that is not from 0 to 1 or a number that is none, M137 for more
        than two columns of texts.
    """
    lines = split_lines(read_text(path, encoding))
    with Omissions(path, skip_errors, HINT) as omissions:
        table = _read_table(path, lines, delimiter, quoting, omissions)
        known = {name.lower(): name for name in reversed(table.header)}
        sentence = next((name for name in known if name.startswith("sentence")), "")
        pair = next((names for names in PAIRS if known.keys() >= set(names)), ())
        if sentence and {"word", "token"} & known.keys() and not text and not category:
            yield from make_docs(vocab, _read_sentences(table, known[sentence], omissions))
        elif table.header:
            default = [known[name] for name in pair] or [_get_first(known, TEXTS)]
            texts = split_names(text) if "," in text and text not in table.header else [text]
            texts = texts if text else default
            if len(texts) > 2:
                raise ValueError(Errors.M137.format(path=path, value=text, n=len(texts)))
            numbers = split_names(scores)
            targets = [target] if target else []
            for option, names in (
                ("--text", texts),
                ("--scores", numbers),
                ("--target", targets),
            ):
                for name in names:
                    _check_column(table, option, name)
            labels = _find_labels(table, [*texts, *numbers, *targets], category)
            for name in table.header:
                if name not in {*texts, *numbers, *targets, *labels} and not _is_index(table, name):
                    omissions.add_unread("columns", name, table.line)
            roles = Roles(texts, labels, numbers, targets)
            nlp = blank(lang, vocab=vocab)
            yield from with_cats(_read_texts(table, nlp, roles, separator, omissions))


def read_tsv(
    path: Path, vocab: Vocab, *, delimiter: str = "", **options: str | bool
) -> Iterator[Doc]:
    """Read a table with tabs between its columns. Quotes have no special meaning.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    delimiter (str): Another character between two columns. Quotes have their meaning then.
    **options (Union[str, bool]): The other options of `read_csv`.
    YIELDS (Doc): The docs, as from `read_csv`.
    """
    quoting = csv.QUOTE_MINIMAL if delimiter else csv.QUOTE_NONE
    settings: Settings = {"delimiter": delimiter or "tab", "quoting": quoting, **options}
    return read_csv(path, vocab, **settings)


class Roles(NamedTuple):
    """The columns of a table that are read: one or two of texts, those of labels, of numbers and of
    texts to generate.
    """

    texts: list[str]
    labels: list[str]
    numbers: list[str]
    targets: list[str]


class Table(NamedTuple):
    """A table: the names of its columns, their line, the delimiter, and each row with its line."""

    path: Path
    line: int
    header: list[str]
    delimiter: str
    rows: list[tuple[int, dict[str, str]]]


def _read_table(
    path: Path,
    lines: list[str],
    delimiter: str,
    quoting: Literal[0, 1, 2, 3],
    omissions: Omissions,
) -> Table:
    mark = re.fullmatch(r'"?sep=(.)"?', lines[0]) if lines else None
    if mark:
        lines = ["", *lines[1:]]
    delimiter = DELIMITERS.get(delimiter, delimiter) or (
        mark[1] if mark else _guess_delimiter(lines)
    )
    if len(delimiter) != 1:
        raise ValueError(
            Errors.M113.format(value=delimiter, option="delimiter", choices=[*DELIMITERS])
        )
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, quoting=quoting)
    limit = csv.field_size_limit(MAX_CELL)
    try:
        numbered = [(reader.line_num, row) for row in reader if row]
    finally:
        csv.field_size_limit(limit)
    line, header = numbered[0] if numbered else (1, [])
    header = [name.strip() for name in header]
    rows = []
    for number, row in numbered[1:]:
        with omissions.skipping("rows", number):
            if len(row) != len(header):
                raise ValueError(
                    Errors.M103.format(
                        path=path, line=number, found=len(row), expected=len(header), value=row
                    )
                )
            rows.append((number, dict(zip(header, row, strict=True))))
    return Table(path, line, header, delimiter, rows)


def _guess_delimiter(lines: Sequence[str]) -> str:
    """RETURNS (str): The delimiter that cuts the header into the most columns."""
    header = next((line for line in lines if line), "")
    return max(
        DELIMITERS.values(), key=lambda mark: len(next(csv.reader([header], delimiter=mark), []))
    )


def _get_first(known: Mapping[str, str], names: Sequence[str]) -> str:
    """RETURNS (str): The name in a table of the first column that it has."""
    return next((known[name] for name in names if name in known), names[0])


def _check_column(table: Table, option: str, column: str) -> None:
    where = f"{table.path}, line {table.line}"
    _check(
        table.header.count(column) < 2, where, "the header", table.header, "one with each name once"
    )
    if column not in table.header:
        example = table.delimiter.join(["text", "label", *["..."] * (len(table.header) > 2)])
        fix = f"Name one of these with {option}. If they are no names, put {example!r} above them"
        found = table.header
        raise ValueError(Errors.M110.format(where=where, column=column, found=found, fix=fix))


def _find_labels(table: Table, used: Sequence[str], category: str) -> list[str]:
    """RETURNS (List[str]): The column of the labels, or the columns of 0 and 1; none if all columns
    are used for texts and numbers.
    """
    if category:
        columns = [category] if category in table.header else category.split(",")
        columns = [column.strip() for column in columns]
    else:
        known = {name.lower(): name for name in reversed(table.header)}
        columns = [_get_first(known, LABELS)]
        others = [n for n in table.header if n not in used and n.lower() not in IDS]
        others = [name for name in others if not _is_index(table, name)]
        one_hot = [name for name in others if _is_one_hot(table, name)]
        if columns[0] not in table.header and (len(one_hot) > 1 or len(others) == 1):
            columns = one_hot if len(one_hot) > 1 else others
        elif columns[0] in used or (columns[0] not in table.header and len(used) > 1):
            columns = []
    for column in columns:
        _check_column(table, "--category", column)
    return columns


def _is_one_hot(table: Table, column: str) -> bool:
    values = {row[column] for _, row in table.rows} - MISSING
    return bool(values) and values <= SHARES.keys() and column.lower() not in IDS


def _is_index(table: Table, column: str) -> bool:
    """RETURNS (bool): Whether a column numbers the rows, as pandas writes it: without a name."""
    is_unnamed = not column or column.startswith("Unnamed: ")
    return is_unnamed and all(row[column].isdigit() for _, row in table.rows)


def _read_texts(
    table: Table,
    nlp: Language,
    roles: Roles,
    separator: str,
    omissions: Omissions,
) -> Iterator[tuple[Doc, Cats | None]]:
    texts, labels, numbers, targets = roles
    for line, row in table.rows:
        if any(row[text].strip() in MISSING for text in texts):
            omissions.add_left_out("rows without text", line)
            continue
        cells = [row[column].strip() for column in labels]
        cats: Cats | None
        if len(labels) > 1:
            cats = {
                label: _read_share(table, line, label, cell)
                for label, cell in zip(labels, cells, strict=True)
            }
            is_missing = any(map(isnan, cats.values()))
        elif not labels:
            cats, is_missing = None, False
        elif separator and cells[0] not in MISSING - {""}:
            cats = {label.strip(): 1.0 for label in cells[0].split(separator) if label.strip()}
            is_missing = False
        else:
            is_missing = cells[0] in MISSING
            cats = None if is_missing else {cells[0]: 1.0}
        if is_missing:
            omissions.add_left_out("labels that are empty or NaN", line)
        own = [row[text] for text in texts]
        doc = nlp.make_doc(own[0]) if len(own) == 1 else make_pair(nlp, own[0], own[1])
        if numbers:
            write_numbers(doc, ((name, _read_number(table, line, name, row)) for name in numbers))
        for name in targets:
            GENERATED.write(doc, clean(row[name]).strip() or None)
        yield doc, cats


def _read_number(table: Table, line: int, column: str, row: Mapping[str, str]) -> float | None:
    cell = row[column].strip()
    if cell in MISSING:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = inf
    _check(isfinite(number), f"{table.path}, line {line}", column, cell, "a number, or empty")
    return number


def _read_share(table: Table, line: int, column: str, cell: str) -> float:
    if cell in MISSING:
        return UNKNOWN
    try:
        share = SHARES[cell] if cell in SHARES else float(cell)
    except ValueError:
        share = -1.0
    fix = "0, 1 or a number between them, as several columns of labels are named"
    _check(0 <= share <= 1, f"{table.path}, line {line}", column, cell, fix)
    return share


def _read_sentences(table: Table, sentence: str, omissions: Omissions) -> list[Sentence]:
    """Read a table with a word per row."""
    roles: dict[str, str] = {}
    for name in table.header:
        role = TOKENS.get(name.lower())
        if role == "ner" and not has_entities(Counter(row[name] for _, row in table.rows)):
            role = "tag"
        if role and role not in roles:
            roles[role] = name
        elif name != sentence and not _is_index(table, name):
            omissions.add_unread("columns", name, table.line)
    groups: list[list[tuple[int, dict[str, str]]]] = []
    current = None
    for line, row in table.rows:
        if not groups or row[sentence].strip() not in ("", current):
            groups.append([])
        current = row[sentence].strip() or current
        groups[-1].append((line, row))
    sentences = []
    for group in groups:
        columns = {role: [row[name] for _, row in group] for role, name in roles.items()}
        with omissions.skipping("sentences", group[0][0]):
            labels = label_words(table.path, [line for line, _ in group], columns)
            spaces = [True] * len(group)
            sentences.append(Sentence(False, columns["word"], spaces, labels, None))
    return sentences


def _check(valid: bool, where: Path | str, key: str, value: object, fix: str) -> None:
    if not valid:
        raise make_error(where, key, value, fix)
