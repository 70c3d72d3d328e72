"""Bins of predictions for reliability diagrams."""

import math

import numpy

from ..training.calibration import Bin
from ..types import Bools1d, Floats1d

BINS = 10  # the most bins
LEAST = 25  # predictions in a bin, so that the standard error of its accuracy is at most 10 points


def make_even_bins(confidences: Floats1d, is_right: Bools1d) -> list[Bin]:
    """Group predictions by confidence, with about as many predictions in each bin: the adaptive
    binning of Nguyen and O'Connor (2015), "Posterior Calibration and Exploratory Analysis for
    Natural Language Processing Models", section 3.

    Equal confidences are in one bin, so the order of the predictions does not matter.

    confidences (Floats1d): The probability of each prediction, N.
    is_right (Bools1d): Whether each prediction is right, N.
    RETURNS (List[Bin]): At most `BINS` bins by rising confidence, of at least `LEAST` predictions.
        With fewer predictions than that there is one bin.
    """
    order = numpy.argsort(confidences)
    confidences, is_right = confidences[order], is_right[order]
    size = max(LEAST, math.ceil(len(order) / BINS))
    bins, start = [], 0
    while start < len(order):
        last = confidences[min(start + size, len(order)) - 1]
        end = int(numpy.searchsorted(confidences, last, side="right"))
        if len(order) - end < size / 2 or len(order) - end < LEAST:
            end = len(order)
        part = slice(start, end)
        confidence = float(confidences[part].mean(dtype="float64"))
        bins.append(Bin(end - start, confidence, float(is_right[part].mean())))
        start = end
    return bins
