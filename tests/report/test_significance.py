"""The randomisation test."""

from itertools import product

import numpy
import pytest

from spacy_mtl.report import significance
from spacy_mtl.report.scores import get_f
from spacy_mtl.report.significance import get_difference, get_p_value, get_spread


def make_counts(n_runs: int, n_docs: int, n_labels: int, seed: int, most: int = 4) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, most, (n_runs, n_docs, n_labels, 3))


def try_all(first: numpy.ndarray, second: numpy.ndarray) -> float:
    """Compute the p value by trying every exchange of docs, one by one."""
    observed = abs(get_difference(first.sum(axis=1), second.sum(axis=1)))
    extreme = 0
    for coins in product([False, True], repeat=first.shape[1]):
        a, b = first.copy(), second.copy()
        for doc, coin in enumerate(coins):
            if coin:
                a[:, doc], b[:, doc] = second[:, doc], first[:, doc]
        extreme += abs(get_difference(a.sum(axis=1), b.sum(axis=1))) >= observed - 1e-12
    return extreme / 2 ** first.shape[1]


@pytest.mark.parametrize(("n_docs", "p"), [(1, 1.0), (2, 0.5), (4, 0.125), (10, 2 / 1024)])
def test_always_better(n_docs, p):
    """The difference is as large only if no doc or every doc is exchanged."""
    wrong = numpy.tile([0, 1, 1], (1, n_docs, 1, 1))
    right = numpy.tile([1, 0, 0], (1, n_docs, 1, 1))
    assert get_p_value(wrong, right) == p


def test_better_in_three_of_four():
    """A difference of at least 2 docs is in 10 of 16 outcomes: 2 with 4 : 0 and 8 with 3 : 1."""
    first = numpy.array([[[[0, 1, 1]], [[0, 1, 1]], [[0, 1, 1]], [[1, 0, 0]]]])
    second = numpy.array([[[[1, 0, 0]], [[1, 0, 0]], [[1, 0, 0]], [[0, 1, 1]]]])
    assert get_p_value(first, second) == 10 / 16


def test_no_difference():
    counts = make_counts(2, 5, 3, seed=0)
    assert get_p_value(counts, counts) == 1.0
    many = make_counts(2, 30, 3, seed=0)
    assert get_p_value(many, many) == 1.0
    assert get_p_value(many[:, :0], many[:, :0]) == 1.0


@pytest.mark.parametrize("n_labels", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_exact_p_value(n_labels, seed):
    first, second = make_counts(3, 7, n_labels, seed), make_counts(3, 7, n_labels, seed + 100)
    assert get_p_value(first, second) == try_all(first, second)


def test_random_outcomes_approximate_all_outcomes(monkeypatch):
    first, second = make_counts(2, 12, 3, seed=1), make_counts(2, 12, 3, seed=2)
    exact = get_p_value(first, second)
    monkeypatch.setattr(significance, "ROUNDS", 4000)
    found = get_p_value(first, second)
    assert 0.1 < exact < 0.9
    assert found != exact
    assert found == pytest.approx(exact, abs=0.03)


def test_symmetric_and_seeded():
    first, second = make_counts(2, 40, 3, seed=3), make_counts(2, 40, 3, seed=4)
    p = get_p_value(first, second)
    assert 0 < p < 1
    assert get_p_value(second, first) == get_p_value(first, second) == p
    assert get_p_value(first, second, seed=1) == pytest.approx(p, abs=0.03)
    assert get_p_value(first, second, seed=1) != p


def test_order_of_docs_and_labels_does_not_matter():
    first, second = make_counts(1, 9, 4, seed=3), make_counts(1, 9, 4, seed=4)
    p = get_p_value(first, second)
    assert get_p_value(first[:, ::-1], second[:, ::-1]) == p
    assert get_p_value(first[:, :, ::-1], second[:, :, ::-1]) == p


def test_docs_without_counts_do_not_matter():
    first, second = make_counts(1, 6, 2, seed=3), make_counts(1, 6, 2, seed=4)
    empty = numpy.zeros((1, 3, 2, 3), dtype=int)
    more = [numpy.concatenate([counts, empty], axis=1) for counts in (first, second)]
    assert get_p_value(*more) == get_p_value(first, second)


def test_p_is_never_zero_for_random_outcomes():
    wrong = numpy.tile([0, 1, 1], (1, 100, 1, 1))
    right = numpy.tile([1, 0, 0], (1, 100, 1, 1))
    assert get_p_value(wrong, right) == 1 / 10_001


def test_rate_of_false_alarms(monkeypatch):
    """Of pairs that differ by chance only, about 1 in 10 has a p below 0.1."""
    monkeypatch.setattr(significance, "ROUNDS", 500)
    pairs = [make_counts(2, 30, 1, seed=i) for i in range(300)]
    alarms = sum(get_p_value(pair[:1], pair[1:]) <= 0.1 for pair in pairs)
    assert 15 <= alarms <= 45


def test_difference_is_the_mean_over_runs():
    first, second = make_counts(2, 5, 3, seed=0).sum(1), make_counts(2, 5, 3, seed=1).sum(1)
    expected = (get_f(second[0]) - get_f(first[0]) + get_f(second[1]) - get_f(first[1])) / 2
    assert get_difference(first, second) == pytest.approx(expected)


def test_spread():
    assert get_spread([0.5]) is None
    assert get_spread([0.25, 0.75]) == pytest.approx(0.125**0.5)
