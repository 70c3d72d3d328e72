"""Scores of all spans up to a width, as one band around the diagonal of the matrix of tokens.

The tokens of all docs are cut into blocks. The spans that end in a block start in it or at most one
width before it, so one product of matrices per block scores all of them for all labels. A view of
the products, in which each row is shifted by one, has the spans by last token and width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy

from ...encoder.runtime.cpu.ops import matmul
from ...types import Bools2d, Floats1d, Floats2d, Floats3d, Ints1d, get_xp

LEAST_BLOCK = 16  # tokens, so that products of narrow spans are not tiny
CELLS = 2**20  # scores that are computed at once in predictions


class Scores(NamedTuple):
    """The factors of the scores of spans, or their gradients.

    The span of the tokens i to j, of the width w = j - i + 1, has for the label l the score
    (starts[i], 1) weights[:, l] (ends[j], 1) + bias[w - 1, l]: Yu et al. (2020), "Named Entity
    Recognition as Dependency Parsing", equation 3, with a bias for each width.

    starts, ends (Floats2d): The vectors of N tokens as the first and the last one of a span, N x K.
    weights (Floats3d): The weights of pairs, K + 1 x L x K + 1.
    bias (Floats2d): The bias of each width and label, W x L.
    """

    starts: Floats2d
    ends: Floats2d
    weights: Floats3d
    bias: Floats2d


class Hits(NamedTuple):
    """Spans with a label: H of them.

    last (Ints1d): The row of the last token.
    width (Ints1d): The number of tokens - 1.
    label (Ints1d): The label.
    score (Floats1d): The score.
    """

    last: Ints1d
    width: Ints1d
    label: Ints1d
    score: Floats1d


class Band:
    """Scores the spans of a batch, which neither cross docs nor are wider than the model allows.

    scores (Scores): The output of the model.
    lengths (Sequence[int]): The tokens of each doc.
    """

    def __init__(self, scores: Scores, lengths: Sequence[int]) -> None:
        self.xp = get_xp(scores.starts)
        self.n_tokens, self.n_labels = len(scores.starts), scores.bias.shape[1]
        self.n_widths = len(scores.bias)
        self.width = max(min(self.n_widths, max(lengths, default=0)), 1)
        self.bias = scores.bias[: self.width]
        self.block = max(self.width, LEAST_BLOCK)
        self.n_blocks = -(-self.n_tokens // self.block)
        self.before = count_before(lengths)
        ones = self.xp.ones((self.n_tokens, 1), dtype=scores.starts.dtype)
        self.firsts: Floats2d = self.xp.concatenate([scores.starts, ones], axis=1)
        self.lasts: Floats2d = self.xp.concatenate([scores.ends, ones], axis=1)
        self.weights: Floats2d = scores.weights.reshape(len(scores.weights), -1)

    def is_span(self) -> Bools2d:
        """RETURNS (Bools2d): Which widths the spans have that end at each token, N x W."""
        fits: Bools2d = self.before[:, None] >= numpy.arange(self.width)
        return fits

    def find(self, least: float) -> Hits:
        """RETURNS (Hits): The spans and labels with at least a score, by their last token."""
        step = max(CELLS // (self.block * self.width * self.n_labels), 1)
        parts = [
            self._find_in(start, min(start + step, self.n_blocks), least)
            for start in range(0, self.n_blocks, step)
        ]
        return Hits(*map(numpy.concatenate, zip(*parts, strict=True)))

    def _find_in(self, start: int, end: int, least: float) -> Hits:
        products = matmul(self._get_lasts(start, end), self._see(start, end).transpose(0, 2, 1))
        scores = self._shift(products)
        found = (scores >= least - self.bias).nonzero()
        values = scores[found] + self.bias[found[2:]]
        block, token, width, label, score = map(to_numpy, (*found, values))
        last = (start + block) * self.block + token
        is_real = last < self.n_tokens
        is_real[is_real] = self.before[last[is_real]] >= width[is_real]
        return Hits(*(array[is_real] for array in (last, width, label, score)))

    def score(self, is_wanted: Bools2d) -> tuple[Floats2d, Callable[[Floats2d], Scores]]:
        """Score spans for all labels.

        is_wanted (Bools2d): Which spans to score, by last token and width, N x W.
        RETURNS (Tuple[Floats2d, Callable]): The scores of the S wanted spans in order, S x L, and a
            function that returns the gradient of the factors from that of the scores.
        """
        last, width = (self.xp.asarray(array) for array in is_wanted.nonzero())
        places = last // self.block, last % self.block, width
        seen, lasts = self._see(0, self.n_blocks), self._get_lasts(0, self.n_blocks)
        products: Any = matmul(lasts, seen.transpose(0, 2, 1))
        scores: Floats2d = self._shift(products)[places] + self.bias[width]

        def backprop(d_scores: Floats2d) -> Scores:
            products.fill(0)
            band = self._shift(products)
            band[places] = d_scores
            d_bias = self.xp.zeros((self.n_widths, self.n_labels), dtype=d_scores.dtype)
            d_bias[: self.width] = band.sum(axis=(0, 1))
            d_lasts: Any = matmul(products, seen)
            d_rows = self._gather(matmul(products.transpose(0, 2, 1), lasts))
            d_firsts = matmul(d_rows, self.weights.T)[:, :-1]
            d_weights: Any = matmul(self.firsts.T, d_rows)
            shape = len(self.weights), self.n_labels, -1
            d_lasts = d_lasts.reshape(-1, self.lasts.shape[1])[: self.n_tokens, :-1]
            return Scores(d_firsts, d_lasts, d_weights.reshape(shape), d_bias)

        return scores, backprop

    # Blocks: each sees the rows of its own tokens and of the `width` tokens before.

    def _get_lasts(self, start: int, end: int) -> Any:
        rows = self._cut(self.lasts, start * self.block, end * self.block)
        return rows.reshape(end - start, self.block, -1)

    def _cut(self, rows: Floats2d, start: int, end: int) -> Any:
        """RETURNS (Floats2d): The rows of a part, with zeros for tokens that do not exist."""
        padded = self.xp.zeros((end - start, rows.shape[1]), dtype=rows.dtype)
        first, last = max(start, 0), min(end, len(rows))
        padded[first - start : last - start] = rows[first:last]
        return padded

    def _see(self, start: int, end: int) -> Any:
        """RETURNS (Floats3d): The vectors that the blocks see, B x (W + tokens) L x K + 1. They
        overlap, and are not copied.
        """
        first = start * self.block - self.width
        rows: Any = matmul(self._cut(self.firsts, first, end * self.block), self.weights)
        shape = end - start, (self.width + self.block) * self.n_labels, self.firsts.shape[1]
        row, column = rows.strides
        return self._stride(rows, shape, (self.block * row, shape[2] * column, column))

    def _gather(self, d_seen: Any) -> Floats2d:
        """RETURNS (Floats2d): The gradient of the tokens' vectors, N x L (K + 1)."""
        d_seen = d_seen.reshape(self.n_blocks, self.width + self.block, -1)
        d_rows = d_seen[:, self.width :]
        d_rows[:-1, self.block - self.width :] += d_seen[1:, : self.width]
        rows: Floats2d = d_rows.reshape(self.n_blocks * self.block, -1)[: self.n_tokens]
        return rows

    def _shift(self, products: Any) -> Any:
        """RETURNS (Floats4d): The view of products, B x tokens x (W + tokens) L, that has the
        scores by block, last token, width and label.
        """
        n = len(products)
        wide = products.reshape(n, self.block, self.width + self.block, self.n_labels)
        block, row, column, label = wide.strides
        shape = n, self.block, self.width, self.n_labels
        strides = block, row + column, -column, label
        return self._stride(wide[:, :, self.width :], shape, strides)

    def _stride(self, array: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        return self.xp.lib.stride_tricks.as_strided(array, shape=shape, strides=strides)


def to_numpy(array: Any) -> Any:
    return array if isinstance(array, numpy.ndarray) else array.get()


def count_before(lengths: Sequence[int]) -> Ints1d:
    """RETURNS (Ints1d): The number of tokens before each token in its doc, N."""
    ends = numpy.cumsum(lengths, dtype="int64")
    starts = numpy.repeat(ends - lengths, lengths)
    before: Ints1d = numpy.arange(len(starts), dtype="int64") - starts.astype("int64")
    return before
