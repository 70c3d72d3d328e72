"""What tests compare docs by."""

from spacy.tokens import Doc


def words(doc: Doc) -> list[str]:
    return [token.text for token in doc]


def ents(doc: Doc) -> list[tuple[str, str]]:
    return [(ent.text, ent.label_) for ent in doc.ents]


def iob(doc: Doc) -> list[str]:
    """RETURNS: "B", "I" or "O" for each token, "" where it is missing."""
    return [token.ent_iob_ for token in doc]


def is_missing(doc: Doc) -> tuple[bool, bool, bool]:
    """RETURNS: Whether tags, entities and categories are missing."""
    return not doc.has_annotation("TAG"), not doc.has_annotation("ENT_IOB"), not doc.cats


def describe(doc: Doc) -> tuple[object, ...]:
    tokens = [(t.text, t.whitespace_, t.tag_, t.ent_iob_, t.ent_type_) for t in doc]
    return doc.text, tokens, doc.cats
