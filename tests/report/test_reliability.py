"""Bins of reliability diagrams."""

import numpy
import pytest

from spacy_mtl.report.reliability import BINS, LEAST, make_even_bins
from spacy_mtl.training.calibration import Bin


@pytest.mark.parametrize("n", [1, 24, 25, 49, 50, 251, 1000, 12345])
def test_bins_have_enough_predictions(n):
    random = numpy.random.default_rng(n)
    confidences = random.random(n).astype("float32")
    is_right = random.random(n) < confidences
    bins = make_even_bins(confidences, is_right)
    assert sum(b.count for b in bins) == n
    assert 1 <= len(bins) <= BINS
    assert len(bins) == 1 or min(b.count for b in bins) >= LEAST
    assert max(b.count for b in bins) < max(2 * LEAST, 2 * n / BINS + 1)
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    right = sum(b.count * b.accuracy for b in bins)
    assert right == pytest.approx(is_right.sum())


def test_equal_confidences_are_in_one_bin():
    """The order of the predictions does not matter."""
    confidences = numpy.repeat(numpy.array([0.5, 0.9, 1.0], "f"), [30, 200, 70])
    is_right = numpy.arange(300) % 2 == 0
    order = numpy.random.default_rng(0).permutation(300)
    bins = make_even_bins(confidences, is_right)
    assert bins == make_even_bins(confidences[order], is_right[order])
    assert [b.count for b in bins] == [30, 200, 70]
    assert bins[0] == Bin(30, 0.5, 0.5)


def test_no_predictions():
    assert make_even_bins(numpy.zeros(0, "f"), numpy.zeros(0, bool)) == []
