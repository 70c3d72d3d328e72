"""Reads one doc per row or record from CSV, TSV, JSON Lines, and the JSON of CLINC150."""

import csv
import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from spacy import blank
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import filter_spans, get_words_and_spaces
from spacy.vocab import Vocab

from ..errors import Errors
from ..types import Settings
from .text_io import UNKNOWN, Cats, clean, clean_words, read_lines, with_cats

MAX_CELL = 2**31 - 1  # characters; the csv module's default is 131,072


def read_csv(
    path: Path,
    vocab: Vocab,
    *,
    text: str = "text",
    category: str = "label",
    separator: str = "",
    lang: str = "en",
    delimiter: str = ",",
    quoting: Literal[0, 1, 2, 3] = csv.QUOTE_MINIMAL,
) -> Iterator[Doc]:
    """Read the texts and categories of a table with a header.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    text (str): The column of the texts. Rows without text are left out.
    category (str): The column of the labels.
    separator (str): The string between two labels of one text. With a separator, a blank cell
        means that no label applies. Without one, it means that the category is missing.
    lang (str): The language whose tokenizer splits the texts.
    delimiter (str): The character between two columns.
    quoting (Literal[0, 1, 2, 3]): The handling of quotes, a constant of the `csv` module.
    YIELDS (Doc): The docs. `cats` has all labels of the file.
    RAISES (ValueError): M110 if a column is missing, M103 if a row has another number of columns.
    """
    nlp = blank(lang, vocab=vocab)
    pairs: list[tuple[Doc, Cats | None]] = []
    for row in _read_rows(path, {"--text": text, "--category": category}, delimiter, quoting):
        cell = row[category]
        labels = [label.strip() for label in (cell.split(separator) if separator else [cell])]
        cats = {label: 1.0 for label in labels if label}
        if row[text].strip():
            pairs.append((nlp.make_doc(row[text]), cats if cats or separator else None))
    yield from with_cats(pairs)


def read_tsv(path: Path, vocab: Vocab, **options: str) -> Iterator[Doc]:
    """Read a table with tabs between its columns. Quotes have no special meaning.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    **options (str): `text`, `category`, `separator` and `lang`, as in `read_csv`.
    YIELDS (Doc): The docs, as from `read_csv`.
    """
    return read_csv(path, vocab, delimiter="\t", quoting=csv.QUOTE_NONE, **options)


def read_jsonl(path: Path, vocab: Vocab, *, lang: str = "en") -> Iterator[Doc]:
    """Read one JSON object per line. All annotations are optional.

    The doc is `text` (str) or `tokens` (list of str). Give both if the text is not the tokens
    joined by spaces. The annotations:

    - `tags`: a string or null per token.
    - `entities` or `spans`: `[start, end, label]` or `{"start", "end", "label"}`, in characters.
    - `cats`: an object of numbers from 0 to 1, with null for an unknown category.
    - `label`: a string or a list of strings, instead of `cats`.

    A missing key or null is a missing annotation. An empty list means that no entity or label
    applies.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits a `text` without `tokens`.
    YIELDS (Doc): The docs. `cats` has all labels of the file, with NaN for unknown categories.
    RAISES (ValueError): M109 if a line is not JSON, M110 without a doc, M111 or M114 if an
        annotation does not fit the tokens.
    """
    nlp = blank(lang, vocab=vocab)
    pairs: list[tuple[Doc, Cats | None]] = []
    for line, content in read_lines(path):
        if not content.strip():
            continue
        where = f"{path}, line {line}"
        record = _parse_json(path, content, line)
        _check(isinstance(record, dict), where, "record", record, "a JSON object")
        doc = _make_doc(nlp, where, record)
        _set_tags(doc, where, record.get("tags"))
        _set_ents(doc, where, record.get("entities", record.get("spans")))
        if len(doc):
            pairs.append((doc, _read_cats(where, record)))
    yield from with_cats(pairs)


def read_clinc(
    path: Path, vocab: Vocab, *, split: str = "train", lang: str = "en"
) -> Iterator[Doc]:
    """Read one split of a JSON file with the form `{split: [[text, label], ...]}`.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    split (str): The key of the split.
    lang (str): The language whose tokenizer splits the texts.
    YIELDS (Doc): The docs. `cats` has one label, with the value 1.
    RAISES (ValueError): M109 or M114 if the file is not JSON of this form, M110 if it lacks the
        split.
    """
    nlp = blank(lang, vocab=vocab)
    data = _parse_json(path, "\n".join(line for _, line in read_lines(path)))
    _check(isinstance(data, dict), path, "the file", data, "an object of splits")
    if split not in data:
        fix = "Name one of these with --split"
        raise ValueError(Errors.M110.format(where=path, column=split, found=list(data), fix=fix))
    _check(isinstance(data[split], list), path, split, data[split], "a list")
    for i, item in enumerate(data[split]):
        is_pair = isinstance(item, list) and [type(value) for value in item] == [str, str]
        _check(is_pair, path, f"item {i} of {split}", item, "[text, label]")
        text, label = map(clean, item)
        if text.strip():
            doc = nlp.make_doc(text)
            doc.cats = {label: 1.0}
            yield doc


