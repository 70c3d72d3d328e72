"""Batches are grouped into calls, and calls are halved when memory runs out."""

import numpy
from hypothesis import given
from hypothesis import strategies as st

from spacy_mtl.encoder.model.batches import group_calls, halve


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 50))), st.integers(0, 200))
def test_calls_keep_within_the_budget(sizes: list[tuple[int, int]], budget: int) -> None:
    batches = [(numpy.arange(n), length) for n, length in sizes]
    calls = group_calls(batches, budget)
    assert [batch for group in calls for batch in group] == batches
    for group in calls:
        assert len(group) == 1 or sum(len(batch) * length for batch, length in group) <= budget
    if not budget:
        assert len(calls) == len(batches)


def test_halves() -> None:
    one, three = (numpy.arange(1), 9), (numpy.arange(3), 7)
    assert halve([one, three, one]) == [[one], [three, one]]
    [[(first, length)], [(second, _)]] = halve([three])
    assert (first.tolist(), second.tolist(), length) == ([0], [1, 2], 7)
    assert halve([one]) == []
