"""Docs of two texts, such as a question and its context. A token between the texts separates them,
so that a doc made from the words or the text alone has both.
"""

from typing import Protocol

from spacy.tokens import Doc, Span

SEPARATOR = "\u241e"  # the symbol for "record separator"
UNORDERED = "\u241f"  # the symbol for "unit separator": the order of the texts has no meaning
KEY = "pair"  # of the spans of both texts in `doc.spans`


class Tokenizes(Protocol):
    """A pipeline or a blank one, whose tokenizer splits texts."""

    def make_doc(self, text: str) -> Doc:
        """RETURNS (Doc): The tokens of a text."""


def make_pair(nlp: Tokenizes, first: str, second: str, *, ordered: bool = True) -> Doc:
    """Make a doc of two texts, for components that read pairs.

    nlp (Language): The pipeline, for its tokenizer and vocab.
    first, second (str): The texts.
    ordered (bool): Whether their order has a meaning. If not, the encoder reads the pair in both
        orders, and the row of a token is the mean of both.
    RETURNS (Doc): The tokens of the first text, a separator, and those of the second text.
        `doc.spans["pair"]` has the spans "first" and "second" of those texts that are not empty.
        `nlp(doc)` annotates it. The text of the doc gives the same pair again.
    """
    parts = [nlp.make_doc(text) for text in (first, second)]
    words, spaces = list[str](), list[bool]()
    for part, mark in zip(parts, ([SEPARATOR if ordered else UNORDERED], []), strict=True):
        words += [*(token.text for token in part), *mark]
        spaces += [*(bool(token.whitespace_) for token in part), *map(bool, mark)]
        if mark and len(part):
            spaces[len(part) - 1] = True
    doc = Doc(parts[0].vocab, words=words, spaces=spaces)
    mark_pair(doc)
    return doc


def mark_pair(doc: Doc) -> None:
    """Add the spans of both texts to `doc.spans["pair"]`, if the doc has a separator."""
    place = find_separator(doc)
    if place is not None:
        texts = (0, place, "first"), (place + 1, len(doc), "second")
        doc.spans[KEY] = [Span(doc, a, b, label) for a, b, label in texts if a < b]


def find_separator(doc: Doc) -> int | None:
    """RETURNS (Optional[int]): The token that separates the texts of a pair, the first one; None if
    the doc has none.
    """
    marks = [mark for mark in (SEPARATOR, UNORDERED) if mark in doc.vocab.strings]
    if not marks:
        return None
    return next((token.i for token in doc if token.text in marks), None)


def find_texts(doc: Doc) -> tuple[Span, Span] | None:
    """RETURNS (Optional[Tuple[Span, Span]]): Both texts of a pair; None if the doc is no pair, or
    one of them is empty.
    """
    place = find_separator(doc)
    if place is None or place in (0, len(doc) - 1):
        return None
    return doc[:place], doc[place + 1 :]


def is_ordered(doc: Doc) -> bool:
    """RETURNS (bool): Whether the order of a pair's texts has a meaning."""
    place = find_separator(doc)
    return place is None or doc[place].text == SEPARATOR
