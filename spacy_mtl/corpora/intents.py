"""Reads data sets of intents: the JSON of CLINC150 and of SNIPS."""

from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from ..types import Settings
from .json_files import is_tuple, load_json
from .omissions import Omissions
from .records import read_records
from .text_io import make_error


def is_clinc(value: object) -> bool:
    """RETURNS (bool): Whether JSON has the form `{split: [[text, label], ...]}`."""
    return isinstance(value, dict) and any(
        isinstance(items, list) and any(is_tuple(item) for item in items[:1])
        for items in value.values()
    )


def read_clinc(
    path: Path, vocab: Vocab, *, split: str = "train", lang: str = "en"
) -> Iterator[Doc]:
    """Read one split of a JSON file with the form `{split: [[text, label], ...]}`.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    split (str): The key of the split.
    lang (str): The language whose tokenizer splits the texts.
    YIELDS (Doc): The docs. `cats` has all labels of the split.
    RAISES (ValueError): M109 or M114 if the file is not JSON of this form, M110 if it lacks the
        split.
    """
    data = load_json(path)
    if not isinstance(data, dict):
        raise make_error(path, "the file", data, "an object of splits")
    if split not in data:
        fix = "Name one of these with --split"
        raise ValueError(Errors.M110.format(where=path, column=split, found=list(data), fix=fix))
    if not isinstance(data[split], list):
        raise make_error(path, split, data[split], "a list")
    for i, item in enumerate(data[split], 1):
        if not is_tuple(item) or not isinstance(item[1], str):
            raise make_error(path, f"item {i} of {split}", item, "[text, label]")
    with Omissions(path, unit="record") as omissions:
        yield from read_records(omissions, enumerate(data[split], 1), vocab, lang=lang)


def is_snips(value: object) -> bool:
    """RETURNS (bool): Whether JSON has the form `{intent: [{"data": [{"text", "entity"}]}]}`."""
    return isinstance(value, dict) and any(
        isinstance(items, list) and any(isinstance(i, dict) and "data" in i for i in items[:1])
        for items in value.values()
    )


def read_snips(
    path: Path, vocab: Vocab, *, lang: str = "en", spans: str = "", skip_errors: bool = False
) -> Iterator[Doc]:
    """Read the JSON of SNIPS: `{intent: [{"data": [{"text": ..., "entity": ...}, ...]}]}`.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits the texts.
    spans (str): The key in `doc.spans` for the slots; empty for `doc.ents`.
    skip_errors (bool): Whether slots that do not fit the tokens are left out.
    YIELDS (Doc): The docs, with the intent as the category and the slots as entities.
    RAISES (ValueError): M109 or M114 if the file is not JSON of this form; as `read_records`.
    """
    data = load_json(path)
    if not isinstance(data, dict):
        raise make_error(path, "the file", data, "an object of intents")
    with Omissions(path, skip_errors, unit="record") as omissions:
        records = [
            _join(path, intent, item)
            for intent, items in data.items()
            for item in (items if isinstance(items, list) else [items])
        ]
        yield from read_records(omissions, enumerate(records, 1), vocab, lang=lang, spans=spans)


def _join(path: Path, intent: str, item: object) -> Settings:
    """RETURNS (Settings): An utterance with the keys of records."""
    text = ""
    entities = []
    parts = item.get("data") if isinstance(item, dict) else None
    for part in parts if isinstance(parts, list) else [None]:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            fix = 'an object with a list "data" of objects with text'
            raise make_error(path, f"an utterance of {intent}", item, fix)
        if "entity" in part:
            entities.append([len(text), len(text) + len(part["text"]), part["entity"]])
        text += part["text"]
    return {"text": text, "entities": entities, "intent": intent}
