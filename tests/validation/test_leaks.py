import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.lang.en import English
from spacy.tokens import Doc

from spacy_mtl.validation.leaks import SIMILAR, find_leaks, make_shingles, warn_of_leaks

VOCAB = English().vocab


def make_docs(*texts: str) -> list[Doc]:
    return [Doc(VOCAB, words=text.split()) for text in texts]


def test_near_duplicates() -> None:
    words = " ".join(f"w{i}" for i in range(30))
    docs = make_docs(words, f"{words} more", "another text of some words", f"{words.upper()} .", "")
    leaks = find_leaks(docs, numpy.array([0, 1, 1, 1, 0]))
    assert [(leak.first, leak.second) for leak in leaks] == [(0, 3), (1, 0), (3, 0)]
    assert leaks[0].similarity == 1.0 and SIMILAR < leaks[1].similarity < 1
    assert find_leaks(docs, numpy.array([0, 0, 1, 0, 1])) == []
    with pytest.warns(UserWarning, match=r"W132.*3 of 5 docs.*'w0 w1.*' and 'w0 w1"):
        warn_of_leaks(docs, leaks)
    warn_of_leaks(docs, [])


def test_short_texts() -> None:
    docs = make_docs("Play music", "play music !", "play", "!", "")
    assert [len(make_shingles(doc)) for doc in docs] == [1, 1, 1, 0, 0]
    leaks = find_leaks(docs, numpy.array([0, 1, 1, 0, 1]))
    assert [(leak.first, leak.second) for leak in leaks] == [(0, 1), (1, 0)]


@given(st.lists(st.text("abc", min_size=1, max_size=12), min_size=2, max_size=12))
def test_all_pairs_are_found(texts) -> None:
    """The rarest shingles alone find what a comparison of all pairs finds."""
    docs = make_docs(*(" ".join(text) for text in texts))
    folds = numpy.arange(len(docs))
    sets = [make_shingles(doc) for doc in docs]
    expected = {
        i
        for i, own in enumerate(sets)
        for j, other in enumerate(sets)
        if i != j and len(own & other) / len(own | other) >= SIMILAR
    }
    assert {leak.first for leak in find_leaks(docs, folds)} == expected
