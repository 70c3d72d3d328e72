"""Exact matches and chrF."""

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.annotations.documents import Texts
from spacy_mtl.heads.seq2seq.scorer import get_chrf, score_texts

VOCAB = spacy.blank("en").vocab


def make_example(found: str | None, gold: str | None, attribute: str = "generated") -> Example:
    docs = [Doc(VOCAB, words=["a"]) for _ in range(2)]
    for doc, text in zip(docs, (found, gold), strict=True):
        Texts().write(doc, {attribute: text})
    return Example(*docs)


def test_chrf_by_hand() -> None:
    """ "abc" for "abd": 2 of 3 characters, 1 of 2 pairs, no triple."""
    mean = (2 / 3 + 1 / 2 + 0) / 3
    assert get_chrf([("abc", "abd")]) == pytest.approx(mean)
    # Of "ab" for "abcd", all 2 characters and the pair are right. Longer n-grams have no precision.
    p, r = (1 + 1) / 4, (2 / 4 + 1 / 3) / 4
    assert get_chrf([("ab", "abcd")]) == pytest.approx(5 * p * r / (4 * p + r))


def test_chrf_counts_all_texts_together() -> None:
    assert get_chrf([("a b\nc", "abc"), ("", "")]) == 1
    assert get_chrf([("", "")]) == get_chrf([(" ", "")]) == 1
    assert get_chrf([("abc", "xyz")]) == get_chrf([("", "xyz")]) == get_chrf([("abc", "")]) == 0
    both = get_chrf([("abc", "abc"), ("x", "yyyyyyyyy")])
    assert 0 < both < (1 + 0) / 2  # a mean over docs would be 1/2
    assert get_chrf([("aaaa", "aa")]) < 1  # repetitions are not right


def test_scores() -> None:
    examples = [make_example("a", "a"), make_example("b", "a"), make_example("c", None)]
    scores = score_texts(examples)
    assert scores == {"texts_generated_exact": 0.5, "texts_generated_chrf": pytest.approx(0.5)}
    assert score_texts([make_example(None, "a")])["texts_generated_exact"] == 0
    assert score_texts([make_example("a", None)]) == dict.fromkeys(scores)
    other = score_texts([make_example("a", "a", "other")], attribute="other")
    assert other == {"texts_other_exact": 1.0, "texts_other_chrf": 1.0}
