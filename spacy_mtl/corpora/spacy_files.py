"""Reads spaCy's own files: `.spacy`, and the JSON of spaCy v2."""

from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc, DocBin
from spacy.training.gold_io import json_to_annotations
from spacy.vocab import Vocab

from ..errors import Errors
from ..types import Settings
from .documents import drop_other_data, find_other_data
from .json_files import Numbered, load_json
from .omissions import Omissions
from .records import read_records
from .text_io import OTHERS, UNKNOWN

RECORD = "record"


def read_spacy(path: Path, vocab: Vocab) -> Iterator[Doc]:
    """Read a `.spacy` file, such as one that `spacy mtl convert` wrote.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    YIELDS (Doc): The docs. Categories that a doc does not name are unknown. Of their user data only
        the document id and annotation are kept.
    RAISES (ValueError): M101 if the file does not exist, M156 if it is no `.spacy` file.
    """
    if not path.is_file():
        raise ValueError(Errors.M101.format(path=path))
    try:
        docs = list(DocBin().from_disk(path).get_docs(vocab))
    except Exception as error:  # of zlib, of msgpack, or a missing key
        raise ValueError(Errors.M156.format(path=path, error=error)) from error
    with Omissions(path, unit=RECORD) as omissions:
        for i, doc in enumerate(docs, 1):
            for key in find_other_data(doc):
                omissions.add_unread("keys of user data", str(key), i)
            drop_other_data([doc])
            doc.cats = {**doc.cats, OTHERS: UNKNOWN} if doc.cats else {}
            yield doc


def is_spacy_json(value: object) -> bool:
    """RETURNS (bool): Whether JSON has the form of spaCy v2: a list of objects with paragraphs."""
    return isinstance(value, list) and any(
        isinstance(doc, dict) and "paragraphs" in doc for doc in value
    )


def read_spacy_json(path: Path, vocab: Vocab, *, skip_errors: bool = False) -> Iterator[Doc]:
    """Read the JSON of spaCy v2: https://v2.spacy.io/api/annotation#json-input.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    skip_errors (bool): Whether entities that do not fit the tokens are left out.
    YIELDS (Doc): A doc for each paragraph.
    RAISES (ValueError): M109 if the file is not JSON, M154 if it breaks the format.
    """
    with Omissions(path, skip_errors, unit=RECORD) as omissions:
        items = list(_read_paragraphs(omissions, load_json(path)))
        yield from read_records(omissions, items, vocab)


def _read_paragraphs(omissions: Omissions, data: object) -> Iterator[Numbered]:
    for i, doc in enumerate(data if isinstance(data, list) else [data], 1):
        try:
            for paragraph in json_to_annotations(doc):
                yield i, _make_record(omissions, i, paragraph)
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            where = omissions.get_place(i)
            raise ValueError(Errors.M154.format(where=where, error=reason)) from error


def _make_record(omissions: Omissions, number: int, paragraph: Settings) -> Settings:
    """RETURNS (Settings): A paragraph with the keys of records."""
    tokens = dict(paragraph["token_annotation"])
    labels = paragraph["doc_annotation"]
    for key, value in (("brackets", tokens.pop("brackets")), ("links", labels["links"])):
        if value:
            omissions.add_unread("keys", key, number)
    spaces = [space is not False for space in tokens.pop("spaces")]
    record = {key: tokens[key] for key in tokens if key != "ids"}
    record |= {"text": paragraph["text"], "spaces": spaces, "cats": labels["cats"]}
    if any(tag not in (None, "-", "") for tag in labels["entities"]):
        record["ner"] = labels["entities"]
    return record
