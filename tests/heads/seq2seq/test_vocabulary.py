"""Pieces of texts, and the units that a doc's text is written with."""

from hypothesis import given
from hypothesis import strategies as st

from spacy_mtl.heads.seq2seq.vocabulary import (
    BYTES,
    END,
    MAX_PIECE,
    Units,
    Vocabulary,
    learn_pieces,
    spell,
    unspell,
)

PIECES = learn_pieces(["play(artist=Ada)", "play(artist=Bo)", "übergrößen übergroß"], 300)
VOCABULARY = Vocabulary(PIECES)


def show(units: Units, text: str) -> list[str]:
    return [units.decode([number]) for number in units.encode(text)]


def test_learns_frequent_pieces() -> None:
    assert PIECES[: len(BYTES) + 1] == [END, *BYTES]
    learned = PIECES[len(BYTES) + 1 :]
    assert {"play", "artist"} <= set(learned)
    assert spell("übergroß") not in learned  # the other one has no space before it
    assert len(set(PIECES)) == len(PIECES) == len(VOCABULARY) < 300


def test_size_of_the_vocabulary() -> None:
    texts = ["abcdefgh " * 5, "hgfedcba"] * 3
    assert len(learn_pieces(texts, 260)) == 260
    assert learn_pieces([], 300) == [END, *BYTES]
    assert max(map(len, learn_pieces(["a" * 1000] * 2, 2000))) <= MAX_PIECE


def test_the_longest_unit_that_fits() -> None:
    units = Units(VOCABULARY, ["hear", "Mono", "Blue", "play"])
    text = "play(artist=Mono Blue)"
    assert show(units, text) == ["play", "(", "artist", "=", "Mono", " Blue", ")", ""]
    assert show(Units(VOCABULARY, []), "playy") == ["play", "y", ""]


def test_copies_have_the_number_of_an_equal_piece() -> None:
    n = len(VOCABULARY)
    units = Units(VOCABULARY, ["play", "Mono", "Mono"])
    assert units.copies == [VOCABULARY.index["play"], n, n, n + 1, n + 2, n + 2]
    assert units.decode([n, n + 2, n + 1]) == "Mono Mono play"


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_every_text_can_be_written(text: str, tokens: list[str]) -> None:
    units = Units(VOCABULARY, tokens)
    numbers = units.encode(text)
    assert numbers.count(0) == 1 and numbers[-1] == 0
    assert units.decode(numbers) == text


def test_texts_that_are_no_unicode() -> None:
    assert unspell(spell("a\ud800b")) == "a?b"
    assert unspell(spell("größe")[:4]) == "grö"
    assert unspell(spell("größe")[:3]) == "gr"


def test_problems() -> None:
    assert VOCABULARY.find_problem() is None
    assert Vocabulary(["a", END]).find_problem() == "the first one is not empty"
    assert Vocabulary([]).find_problem() == "the first one is not empty"
    assert Vocabulary([END, *BYTES[1:]]).find_problem() == "the bytes ['\\x00'] are missing"
