"""Scores of spans against a loop over all of them."""

from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mtl.heads.spancat import scoring
from spacy_mtl.heads.spancat.scoring import Band, Scores, count_before

VECTOR, LABELS = 3, 2
LENGTHS = [([5, 0, 7, 1], 3), ([20], 30), ([3, 40, 9], 20), ([1], 1), ([0, 2], 4), ([50, 3], 1)]


def make_scores(n: int, width: int, seed: int = 0) -> Scores:
    random = numpy.random.default_rng(seed)
    shapes = (n, VECTOR), (n, VECTOR), (VECTOR + 1, LABELS, VECTOR + 1), (width, LABELS)
    return Scores(*(random.normal(size=shape) for shape in shapes))


def score_one_by_one(scores: Scores, lengths: list[int]) -> dict[tuple[int, int], Any]:
    """RETURNS: The scores of each span by the row of its last token and its width - 1."""
    found, first = {}, 0
    for length in lengths:
        for last in range(first, first + length):
            for width in range(min(len(scores.bias), last - first + 1)):
                start = numpy.append(scores.starts[last - width], 1)
                end = numpy.append(scores.ends[last], 1)
                pairs = numpy.einsum("i,ilj,j->l", start, scores.weights, end)
                found[last, width] = pairs + scores.bias[width]
        first += length
    return found


@pytest.mark.parametrize(("lengths", "width"), LENGTHS)
def test_scores_of_all_spans(lengths: list[int], width: int) -> None:
    scores = make_scores(sum(lengths), width)
    expected = score_one_by_one(scores, lengths)
    band = Band(scores, lengths)
    places = [(last, w) for last, w in numpy.argwhere(band.is_span()).tolist()]
    assert places == sorted(expected)
    found, _ = band.score(band.is_span())
    numpy.testing.assert_allclose(found, [expected[place] for place in places], rtol=1e-9)


@pytest.mark.parametrize(("lengths", "width"), LENGTHS)
def test_gradient(lengths: list[int], width: int) -> None:
    """The scores are linear in each factor, so differences are exact."""
    scores = make_scores(sum(lengths), width)
    band = Band(scores, lengths)
    is_wanted = band.is_span()
    is_wanted[::3] = False
    values, backprop = band.score(is_wanted)
    d_values = numpy.random.default_rng(1).normal(size=values.shape)
    gradient = backprop(d_values)
    change = make_scores(sum(lengths), width, seed=2)
    for name in Scores._fields:
        moved = scores._replace(**{name: getattr(scores, name) + getattr(change, name)})
        after, _ = Band(moved, lengths).score(is_wanted)
        expected = numpy.vdot(after - values, d_values)
        found = numpy.vdot(getattr(gradient, name), getattr(change, name))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any),
    st.integers(1, 12),
    st.floats(-3, 3),
)
def test_finds_all_above_a_score(lengths: list[int], width: int, least: float) -> None:
    scores = make_scores(sum(lengths), width)
    expected = {
        (last, w, label): score
        for (last, w), values in score_one_by_one(scores, lengths).items()
        for label, score in enumerate(values.tolist())
        if score >= least
    }
    hits = Band(scores, lengths).find(least)
    found = zip(*(array.tolist() for array in hits[:3]), strict=True)
    assert dict(zip(found, hits.score.tolist(), strict=True)) == pytest.approx(expected)


def test_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = make_scores(300, 7)
    whole = Band(scores, [200, 100]).find(1.0)
    monkeypatch.setattr(scoring, "CELLS", 1)
    parts = Band(scores, [200, 100]).find(1.0)
    for one, other in zip(whole, parts, strict=True):
        numpy.testing.assert_allclose(one, other)


def test_tokens_before() -> None:
    assert count_before([2, 0, 3]).tolist() == [0, 1, 0, 1, 2]
