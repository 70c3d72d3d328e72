"""Docs of two texts."""

import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin

from spacy_mtl.pairs import KEY, SEPARATOR, find_separator, find_texts, make_pair

NLP = spacy.blank("en")
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters=SEPARATOR))


def test_a_pair() -> None:
    doc = make_pair(NLP, "Who left?", "Anna left.")
    assert [token.text for token in doc] == ["Who", "left", "?", SEPARATOR, "Anna", "left", "."]
    assert doc.text == f"Who left? {SEPARATOR} Anna left."
    assert [(span.text, span.label_) for span in doc.spans[KEY]] == [
        ("Who left?", "first"),
        ("Anna left.", "second"),
    ]
    stored = DocBin(docs=[doc]).to_bytes()
    (loaded,) = DocBin().from_bytes(stored).get_docs(spacy.blank("en").vocab)
    assert [span.text for span in loaded.spans[KEY]] == ["Who left?", "Anna left."]
    assert find_separator(NLP(doc.text)) == 3


def test_empty_texts() -> None:
    for first, second in [("", "b"), ("a", ""), ("", "")]:
        doc = make_pair(NLP, first, second)
        assert find_texts(doc) is None and find_separator(doc) is not None
        assert [span.text for span in doc.spans[KEY]] == [text for text in (first, second) if text]
    assert find_texts(Doc(NLP.vocab)) is None
    assert find_separator(NLP("no pair")) is None


@given(TEXT, TEXT)
def test_any_texts(first: str, second: str) -> None:
    doc = make_pair(NLP, first, second)
    found = find_texts(doc)
    if NLP(first) and NLP(second):
        assert found is not None and (found[0].text, found[1].text) == (
            NLP(first)[:].text,
            NLP(second)[:].text,
        )
    else:
        assert found is None
