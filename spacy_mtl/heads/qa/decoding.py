"""Finds the best answer in the scores of first and last tokens."""

import numpy

from ...types import Floats1d

SpanScore = tuple[int, int, float]


def find_answer(starts: Floats1d, ends: Floats1d, max_length: int) -> SpanScore:
    """Find the span with the highest sum of both scores.

    starts, ends (Floats1d): The score of each token as the first and as the last one, N >= 1.
    max_length (int): The most tokens of the span.
    RETURNS (Tuple[int, int, float]): The first token, the one after the last, and the sum. Of
        several best spans it is the one that ends first, then the one that begins last.
    """
    width = min(max_length, len(starts))
    padded = numpy.concatenate([numpy.full(width - 1, -numpy.inf, dtype=starts.dtype), starts])
    # Row j has the starts of the spans that end at token j, from the longest to the shortest.
    windows = numpy.lib.stride_tricks.sliding_window_view(padded, width)[:, ::-1]
    offsets = windows.argmax(axis=1)
    sums = numpy.take_along_axis(windows, offsets[:, None], axis=1)[:, 0] + ends
    last = int(sums.argmax())
    return last - int(offsets[last]), last + 1, float(sums[last])
