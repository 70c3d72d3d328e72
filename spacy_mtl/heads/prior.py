"""The bias of a head's output layer before training: its scores for a unit of which nothing is
known.

With zeros a head for entities would first have to learn that nearly all tokens are outside of
entities. Until then its gradient tells the encoder nothing else. See Lin et al. (2017), "Focal Loss
for Dense Object Detection", section 3.3.
"""

from collections.abc import Iterable

import numpy

from ..types import Bools2d, Floats1d, Floats2d, Ints2d


def count_masks(masks: Iterable[Bools2d], n_outputs: int) -> Ints2d:
    """Count labelled units. A unit that allows several outputs is known to lack the others only.

    masks (Iterable[Bools2d]): Masks of allowed outputs, each R x C. A unit that allows all outputs
        has no annotation.
    n_outputs (int): The number of outputs, C.
    RETURNS (Ints2d): The units with each output, and without it, C x 2.
    """
    counts = numpy.zeros((n_outputs, 2), dtype="int64")
    for allowed in masks:
        n_allowed = allowed.sum(axis=1)
        counts[:, 0] += allowed[n_allowed == 1].sum(axis=0) if n_outputs > 1 else 0
        counts[:, 1] += (~allowed[n_allowed > 0]).sum(axis=0)
    return counts


def get_log_shares(counts: Floats2d) -> Floats1d:
    """Compute the scores whose softmax is the share of each output, with one unit added to each.

    counts (Floats2d): The units with each output, and without it, C x 2.
    RETURNS (Floats1d): The logarithms of the shares, C.
    """
    smoothed = counts[:, 0] + 1.0
    shares: Floats1d = numpy.log(smoothed / smoothed.sum())
    return shares


def get_log_odds(counts: Floats2d) -> Floats1d:
    """Compute the scores whose sigmoid is the share of units with each output, with one unit added
    to either side.

    counts (Floats2d): The units with each output, and without it, C x 2.
    RETURNS (Floats1d): The logarithms of the odds, C.
    """
    smoothed = numpy.log(counts + 1.0)
    odds: Floats1d = smoothed[:, 0] - smoothed[:, 1]
    return odds
