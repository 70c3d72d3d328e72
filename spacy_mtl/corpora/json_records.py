"""Reads records from JSON Lines and JSON lists."""

from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors, quote
from .json_files import read_items
from .omissions import Omissions
from .record_layout import WORDS
from .records import HINT, TEXTS, read_records
from .text_io import UTF8


def read_json(
    path: Path,
    vocab: Vocab,
    *,
    lang: str = "en",
    text: str = "",
    category: str = "",
    names: str = "",
    spans: str = "",
    encoding: str = UTF8,
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read records: one per line, or the items of a list.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits a text without tokens.
    text (str): The key of the text; empty for "text", "sentence" or "utterance".
    category (str): The key of the categories; empty to look for it.
    names (str): The names of labels that are numbers, as in `parse_names`.
    spans (str): The key in `doc.spans` for the entities; empty for `doc.ents`.
    encoding (str): The encoding of the file.
    skip_errors (bool): Whether entities that do not fit the text are left out.
    YIELDS (Doc): The docs, as from `read_records`.
    RAISES (ValueError): M109 if a line is not JSON, M150 if an object has another form; as
        `read_records`.
    """
    unit, items = read_items(path, encoding)
    known = dict.fromkeys([text] if text else [*TEXTS, *WORDS])
    objects = [item for _, item in items if isinstance(item, dict)]
    if objects and not any({*known} & item.keys() for item in objects):
        raise ValueError(Errors.M150.format(path=path, keys=quote(objects[0]), known=quote(known)))
    with Omissions(path, skip_errors, HINT, unit) as omissions:
        yield from read_records(
            omissions,
            items,
            vocab,
            lang=lang,
            text=text,
            category=category,
            names=names,
            spans=spans,
        )
