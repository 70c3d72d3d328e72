"""Scores of pairs against a plain torch computation."""

import numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from spacy_mtl.heads.relation.scoring import (
    N_DISTANCES,
    Factors,
    Pairs,
    find_buckets,
    find_gaps,
    find_pairs,
    score_pairs,
)

WIDTH, N_TYPES, N_LABELS = 4, 3, 2
SPANS = numpy.array([[0, 2], [1, 2], [4, 6], [6, 7], [9, 10]])
TYPES = numpy.array([0, 1, 2, 0, 1])


def make_factors(n_rows: int = 10) -> Factors:
    rng = numpy.random.default_rng(0)
    shapes = [
        (n_rows, 3 * WIDTH),
        (2 * N_TYPES, WIDTH),
        (N_DISTANCES, WIDTH),
        (N_LABELS, WIDTH),
        (N_LABELS,),
    ]
    return Factors(*(rng.normal(size=shape).astype("f") for shape in shapes))


def make_pairs() -> Pairs:
    pairs = find_pairs([(int(a), int(b)) for a, b in SPANS], None)
    heads, children = numpy.array(pairs).T
    return Pairs(SPANS, TYPES, heads, children)


def score_one(factors: list[torch.Tensor], head: int, child: int) -> torch.Tensor:
    rows, types, distances, weights, bias = factors
    parts = rows.reshape(len(rows), 3, WIDTH)
    (a, b), (c, d) = SPANS[head], SPANS[child]
    x = parts[a:b, 0].mean(dim=0) + types[TYPES[head]]
    x = x + parts[c:d, 1].mean(dim=0) + types[N_TYPES + TYPES[child]]
    first, last = min(b, d), max(a, c)
    if first < last:
        x = x + parts[first:last, 2].mean(dim=0)
    gap = max(last - first, 0)
    bucket = min(int(gap).bit_length(), N_DISTANCES // 2 - 1) + (a > c) * N_DISTANCES // 2
    x = x + distances[bucket]
    return (x * torch.sigmoid(1.702 * x)) @ weights.T + bias


def test_scores_and_gradients() -> None:
    factors, pairs = make_factors(), make_pairs()
    scores, backprop = score_pairs(factors, pairs)
    tensors = [torch.tensor(array, requires_grad=True) for array in factors]
    expected = torch.stack(
        [score_one(tensors, i, j) for i, j in zip(pairs.heads, pairs.children, strict=True)]
    )
    numpy.testing.assert_allclose(scores, expected.detach(), atol=1e-5)
    d_scores = numpy.random.default_rng(1).normal(size=scores.shape).astype("f")
    expected.backward(torch.tensor(d_scores))
    for found, tensor in zip(backprop(d_scores), tensors, strict=True):
        numpy.testing.assert_allclose(found, tensor.grad, atol=1e-4)


def test_no_pairs() -> None:
    nothing = numpy.zeros(0, dtype="int64")
    pairs = Pairs(numpy.zeros((0, 2), dtype="int64"), nothing, nothing, nothing)
    scores, backprop = score_pairs(make_factors(), pairs)
    assert scores.shape == (0, N_LABELS)
    assert all(not gradient.any() for gradient in backprop(scores))


def test_gaps_and_buckets() -> None:
    heads = numpy.array([[0, 2], [5, 6], [0, 5], [0, 1], [0, 1]])
    children = numpy.array([[4, 5], [0, 1], [1, 2], [1, 2], [999, 1000]])
    first, last = find_gaps(heads, children)
    assert [*zip(first.tolist(), last.tolist(), strict=True)] == [
        (2, 4),
        (1, 5),
        (2, 2),
        (1, 1),
        (1, 999),
    ]
    assert find_buckets(heads, children).tolist() == [2, 11, 0, 0, 7]


@given(st.sets(st.tuples(st.integers(0, 20), st.integers(1, 4))), st.none() | st.integers(0, 12))
def test_pairs(places: set[tuple[int, int]], most: int | None) -> None:
    spans = [(start, start + size) for start, size in places]
    expected = [
        (i, j)
        for i, (a, b) in enumerate(spans)
        for j, (c, d) in enumerate(spans)
        if i != j and (most is None or max(a, c) - (b if a <= c else d) <= most)
    ]
    found = find_pairs(spans, most)
    # Of two spans with the same start the order decides, which does not matter for their gap.
    assert set(expected) == set(found) and len(found) == len(set(found))


def test_candidates_are_linear_in_spans() -> None:
    spans = [(3 * i, 3 * i + 1) for i in range(2000)]
    assert len(find_pairs(spans, 10)) < 2000 * 2 * 5
