"""Decoded trees are the best of all trees."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_mtl.heads.parser.decoding import (
    are_trees,
    decode_projective,
    decode_trees,
    find_spanning_tree,
)

IMPOSSIBLE = -1e4


def make_scores(n: int, seed: int) -> numpy.ndarray:
    scores = numpy.random.default_rng(seed).normal(scale=3, size=(n, n + 1))
    scores[numpy.arange(n), numpy.arange(n) + 1] = IMPOSSIBLE
    return scores


def is_tree(heads: tuple[int, ...]) -> bool:
    """Tell whether all tokens, from 1 on, reach the only root."""
    for token in range(1, len(heads) + 1):
        for _ in heads:
            token = heads[token - 1] if token else 0
        if token:
            return False
    return heads.count(0) == 1


def is_projective(heads: tuple[int, ...]) -> bool:
    arcs = [sorted((i, head)) for i, head in enumerate(heads, 1)]
    return not any(a < c < b < d for a, b in arcs for c, d in arcs)


def get_trees(n: int, *, projective: bool = False) -> Iterator[tuple[int, ...]]:
    for heads in itertools.product(range(n + 1), repeat=n):
        if is_tree(heads) and (not projective or is_projective(heads)):
            yield heads


def find_best(scores: Any, **options: bool) -> tuple[int, ...]:
    n = len(scores)
    return max(get_trees(n, **options), key=lambda heads: scores[range(n), heads].sum())


@given(st.integers(1, 5), st.integers(0, 1000))
def test_the_best_tree(n: int, seed: int) -> None:
    scores = make_scores(n, seed)
    assert tuple(find_spanning_tree(scores)) == find_best(scores)


@given(st.integers(1, 5), st.integers(0, 1000))
def test_the_best_projective_tree(n: int, seed: int) -> None:
    scores = make_scores(n, seed)
    found = decode_projective(scores[None], numpy.array([n]))
    assert tuple(found[0]) == find_best(scores, projective=True)


def test_sentences_of_a_batch() -> None:
    lengths = numpy.array([3, 1, 5])
    batch = numpy.full((3, 5, 6), IMPOSSIBLE)
    alone = [make_scores(n, n) for n in lengths]
    for i, scores in enumerate(alone):
        batch[i, : len(scores), : len(scores) + 1] = scores
    for decode, options in ((decode_trees, {}), (decode_projective, {"projective": True})):
        found = decode(batch, lengths)
        for i, scores in enumerate(alone):
            assert tuple(found[i, : len(scores)]) == find_best(scores, **options)
            assert not found[i, len(scores) :].any()


def test_what_is_a_tree() -> None:
    heads = numpy.array([[0, 1, 2], [0, 3, 2], [0, 0, 1], [2, 0, 0], [2, 3, 1]])
    lengths = numpy.array([3, 3, 3, 2, 3])
    assert are_trees(heads, lengths).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("n", [1, 2, 60])
def test_long_sentences_of_nested_cycles(n: int) -> None:
    """Each contraction leads to the next: the best head of each token is its neighbour."""
    scores = make_scores(n, 0) * 0.01
    places = numpy.arange(n)
    scores[places[1:], places[1:]] = 10 + places[1:]
    if n > 1:
        scores[0, 2] = 20
    heads = find_spanning_tree(scores)
    assert are_trees(heads[None], numpy.array([n])).all()