def _read_rows(
    path: Path, required: dict[str, str], delimiter: str, quoting: Literal[0, 1, 2, 3]
) -> Iterator[dict[str, str]]:
    reader = csv.reader(
        (f"{line}\n" for _, line in read_lines(path)), delimiter=delimiter, quoting=quoting
    )
    limit = csv.field_size_limit(MAX_CELL)
    try:
        rows = ((reader.line_num, row) for row in reader if row)
        line, header = next(rows, (1, list(required.values())))
        for option, column in required.items():
            if header.count(column) > 1:
                where, fix = f"{path}, line {line}", "one with each name once"
                _check(False, where, "the header", header, fix)
            if column not in header:
                where, fix = f"{path}, line {line}", f"Name one of these with {option}"
                raise ValueError(
                    Errors.M110.format(where=where, column=column, found=header, fix=fix)
                )
        for line, row in rows:
            if len(row) != len(header):
                raise ValueError(
                    Errors.M103.format(
                        path=path, line=line, found=len(row), expected=len(header), value=row
                    )
                )
            yield dict(zip(header, row, strict=True))
    finally:
        csv.field_size_limit(limit)


def _parse_json(path: Path, content: str, line: int = 1) -> Any:
    try:
        # strict=False accepts control characters inside strings.
        return json.loads(content, strict=False)
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        raise ValueError(Errors.M109.format(path=path, line=line, reason=error.msg)) from error


def _check(valid: bool, where: Path | str, key: str, value: object, fix: str) -> None:
    if not valid:
        raise ValueError(
            Errors.M114.format(where=where, key=key, value=reprlib.repr(value), fix=fix)
        )


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _make_doc(nlp: Language, where: str, record: Settings) -> Doc:
    if "text" not in record and "tokens" not in record:
        raise ValueError(
            Errors.M110.format(
                where=where,
                column="text",
                found=list(record),
                fix="Give each record text or tokens",
            )
        )
    tokens = record.get("tokens")
    _check(tokens is None or _is_strings(tokens), where, "tokens", tokens, "a list of strings")
    words = clean_words(tokens or [])
    text = record.get("text", " ".join(words))
    _check(isinstance(text, str), where, "text", text, "a string")
    if tokens is None:
        return nlp.make_doc(clean(text))
    try:
        words, spaces = get_words_and_spaces(words, clean(text))
        fits = len(words) == len(tokens)
    except ValueError:
        fits = False
    _check(fits, where, "tokens", tokens, "the words of its text, in order")
    return Doc(nlp.vocab, words=words, spaces=spaces)


def _set_tags(doc: Doc, where: str, tags: Any) -> None:
    if tags is not None:
        valid = isinstance(tags, list) and len(tags) == len(doc)
        valid = valid and all(isinstance(tag, str | None) for tag in tags)
        _check(valid, where, "tags", tags, f"{len(doc)} strings or nulls, one for each token")
        for token, tag in zip(doc, tags, strict=True):
            token.tag_ = clean(tag or "")


def _set_ents(doc: Doc, where: str, entities: Any) -> None:
    if entities is None:
        return
    _check(isinstance(entities, list), where, "entities", entities, "a list")
    spans: list[Span] = []
    for entity in entities:
        value: Any = entity
        if isinstance(entity, dict):
            value = [entity.get(key) for key in ("start", "end", "label")]
        is_span = isinstance(value, list) and [type(item) for item in value] == [int, int, str]
        _check(is_span and value[2] != "", where, "an entity", entity, "[start, end, label]")
        start, end, label = value
        inside = 0 <= start < end <= len(doc.text)
        span = doc.char_span(start, end, label=clean(label)) if inside else None
        if span is None or len(filter_spans([*spans, span])) <= len(spans):
            tokens = [t.text for t in doc if start < t.idx + len(t) and t.idx < end]
            raise ValueError(
                Errors.M111.format(
                    where=where, entity=value, value=doc.text[start:end], tokens=tokens
                )
            )
        spans.append(span)
    doc.set_ents(spans)


def _read_cats(where: str, record: Settings) -> Cats | None:
    cats = record.get("cats")
    if cats is None and record.get("label") not in (None, ""):
        labels = record["label"] if isinstance(record["label"], list) else [record["label"]]
        valid = all(isinstance(label, str | int | float) for label in labels)
        _check(valid, where, "label", labels, "a string or a list of strings")
        cats = {str(label): 1.0 for label in labels}
    if cats is not None:
        valid = isinstance(cats, dict) and all(map(_is_share, cats.values()))
        _check(valid, where, "cats", cats, "an object of labels and numbers from 0 to 1, or null")
        return {clean(k): UNKNOWN if v is None else float(v) for k, v in cats.items()}
    return None


def _is_share(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)
