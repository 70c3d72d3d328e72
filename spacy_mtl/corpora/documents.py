"""The documents that docs come from, so that the chunks of one can be kept together."""

from collections.abc import Iterable
from typing import Any

from spacy.tokens import Doc

from ..annotations.documents import Texts
from ..attributes import KEYS, make_key

DOCUMENT = "document_id"  # in `user_data`, which copies and serialized docs keep


def set_document(doc: Doc, name: str | None) -> None:
    """Note the document that a doc is a part of.

    doc (Doc): The doc.
    name (Optional[str]): The id of the document; None or empty if it is not known.
    """
    if name:
        doc.user_data[DOCUMENT] = name


def get_document(doc: Doc, key: str = DOCUMENT) -> str | None:
    """RETURNS (Optional[str]): The id of the document that a doc is a part of; None if it has none.

    doc (Doc): The doc.
    key (str): The key in `doc.user_data`.
    """
    value = doc.user_data.get(key)
    return None if value is None else str(value)


def keep_document(source: Doc, target: Doc) -> None:
    """Copy the id of the document to a doc that is made of another one."""
    set_document(target, get_document(source))


def find_other_data(doc: Doc) -> list[object]:
    """RETURNS (List[object]): The keys of user data except the document's id and annotation in
    custom attributes.
    """
    kept = {DOCUMENT, *KEYS, *map(make_key, Texts().get_texts(doc))}
    return [key for key in doc.user_data if key not in kept]


def drop_other_data(docs: Iterable[Doc]) -> None:
    """Remove the data of `find_other_data`, such as objects that cannot be saved."""
    for doc in docs:
        data: dict[Any, Any] = doc.user_data
        for key in find_other_data(doc):
            del data[key]
