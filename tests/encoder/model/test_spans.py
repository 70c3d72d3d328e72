import pickle

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc

from spacy_mtl.encoder.model.spans import configure_sentence_spans

NLP = spacy.blank("en")


def spans_of(words: list[str], window: int, starts: list[bool] | None = None) -> list[list[str]]:
    doc = Doc(NLP.vocab, words=words, sent_starts=starts)
    ((*spans,),) = configure_sentence_spans(window)([doc])
    return [[token.text for token in span] for span in spans]


def test_short_docs_stay_whole() -> None:
    assert spans_of(["a", ".", "b"], 3) == [["a", ".", "b"]]
    assert spans_of([], 3) == [[]]


def test_ends_at_punctuation_in_the_second_half() -> None:
    assert spans_of(["a", "b", "c", ".", "d", "e", "f"], 5) == [
        ["a", "b", "c", "."],
        ["d", "e", "f"],
    ]
    assert spans_of(["a", "b", "!", "!", "d", "e", "f", "g"], 5) == [
        ["a", "b", "!", "!"],
        ["d", "e", "f", "g"],
    ]


def test_a_sentence_that_ends_too_early_or_never_is_cut_at_the_window() -> None:
    assert spans_of(["a", ".", "c", "d", "e", "f"], 5) == [["a", ".", "c", "d", "e"], ["f"]]
    assert spans_of(["a", "b", "c", "d", "e", "f", "g"], 3) == [
        ["a", "b", "c"],
        ["d", "e", "f"],
        ["g"],
    ]


def test_the_docs_own_sentences_come_first() -> None:
    words = ["a", ".", "b", "c", "d", "e"]
    starts = [True, False, False, True, False, False]
    assert spans_of(words, 4, starts) == [["a", ".", "b"], ["c", "d", "e"]]


@given(st.lists(st.sampled_from(["a", ".", "?", "\n"]), max_size=40), st.integers(1, 12))
def test_spans_hold_every_token_once_and_fit(words: list[str], window: int) -> None:
    spans = spans_of(words, window)
    assert [word for span in spans for word in span] == words
    assert all(len(span) <= window for span in spans)
    assert all(spans[:-1])


def test_window_without_a_token() -> None:
    with pytest.raises(ValueError, match=r"M058.*window = 0"):
        configure_sentence_spans(0)


def test_can_be_pickled() -> None:
    """`n_process` pickles the function if processes are spawned."""
    (spans,) = pickle.loads(pickle.dumps(configure_sentence_spans(2)))([NLP("a b c")])
    assert [span.text for span in spans] == ["a b", "c"]
