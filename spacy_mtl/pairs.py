"""Docs of two texts, such as a question and its context. A token between the texts separates them,
so that a doc made from the words or the text alone has both.
"""

import numpy
from spacy.attrs import ORTH
from spacy.language import Language
from spacy.tokens import Doc, Span

SEPARATOR = "\u241e"  # the symbol for "record separator"
UNORDERED = "\u241f"  # the symbol for "unit separator": the order of the texts has no meaning
KEY = "pair"  # of the spans of both texts in `doc.spans`


def make_pair(nlp: Language, first: str, second: str, *, ordered: bool = True) -> Doc:
    """Make a doc of two texts, for components that read pairs.

    nlp (Language): The pipeline, for its tokenizer and vocab.
    first, second (str): The texts.
    ordered (bool): Whether their order has a meaning. If not, the encoder reads the pair in both
        orders, and the row of a token is the mean of both.
    RETURNS (Doc): The tokens of the first text, a separator, and those of the second text.
        `doc.spans["pair"]` has the spans "first" and "second" of those texts that are not empty.
        `nlp(doc)` annotates it. The text of the doc gives the same pair again.
    """
    mark = Doc(nlp.vocab, words=[SEPARATOR if ordered else UNORDERED], spaces=[False])
    before, after = nlp.make_doc(first), nlp.make_doc(second)
    doc = Doc.from_docs([before, mark, after])
    assert doc is not None  # which it is for no docs only
    places = (0, len(before), "first"), (len(before) + 1, len(doc), "second")
    doc.spans[KEY] = [Span(doc, a, b, label) for a, b, label in places if a < b]
    return doc


def find_separator(doc: Doc) -> int | None:
    """RETURNS (Optional[int]): The token that separates the texts of a pair, the first one; None if
    the doc has none.
    """
    strings = doc.vocab.strings
    marks = [strings[mark] for mark in (SEPARATOR, UNORDERED) if mark in strings]
    if not marks:
        return None
    places = numpy.flatnonzero(numpy.isin(doc.to_array(ORTH), numpy.array(marks, dtype="uint64")))
    return int(places[0]) if len(places) else None


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
