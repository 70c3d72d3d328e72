"""Means of parts of rows, such as spans of tokens."""

from collections.abc import Callable
from typing import Any

from ..types import Floats2d, get_xp


def mean_rows(rows: Floats2d, spans: Any) -> tuple[Floats2d, Callable[[Floats2d], Floats2d]]:
    """Compute the means of parts of rows, from running sums.

    rows (Floats2d): The rows, N x K.
    spans (Ints2d): The first row and the row after the last of each part, S x 2. A part may be
        empty; its mean is 0.
    RETURNS (Tuple[Floats2d, Callable]): The means, S x K, and a function that returns the gradient
        of the rows from that of the means.
    """
    xp = get_xp(rows)
    first, last = spans[:, 0], spans[:, 1]
    sizes = xp.maximum(last - first, 1)[:, None]
    # Doubles, so that a mean does not depend on the rows before its part.
    sums = xp.zeros((len(rows) + 1, rows.shape[1]))
    xp.cumsum(rows, axis=0, dtype="float64", out=sums[1:])
    means = ((sums[last] - sums[first]) / sizes).astype(rows.dtype)

    def backprop(d_means: Floats2d) -> Floats2d:
        shares = d_means / sizes
        steps = add_rows(shares, first, len(sums), "float64")
        steps -= add_rows(shares, last, len(sums), "float64")
        d_rows: Floats2d = xp.cumsum(steps, axis=0)[:-1].astype(rows.dtype)
        return d_rows

    return means, backprop


def add_rows(rows: Floats2d, places: Any, n: int, dtype: str = "f") -> Floats2d:
    """RETURNS (Floats2d): The sums of the rows that belong to each of n places, n x K."""
    xp = get_xp(rows)
    sums: Floats2d = xp.zeros((n, rows.shape[1]), dtype=dtype)
    xp.add.at(sums, places, rows)
    return sums
