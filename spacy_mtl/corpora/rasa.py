"""Reads training data of Rasa NLU: https://rasa.com/docs/rasa/training-data-format."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from ..extras import get_install_line
from ..types import Settings
from .json_files import load_json
from .omissions import Omissions
from .records import read_records
from .text_io import UTF8, make_error, read_text

DATA, EXAMPLES = "rasa_nlu_data", "common_examples"
# [text](entity), [text](entity:value), [text]{"entity": ...} and [text][{...}, {...}]
_ENTITY = re.compile(
    r"\[(?P<text>[^\]]+)\](?:\((?P<name>[^():]+)(?::[^()]*)?\)|(?P<object>\{[^}]*\})|"
    r"\[(?P<objects>\{[^\]]*\})\])"
)


def is_rasa(head: str) -> bool:
    """RETURNS (bool): Whether the first lines of a YAML or JSON file are Rasa's."""
    return bool(re.search(rf'^nlu:|^\s*{{\s*"{DATA}"', head, re.MULTILINE))


def read_rasa(
    path: Path,
    vocab: Vocab,
    *,
    lang: str = "en",
    spans: str = "",
    encoding: str = UTF8,
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read the examples of intents: intents become categories.

    path (Path): A YAML or JSON file.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits the texts.
    spans (str): The key in `doc.spans` for the entities; empty for `doc.ents`.
    encoding (str): The encoding of the file.
    skip_errors (bool): Whether entities that do not fit the text are left out.
    YIELDS (Doc): The docs.
    RAISES (ValueError): M109 or M158 if the file is not JSON or YAML, M157 if PyYAML is missing,
        M114 if the file is not of this form; as `read_records`.
    """
    with Omissions(path, skip_errors, unit="record") as omissions:
        if path.suffix.lower() == ".json":
            records = list(_read_json(omissions, load_json(path, encoding)))
        else:
            records = list(_read_yaml(omissions, read_text(path, encoding)))
        yield from read_records(omissions, enumerate(records, 1), vocab, lang=lang, spans=spans)


def _read_json(omissions: Omissions, value: object) -> Iterator[object]:
    data = value.get(DATA) if isinstance(value, dict) else None
    if not isinstance(data, dict):
        raise make_error(omissions.path, DATA, data, "an object")
    for key in sorted(data.keys() - {EXAMPLES}):
        if data[key]:
            omissions.add_unread("keys", key)
    yield from data.get(EXAMPLES, ())


def _read_yaml(omissions: Omissions, content: str) -> Iterator[Settings]:
    path = omissions.path
    try:
        import yaml
    except ImportError as error:
        install = get_install_line("yaml")
        raise ValueError(
            Errors.M157.format(path=path, package="PyYAML", install=install)
        ) from error
    try:
        data = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(Errors.M158.format(path=path, error=error)) from error
    groups = data.get("nlu") if isinstance(data, dict) else None
    if not isinstance(groups, list):
        raise make_error(path, "nlu", groups, "a list")
    for key in sorted(data.keys() - {"version", "nlu"}):
        omissions.add_unread("keys", key)
    for i, group in enumerate(groups, 1):
        if not isinstance(group, dict) or "intent" not in group:
            names = group.keys() - {"examples"} if isinstance(group, dict) else [group]
            omissions.add_unread("parts of nlu", ", ".join(map(str, names)), i)
            continue
        examples = group.get("examples") or ""
        if isinstance(examples, str):
            lines = [line.strip() for line in examples.splitlines() if line.strip()]
            examples = [line.removeprefix("-").strip() for line in lines]
        for example in examples:
            content = example.get("text") if isinstance(example, dict) else example
            if not isinstance(content, str):
                raise make_error(path, "examples", examples, "lines that begin with '- '")
            yield {"intent": group["intent"], **parse_example(path, content.strip())}


def parse_example(path: Path, example: str) -> Settings:
    """Parse the marks of entities, such as `[at six](time)`.

    path (Path): The file, for messages.
    example (str): The example.
    RETURNS (Settings): Its text and entities.
    RAISES (ValueError): M114 if the object of an entity is not JSON.
    """
    text, position, entities = "", 0, []
    for match in _ENTITY.finditer(example):
        text += example[position : match.start()]
        position = match.end()
        content = match["object"] or match["objects"]
        try:
            objects = json.loads(f"[{content}]") if content else [{"entity": match["name"]}]
        except json.JSONDecodeError as error:
            raise make_error(path, "an example", example, "text with JSON in {}") from error
        place = {"start": len(text), "end": len(text) + len(match["text"])}
        entities += [{**item, **place} for item in objects]
        text += match["text"]
    return {"text": text + example[position:], "entities": entities}
