"""Linear chains over the tokens of each doc: exact decoding, exact likelihood, exact marginals.

All functions work on the rows of all docs laid behind each other, without padding: at step t they
treat the t-th token of every doc that is long enough at once. Scores that forbid something are
FORBIDDEN. The recursions are those of Lafferty, McCallum and Pereira (2001), "Conditional Random
Fields", section 3, and Rabiner (1989), "A Tutorial on Hidden Markov Models", section III.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy

from ..products import matmul, on_one_core
from ..types import Floats1d, Floats2d, Ints1d, Ints2d

FORBIDDEN = -1e30
TINY = 1e-300
LONG = 512  # tokens of a segment
NO_ROWS = numpy.zeros(0, dtype="int64")
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


def get_steps(lengths: Sequence[int]) -> tuple[Ints1d, list[int]]:
    """Order the rows of all docs by their steps, longest doc first, so that the docs of a step are
    the first ones of the step before.

    RETURNS (Tuple[Ints1d, List[int]]): The rows, N, and where among them each step starts, and the
        end.
    """
    sizes = numpy.asarray(lengths, dtype="int64")
    order = numpy.argsort(-sizes, kind="stable")
    starts = (numpy.cumsum(sizes) - sizes)[order]
    reach = numpy.searchsorted(-sizes[order], -numpy.arange(sizes.max(initial=0)), side="left")
    rows = [starts[:n] + t for t, n in enumerate(reach)]
    bounds = numpy.concatenate([[0], numpy.cumsum(reach)]).tolist()
    return numpy.concatenate([starts[:0], *rows]), bounds


def get_moves(bounds: Sequence[int]) -> list[tuple[slice, slice]]:
    """RETURNS (List[Tuple[slice, slice]]): For each step but the first where its rows stand, and
    before that where the rows of the same docs stand in the step before.
    """
    triples = zip(bounds, bounds[1:], bounds[2:], strict=False)
    return [(slice(a, a + c - b), slice(b, c)) for a, b, c in triples]


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
    framed = frame(scores, chain, lengths, "float32")
    if max(lengths, default=0) > LONG:
        segments = get_segments(lengths)
        left, right = segments.joints
        tags, best = decode(
            framed[segments.rows], chain.transitions, segments.sizes, numpy.stack([left, right])
        )
        alike = (abs(best[0] - best[1]) < 1e-3) | (best[0] < FORBIDDEN / 2)
        if alike.all() and (tags[left] == tags[right]).all():
            return tags[segments.core]
    return decode(framed, chain.transitions, lengths, NO_ROWS)[0]


def frame(scores: Floats2d, chain: Chain, lengths: Sequence[int], dtype: str) -> Floats2d:
    """RETURNS (Floats2d): The scores, with those of starting and ending at the ends of docs."""
    framed = numpy.array(scores, dtype=dtype)
    first, last = get_ends(lengths)
    framed[first] += chain.start
    framed[last] += chain.end
    return framed


def get_ends(lengths: Sequence[int]) -> tuple[Ints1d, Ints1d]:
    """RETURNS (Tuple[Ints1d, Ints1d]): The first and the last row of each doc that has any."""
    sizes = numpy.asarray([size for size in lengths if size], dtype="int64")
    last = numpy.cumsum(sizes) - 1
    return last - sizes + 1, last


def decode(
    scores: Floats2d, transitions: Floats2d, lengths: Sequence[int], asked: Any
) -> tuple[Ints1d, Any]:
    """Find the best tags.

    asked (Ints): Rows, in an array of any shape.
    RETURNS (Tuple[Ints1d, Floats]): The tags, N, and for each row that is asked for the score of
        the best path that ends in each tag, less the best of all, ... x C.
    """
    order, bounds = get_steps(lengths)
    moves = get_moves(bounds)
    groups = group_tags(transitions)
    behind = numpy.concatenate([group.behind.ravel() for group in groups])
    # A row for each tag: numpy finds the maxima of columns several times as fast.
    columns = numpy.ascontiguousarray(scores[order].T)
    for before, here in moves:
        known, found = columns[:, before], columns[:, here]
        arrived = [(known[g.before] + g.transitions).max(axis=0) for g in groups]
        found[behind] += numpy.concatenate([rows.reshape(-1, rows.shape[-1]) for rows in arrived])
        # Sums over a long doc would swallow the differences.
        found -= found.max(axis=0)
    totals = numpy.ascontiguousarray(columns.T)
    best = totals[put_back(numpy.arange(len(order)), order)[asked]]
    tags = numpy.empty(len(totals), dtype="int64")
    for before, here in reversed(moves):
        tags[here] = totals[here].argmax(axis=1)
        totals[before] += transitions.T[tags[here]]
    first = slice(*bounds[:2])
    tags[first] = totals[first].argmax(axis=1)
    return put_back(tags, order), best


@dataclass
class TagGroups:
    """G groups of Q tags, each of which may follow the same P tags.

    before (Ints3d): The tags that they may follow, P x G x 1.
    behind (Ints2d): The tags, G x Q.
    transitions (Floats4d): From those to these, P x G x Q x 1.
    """

    before: Any
    behind: Ints2d
    transitions: Any


def group_tags(transitions: Floats2d) -> list[TagGroups]:
    """RETURNS (List[TagGroups]): All tags, groups of the same size together. Most moves of a scheme
    for entities are forbidden, and these cost nothing.
    """
    allowed = numpy.packbits(transitions > FORBIDDEN / 2)
    return [
        TagGroups(before, behind, transitions[before, behind][..., None])
        for before, behind in find_groups(allowed.tobytes(), len(transitions))
    ]


@lru_cache(maxsize=8)
def find_groups(allowed: bytes, n: int) -> list[tuple[Any, Ints2d]]:
    """Find the groups of `group_tags`, which depend only on what a scheme allows.

    allowed (bytes): A bit for each move, C x C.
    n (int): The number of tags, C.
    RETURNS (List[Tuple[Ints3d, Ints2d]]): `before` and `behind` of each group.
    """
    bits = numpy.unpackbits(numpy.frombuffer(allowed, dtype="uint8"), count=n * n)
    followers: dict[bytes, list[int]] = {}  # by the tags that they may follow
    for tag, column in enumerate(numpy.ascontiguousarray(bits.reshape(n, n).T)):
        followers.setdefault(column.tobytes(), []).append(tag)
    alike: dict[tuple[int, int], list[Any]] = {}  # by their sizes
    for column, tags in followers.items():
        found = numpy.flatnonzero(numpy.frombuffer(column, dtype="uint8"))
        before = found if len(found) else numpy.arange(n)
        alike.setdefault((len(before), len(tags)), []).append((before, tags))
    groups = []
    for pairs in alike.values():
        before_all, behind = (numpy.array(tags) for tags in zip(*pairs, strict=True))
        groups.append((before_all.T[:, :, None], behind))
    return groups


def put_back(values: Any, order: Ints1d) -> Any:
    """RETURNS (Array): What has been computed by steps, in the order of the docs."""
    found = numpy.empty_like(values)
    found[order] = values
    return found


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
    """All tag sequences of all docs at once, as probabilities, float64. At each token they are
    scaled, so that none vanishes in a long doc (Rabiner 1989, section V.A).

    likely (Floats2d): exp of each tag's score at each token, divided by the highest, N x C.
    moves (Floats2d): exp of the transitions, C x C.
    forward (Floats2d): The probability of each tag from what stands up to each token, N x C.
    scale (Floats1d): What they summed up to before they were divided by it, N.
    backward (Floats2d): How well what stands behind each token fits each tag, up to a factor, N x
        C.
    log_z (Floats1d): The score of all sequences of the doc that each token stands in, N.
    """

    likely: Floats2d
    moves: Floats2d
    forward: Floats2d
    scale: Floats1d
    backward: Floats2d
    log_z: Floats1d

    @property
    def marginals(self) -> Floats2d:
        """RETURNS (Floats2d): The probability of each tag at each token, N x C."""
        marginals = self.forward * self.backward
        return marginals / numpy.maximum(marginals.sum(axis=1, keepdims=True), TINY)


def sum_paths(scores: Floats2d, chain: Chain, lengths: Sequence[int]) -> Lattice:
    """Sum over all tag sequences, by the forward and the backward recursion.

    scores, chain, lengths: As in `viterbi`.
    """
    likely = frame(scores, chain, lengths, "float64")
    top = likely.max(axis=1, keepdims=True)
    likely -= top
    numpy.exp(likely, out=likely)
    moves = numpy.empty((2, *chain.transitions.shape))
    moves[0] = chain.transitions
    order, bounds = get_steps(lengths)
    first, last = get_ends(lengths)
    sizes = last - first + 1
    # Backward is forward from the other end of each doc.
    back = numpy.repeat(first + last, sizes)[order] - order
    recur = partial(pass_on, steps=get_moves(bounds), first=slice(*bounds[:2]))
    laid = likely[numpy.stack([order, back], axis=1)]
    known, scales, arrived = on_one_core(recur, laid, moves)
    scale = put_back(scales[:, 0], order)
    totals = numpy.add.reduceat((numpy.log(scale) + top)[:, 0], first) if len(sizes) else top[:, 0]
    return Lattice(
        likely=likely,
        moves=moves[0],
        forward=put_back(known[:, 0], order),
        scale=scale[:, 0],
        backward=put_back(arrived[:, 1], back),
        log_z=numpy.repeat(totals, sizes),
    )


def pass_on(likely: Any, moves: Any, steps: list[tuple[slice, slice]], first: slice) -> Any:
    """The recursion, from both ends of all docs at once.

    likely (torch.Tensor): As of a Lattice, by steps, from the first tokens and from the last: N x
        2 x C. It becomes what is known of each tag from all tokens up to its own.
    moves (torch.Tensor): The scores of the transitions, and room for as many: 2 x C x C. It becomes
        exp of them, from each tag to those behind it and to those before.
    steps (List[Tuple[slice, slice]]): As of `get_moves`.
    first (slice): The first step, which none leads to.
    RETURNS (Tuple[torch.Tensor, torch.Tensor, torch.Tensor]): The same; by what each row has been
        divided, to sum up to 1, N x 2 x 1; and what is known from the tokens before, N x 2 x C.
    """
    moves[1].copy_(moves[0].exp_().T)
    arrived, scale = likely.new_ones(likely.shape), likely.new_empty(*likely.shape[:2], 1)
    normalize(likely[first], scale[first])
    for before, here in steps:
        came = arrived[here]
        came.transpose(0, 1).baddbmm_(likely[before].transpose(0, 1), moves, beta=0)
        normalize(likely[here].mul_(came), scale[here])
    return likely, scale, arrived


def normalize(rows: Any, total: Any) -> None:
    """Divide rows by their sums, in place, and leave these in `total`, tensors of ... x C and 1."""
    rows.div_(total.copy_(rows.sum(-1, keepdim=True)).clamp_min_(TINY))


def count_moves(lattice: Lattice, rows: Ints1d) -> Floats2d:
    """Find how often each tag is expected to follow each other.

    rows (Ints1d): Of the tokens behind which to count; none may end a doc.
    RETURNS (Floats2d): C x C.
    """
    left, right = lattice.forward[rows], (lattice.likely * lattice.backward)[rows + 1]
    right /= numpy.maximum((matmul(left, lattice.moves) * right).sum(axis=1, keepdims=True), TINY)
    return matmul(left.T, right) * lattice.moves


def find_possible(allowed: Any, chain: Chain, lengths: Sequence[int]) -> Any:
    """RETURNS (Bools1d): For each token, N, whether its doc allows any valid tag sequence."""
    first, last = get_ends(lengths)
    after = numpy.setdiff1d(numpy.arange(len(allowed)), first)
    moves = (chain.transitions > FORBIDDEN / 2).astype("f")
    found = allowed.copy()
    found[first] &= chain.start > FORBIDDEN / 2
    found[last] &= chain.end > FORBIDDEN / 2
    before = ~found
    while (found != before).any():  # seldom more than twice
        before = found.copy()
        found[after] &= matmul(before[after - 1].astype("f"), moves) > 0
    return numpy.repeat(found[last].any(axis=1), last - first + 1)


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
    sizes = numpy.array([size for size in lengths if size], dtype="int64")
    has_label = ~allowed.all(axis=1) & find_possible(allowed, chain, lengths)
    n = int(has_label.sum())
    d_scores = numpy.zeros_like(scores, dtype="f")
    if not n:
        return 0.0, d_scores, numpy.zeros_like(chain.transitions), 0
    # Docs without labels are left out.
    counts = numpy.add.reduceat(has_label.astype("int64"), numpy.cumsum(sizes) - sizes)
    rows = numpy.flatnonzero(numpy.repeat(counts, sizes))
    sizes = sizes[counts > 0]
    # All sequences of each doc, and behind them those that are right.
    free = scores[rows]
    gold = numpy.where(allowed[rows], free, FORBIDDEN)
    lattice = sum_paths(numpy.concatenate([free, gold]), chain, [*sizes, *sizes])
    last = numpy.cumsum(sizes) - 1
    inner = numpy.setdiff1d(numpy.arange(len(rows)), last)
    log_z, marginals = (x.reshape(2, len(rows), -1) for x in (lattice.log_z, lattice.marginals))
    loss = float((log_z[0] - log_z[1])[last].sum()) / n
    d_scores[rows] = (marginals[0] - marginals[1]) / n
    d_moves = count_moves(lattice, inner) - count_moves(lattice, inner + len(rows))
    return loss, d_scores, (d_moves / n).astype("f"), n


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
    around = frame(scores, chain, lengths, "float64")[rows]
    free = numpy.zeros_like(chain.start)
    sizes = [high - low for low, high in windows]
    lattice = sum_paths(around, Chain(free, chain.transitions, free), sizes)
    shift = numpy.cumsum(sizes) - [high for _, high in windows]
    return [
        span_probability(lattice, int(start + shift[i]), tags[start:end])
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


def span_probability(lattice: Lattice, start: int, tags: Sequence[int]) -> float:
    """RETURNS (float): The probability that the tokens from row `start` on have these tags."""
    p = lattice.forward[start, tags[0]]
    for i, (before, tag) in enumerate(pairwise(tags), start=start + 1):
        p *= lattice.moves[before, tag] * lattice.likely[i, tag] / lattice.scale[i]
    end = start + len(tags) - 1
    rest = lattice.backward[end]
    return float(min(1.0, p * rest[tags[-1]] / (lattice.forward[end] @ rest)))
