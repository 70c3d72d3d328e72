"""Linear chains over the tokens of each doc: exact decoding, exact likelihood, exact marginals.

All functions work on the rows of all docs laid behind each other, without padding: at step t they
treat the t-th token of every doc that is long enough at once. Scores that forbid something are
FORBIDDEN. The recursions are those of Lafferty, McCallum and Pereira (2001), "Conditional Random
Fields", section 3, and Rabiner (1989), "A Tutorial on Hidden Markov Models", section III.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy
from thinc.api import get_array_module

from ..products import matmul
from ..types import Floats1d, Floats2d, Ints1d

FORBIDDEN = -1e30
TINY = 1e-300
LONG = 512  # tokens of a segment
HALO = 64  # tokens around a segment or an entity, behind which what stands there has no influence


@dataclass
class Chain:
    """Which tags may stand where, as scores to add: 0 or FORBIDDEN, plus what has been learned.

    start (Floats1d): Of the first tag, C.
    transitions (Floats2d): Of a tag (row) being followed by another (column), C x C.
    end (Floats1d): Of the last tag, C.
    """

    start: Floats1d
    transitions: Floats2d
    end: Floats1d


def get_steps(lengths: Sequence[int]) -> list[Ints1d]:
    """RETURNS (List[Ints1d]): For each step the rows of the docs that reach it, longest doc first,
    so that the docs of a step are the first ones of the step before.
    """
    sizes = numpy.asarray(lengths, dtype="int64")
    order = numpy.argsort(-sizes, kind="stable")
    starts = (numpy.cumsum(sizes) - sizes)[order]
    reach = numpy.searchsorted(-sizes[order], -numpy.arange(sizes.max(initial=0)), side="left")
    return [starts[:n] + t for t, n in enumerate(reach)]


def viterbi(scores: Floats2d, chain: Chain, lengths: Sequence[int]) -> Ints1d:
    """Find the best allowed tag sequence of every doc.

    Long docs are decoded in overlapping segments side by side. Where two segments meet, the scores
    of all paths up to there and the tag must be the same in both: then they are those of the whole
    doc, as everything before it has been decided alike. Otherwise the docs are decoded whole.

    scores (Floats2d): Of each tag for each token, N x C.
    chain (Chain): What may follow what.
    lengths (Sequence[int]): Tokens per doc, N in all.
    RETURNS (Ints1d): The tag of each token, N.
    """
    framed = frame(scores, chain, lengths)
    if max(lengths, default=0) > LONG:
        segments = get_segments(lengths)
        tags, best = decode(framed[segments.rows], chain.transitions, segments.sizes)
        left, right = segments.joints
        alike = (abs(best[left] - best[right]) < 1e-3) | (best[left] < FORBIDDEN / 2)
        if alike.all() and (tags[left] == tags[right]).all():
            return tags[segments.core]
    return decode(framed, chain.transitions, lengths)[0]


def frame(scores: Floats2d, chain: Chain, lengths: Sequence[int]) -> Floats2d:
    """RETURNS (Floats2d): The scores, with those of starting and ending at the ends of docs."""
    framed = get_array_module(scores).array(scores, dtype="f")
    sizes = numpy.asarray([size for size in lengths if size], dtype="int64")
    last = numpy.cumsum(sizes) - 1
    framed[last - sizes + 1] += chain.start
    framed[last] += chain.end
    return framed


def decode(
    scores: Floats2d, transitions: Floats2d, lengths: Sequence[int]
) -> tuple[Ints1d, Floats2d]:
    """RETURNS (Tuple[Ints1d, Floats2d]): The best tags, N, and for each token the score of the best
    path that ends in each tag, less the best of all, N x C.
    """
    xp = get_array_module(scores)
    steps = get_steps(lengths)
    best = scores.copy()
    tags = xp.zeros(len(scores), dtype="int64")
    for before, rows in pairwise(steps):
        best[rows] += (best[before[: len(rows)], :, None] + transitions).max(axis=1)
        # Sums over a long doc would swallow the differences.
        best[rows] -= best[rows].max(axis=1, keepdims=True)
    for t in range(len(steps) - 1, -1, -1):
        going_on = len(steps[t + 1]) if t + 1 < len(steps) else 0
        here, ending = steps[t][:going_on], steps[t][going_on:]
        tags[ending] = best[ending].argmax(axis=1)
        if going_on:
            tags[here] = (best[here] + transitions.T[tags[steps[t + 1]]]).argmax(axis=1)
    return tags, best


@dataclass
class Segments:
    """Long docs cut into segments that overlap.

    rows (Ints1d): The rows of all segments behind each other, M.
    sizes (List[int]): Tokens per segment.
    core (Ints1d): For each token, N, where it stands in `rows`, in the segment that decides on it.
    joints (Tuple[Ints1d, Ints1d]): Where the first token that a segment decides on stands, in the
        segment before it and in its own.
    """

    rows: Ints1d
    sizes: list[int]
    core: Ints1d
    joints: tuple[Ints1d, Ints1d]


def get_segments(lengths: Sequence[int]) -> Segments:
    rows, sizes, core, left, right = [], [], [], [], []
    first = total = 0
    for length in lengths:
        for start in range(0, length, LONG):
            end = min(start + LONG, length)
            low, high = max(0, start - HALO), min(length, end + HALO)
            if start:  # the segment before ends HALO behind it
                left.append(total - min(HALO, length - start))
                right.append(total + start - low)
            rows.append(numpy.arange(first + low, first + high))
            core.append(numpy.arange(total + start - low, total + end - low))
            sizes.append(high - low)
            total += high - low
        first += length
    joints = numpy.array(left, dtype="int64"), numpy.array(right, dtype="int64")
    return Segments(numpy.concatenate(rows), sizes, numpy.concatenate(core), joints)


@dataclass
class Lattice:
    """All tag sequences of all docs at once, in log space and float64.

    forward (Floats2d): Score of all beginnings that end in each tag at each token, N x C.
    backward (Floats2d): Score of all endings behind each tag at each token, N x C.
    log_z (Floats1d): The score of all sequences of the doc that each token stands in, N.
    """

    forward: Floats2d
    backward: Floats2d
    log_z: Floats1d

    @property
    def marginals(self) -> Floats2d:
        """RETURNS (Floats2d): The probability of each tag at each token, N x C."""
        xp = get_array_module(self.forward)
        return xp.exp(self.forward + self.backward - self.log_z[:, None])


def sum_paths(scores: Floats2d, chain: Chain, lengths: Sequence[int]) -> Lattice:
    """Sum over all tag sequences, by the forward and the backward recursion.

    scores, chain, lengths: As in `viterbi`.
    """
    xp = get_array_module(scores)
    steps = get_steps(lengths)
    forward = xp.asarray(scores, dtype="float64").copy()
    backward = xp.zeros(scores.shape, dtype="float64")
    log_z = xp.zeros(len(scores), dtype="float64")
    if not steps:
        return Lattice(forward, backward, log_z)
    moves = xp.exp(xp.asarray(chain.transitions, dtype="float64"))
    forward[steps[0]] += chain.start
    for before, rows in pairwise(steps):
        forward[rows] += log_matmul(forward[before[: len(rows)]], moves)
    for t in range(len(steps) - 1, -1, -1):
        rows = steps[t]
        going_on = len(steps[t + 1]) if t + 1 < len(steps) else 0
        ending = rows[going_on:]
        backward[ending] = chain.end
        log_z[ending] = log_sum(forward[ending] + chain.end)
        if going_on:
            after = steps[t + 1]
            backward[rows[:going_on]] = log_matmul(scores[after] + backward[after], moves.T)
            log_z[rows[:going_on]] = log_z[after]
    return Lattice(forward, backward, log_z)


def count_moves(lattice: Lattice, scores: Floats2d, chain: Chain, lengths: Sequence[int]) -> Any:
    """RETURNS (Floats2d): The expected number of times each tag follows each other, C x C."""
    xp = get_array_module(scores)
    ends = numpy.cumsum(numpy.asarray(lengths, dtype="int64")) - 1
    here = numpy.setdiff1d(numpy.arange(len(scores)), ends)
    left = lattice.forward[here]
    right = scores[here + 1] + lattice.backward[here + 1]
    top = left.max(axis=1, keepdims=True)
    counts = matmul(xp.exp(left - top).T, xp.exp(right + top - lattice.log_z[here, None]))
    return counts * xp.exp(xp.asarray(chain.transitions, dtype="float64"))


def find_possible(allowed: Any, chain: Chain, lengths: Sequence[int]) -> Any:
    """RETURNS (Bools1d): For each token, N, whether its doc allows any valid tag sequence."""
    xp = get_array_module(allowed)
    steps = get_steps(lengths)
    reached = allowed.copy()
    if not steps:
        return reached.any(axis=1)
    moves = (chain.transitions > FORBIDDEN / 2).astype("f")
    reached[steps[0]] &= chain.start > FORBIDDEN / 2
    for before, rows in pairwise(steps):
        reached[rows] &= matmul(reached[before[: len(rows)]].astype("f"), moves) > 0
    last = numpy.cumsum(lengths) - 1
    return xp.repeat((reached[last] & (chain.end > FORBIDDEN / 2)).any(axis=1), lengths)


def crf_loss(
    scores: Floats2d, allowed: Any, chain: Chain, lengths: Sequence[int]
) -> tuple[float, Floats2d, Floats2d, int]:
    """The mean negative log-likelihood, per labelled token, of the tags that the annotation allows.

    Tokens without annotation allow every tag, and are summed out (Tsuboi et al. 2008, "Training
    Conditional Random Fields Using Incomplete Annotations", section 3).

    scores (Floats2d): N x C.
    allowed (Bools2d): Which tags each token may have, N x C.
    chain (Chain): What may follow what.
    lengths (Sequence[int]): Tokens per doc.
    RETURNS (Tuple[float, Floats2d, Floats2d, int]): The mean in nats, its gradients for the scores
        (N x C) and for the transitions (C x C), and the number of labelled tokens. Docs that allow
        no valid sequence are left out.
    """
    xp = get_array_module(scores)
    sizes = [size for size in lengths if size]
    # A doc that allows no valid sequence is one without labels.
    allowed = allowed | ~find_possible(allowed, chain, sizes)[:, None]
    n = int((~allowed.all(axis=1)).sum())
    if not n:
        return 0.0, xp.zeros_like(scores), xp.zeros_like(chain.transitions), 0
    free = sum_paths(scores, chain, sizes)
    gold_scores = xp.where(allowed, scores, FORBIDDEN)
    gold = sum_paths(gold_scores, chain, sizes)
    first = numpy.cumsum(sizes) - numpy.asarray(sizes)
    loss = float((free.log_z[first] - gold.log_z[first]).sum()) / n
    d_scores = (free.marginals - gold.marginals) / n
    d_moves = (
        count_moves(free, scores, chain, sizes) - count_moves(gold, gold_scores, chain, sizes)
    ) / n
    return loss, d_scores.astype("f"), d_moves.astype("f"), n


def span_probabilities(
    scores: Floats2d,
    chain: Chain,
    lengths: Sequence[int],
    spans: Sequence[tuple[int, int]],
    tags: Ints1d,
) -> list[float]:
    """Find how probable spans are, as far as HALO tokens or more before and behind them can tell.

    scores, chain, lengths: As in `viterbi`.
    spans (Sequence[Tuple[int, int]]): First row of each span and the one behind the last,
        ascending.
    tags (Ints1d): The tag of each token, N.
    RETURNS (List[float]): The probability that all tokens of the span have these tags.
    """
    if not spans:
        return []
    windows, index = get_windows(spans, lengths)
    rows = numpy.concatenate([numpy.arange(*window) for window in windows])
    around = frame(scores, chain, lengths)[rows]
    free = numpy.zeros_like(chain.start)
    inside = Chain(free, chain.transitions, free)
    sizes = [high - low for low, high in windows]
    lattice = sum_paths(around, inside, sizes)
    shift = numpy.cumsum(sizes) - [high for _, high in windows]
    return [
        span_probability(lattice, around, inside, int(start + shift[i]), tags[start:end])
        for (start, end), i in zip(spans, index, strict=True)
    ]


def get_windows(
    spans: Sequence[tuple[int, int]], lengths: Sequence[int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Cover spans and the HALO tokens before and behind each, as far as their docs go, by windows
    that neighbours share up to the size of a segment.

    spans (Sequence[Tuple[int, int]]): First row of each span and the one behind the last,
        ascending.
    lengths (Sequence[int]): Tokens per doc.
    RETURNS (Tuple[List[Tuple[int, int]], List[int]]): The rows of each window, likewise, and which
        one each span is in.
    """
    ends = numpy.cumsum(lengths)
    docs = numpy.searchsorted(ends, [start for start, _ in spans], side="right")
    windows: list[tuple[int, int]] = []
    index = []
    for (start, end), last, size in zip(
        spans, ends[docs].tolist(), numpy.asarray(lengths)[docs].tolist(), strict=True
    ):
        low, high = max(start - HALO, last - size), min(end + HALO, last)
        before = windows[-1] if windows else (-1, -1)
        if last - size <= before[0] and low <= before[1] and high - before[0] <= LONG:
            windows[-1] = before[0], high
        else:
            windows.append((low, high))
        index.append(len(windows) - 1)
    return windows, index


def span_probability(
    lattice: Lattice, scores: Floats2d, chain: Chain, start: int, tags: Sequence[int]
) -> float:
    """RETURNS (float): The probability that the tokens from row `start` on have these tags."""
    total = lattice.forward[start, tags[0]]
    for i, (before, tag) in enumerate(pairwise(tags), start=start + 1):
        total = total + chain.transitions[before, tag] + scores[i, tag]
    end = start + len(tags) - 1
    total = total + lattice.backward[end, tags[-1]] - lattice.log_z[start]
    return float(numpy.exp(min(float(total), 0.0)))


def log_matmul(log_x: Any, moves: Any) -> Any:
    """RETURNS (Floats2d): log(exp(log_x) @ moves)."""
    xp = get_array_module(log_x)
    top = log_x.max(axis=1, keepdims=True)
    return top + xp.log(matmul(xp.exp(log_x - top), moves) + TINY)


def log_sum(log_x: Any) -> Any:
    """RETURNS (Floats1d): log(sum(exp(row))) of each row."""
    xp = get_array_module(log_x)
    top = log_x.max(axis=1)
    return top + xp.log(xp.exp(log_x - top[:, None]).sum(axis=1))
