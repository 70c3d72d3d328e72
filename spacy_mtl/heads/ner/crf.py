"""Linear-chain conditional random fields: exact decoding, exact likelihood, exact marginals.

All functions take the rows of all docs concatenated, without padding. Step t of a recursion handles
the t-th token of all docs that are long enough. A forbidden transition has the score FORBIDDEN. The
recursions are those of Lafferty, McCallum and Pereira (2001), "Conditional Random Fields", section
3, and Rabiner (1989), "A Tutorial on Hidden Markov Models", section III.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy

from ...encoder.runtime.cpu.ops import matmul, on_single_thread
from ...types import Bools1d, Bools2d, Floats, Floats1d, Floats2d, Ints, Ints1d, Ints2d

if TYPE_CHECKING:
    from torch import Tensor

FORBIDDEN = -1e30
EPSILON = 1e-300
SEGMENT_TOKENS = 512  # longer docs are decoded in segments
Array = TypeVar("Array", bound=numpy.ndarray[Any, Any])
FloatsNd: TypeAlias = numpy.ndarray[tuple[Any, ...], Floats]
IntsNd: TypeAlias = numpy.ndarray[tuple[Any, ...], Ints]
Ints3d: TypeAlias = numpy.ndarray[tuple[int, int, int], Ints]
NO_ROWS = numpy.zeros(0, dtype="int64")
CONTEXT_TOKENS = (
    64  # tokens around a segment or an entity, behind which what stands there has no influence
)


@dataclass
class TransitionScores:
    """Scores of tag transitions: 0 or FORBIDDEN by the rules of a scheme, plus learned scores.

    start (Floats1d): Scores of each tag as the first of a doc, C.
    transitions (Floats2d): Scores of one tag (row) before another (column), C x C.
    end (Floats1d): Scores of each tag as the last of a doc, C.
    """

    start: Floats1d
    transitions: Floats2d
    end: Floats1d


def get_steps(lengths: Sequence[int]) -> tuple[Ints1d, list[int]]:
    """Order the rows of all docs by step, and within a step by length of the doc, longest first. So
    the docs of a step are the first docs of the step before.

    RETURNS (Tuple[Ints1d, List[int]]): The rows in that order, N, and the bounds of the steps.
    """
    sizes = numpy.asarray(lengths, dtype="int64")
    order = numpy.argsort(-sizes, kind="stable")
    starts = (numpy.cumsum(sizes) - sizes)[order]
    reach = numpy.searchsorted(-sizes[order], -numpy.arange(sizes.max(initial=0)), side="left")
    rows = [starts[:n] + t for t, n in enumerate(reach)]
    bounds = numpy.concatenate([[0], numpy.cumsum(reach)]).tolist()
    return numpy.concatenate([starts[:0], *rows]), bounds


def get_moves(bounds: Sequence[int]) -> list[tuple[slice, slice]]:
    """RETURNS (List[Tuple[slice, slice]]): For each step after the first: the rows of its docs in
    the previous step, and in this step.
    """
    triples = zip(bounds, bounds[1:], bounds[2:], strict=False)
    return [(slice(a, a + c - b), slice(b, c)) for a, b, c in triples]


def viterbi(scores: Floats2d, chain: TransitionScores, lengths: Sequence[int]) -> Ints1d:
    """Find the best allowed tag sequence of every doc.

    scores (Floats2d): The score of each tag for each token, N x C.
    chain (TransitionScores): The scores of transitions.
    lengths (Sequence[int]): Tokens per doc, N in all.
    RETURNS (Ints1d): The tag of each token, N.
    """
    framed = frame(scores, chain, lengths, "float32")
    certain = find_certain(scores, chain)
    rows = numpy.flatnonzero(~certain)
    first, last = get_ends(lengths)
    # The other tokens are decoded in parts, between certain tokens and the ends of docs.
    starts = numpy.flatnonzero((numpy.diff(rows, prepend=-2) > 1) | numpy.isin(rows, first))
    sizes = numpy.diff(starts, append=len(rows))
    inner = numpy.setdiff1d(rows[starts], first)
    framed[inner] += chain.transitions[0]
    inner = numpy.setdiff1d(rows[starts + sizes - 1], last)
    framed[inner] += chain.transitions[:, 0]
    tags = numpy.zeros(len(scores), dtype="int64")
    tags[rows] = decode_docs(framed[rows], chain.transitions, sizes.tolist())
    return tags


def find_certain(scores: Floats2d, chain: TransitionScores) -> Bools1d:
    """Find tokens that have tag 0 in every best sequence. In a trained recognizer these are most
    tokens, and the parts between them can be decoded independently.

    Replacing a run of other tags by tag 0 raises the score of a sequence by at least the sum of
    `gains` over the run plus `leave`. If this is positive for every run that contains a token, no
    best sequence contains such a run.

    scores, chain: As in `viterbi`.
    RETURNS (Bools1d): Whether each token is certain to have tag 0, N.
    """
    start, moves, end = chain.start, chain.transitions, chain.end
    if len(start) < 2 or min(start[0], end[0], moves[0, 0]) < FORBIDDEN / 2:
        return numpy.zeros(len(scores), dtype=bool)
    stay = moves[0, 0]
    enter = min(stay - moves[0, 1:].max(), start[0] - start[1:].max())
    leave = min(stay - moves[1:, 0].max(), end[0] - end[1:].max())
    gains = scores[:, 0] - scores[:, 1:].max(axis=1) + min(enter, stay - moves[1:, 1:].max())
    sums = numpy.append(0.0, numpy.cumsum(gains, dtype="float64"))
    # The lowest sum of all runs that end at each token, and of all runs that start there.
    before = sums[1:] - numpy.maximum.accumulate(sums[:-1])
    after = numpy.minimum.accumulate(sums[:0:-1])[::-1] - sums[:-1]
    lowest: Floats1d = before + after - gains + leave
    return lowest > 1e-3


def decode_docs(framed: Floats2d, transitions: Floats2d, lengths: Sequence[int]) -> Ints1d:
    """Find the best tag sequence of every doc.

    Long docs are decoded in overlapping segments, in parallel. Where two segments meet, both must
    have the same tag and the same scores of all paths up to there. If they differ anywhere, all
    docs are decoded whole.

    framed (Floats2d): What `frame` returns, N x C.
    transitions (Floats2d): The scores of transitions, C x C.
    lengths (Sequence[int]): Tokens per doc.
    RETURNS (Ints1d): The tag of each token, N.
    """
    if max(lengths, default=0) > SEGMENT_TOKENS:
        segments = get_segments(lengths)
        left, right = segments.joints
        tags, best = decode(
            framed[segments.rows], transitions, segments.sizes, numpy.stack([left, right])
        )
        alike = (abs(best[0] - best[1]) < 1e-3) | (best[0] < FORBIDDEN / 2)
        if alike.all() and (tags[left] == tags[right]).all():
            return tags[segments.core]
    return decode(framed, transitions, lengths, NO_ROWS)[0]


def frame(
    scores: Floats2d, chain: TransitionScores, lengths: Sequence[int], dtype: str
) -> Floats2d:
    """RETURNS (Floats2d): The scores of tags plus, at the ends of docs, start and end scores."""
    framed = numpy.array(scores, dtype=dtype)
    first, last = get_ends(lengths)
    framed[first] += chain.start
    framed[last] += chain.end
    return framed


def get_ends(lengths: Sequence[int]) -> tuple[Ints1d, Ints1d]:
    """RETURNS (Tuple[Ints1d, Ints1d]): The first and the last row of each doc that has tokens."""
    sizes = numpy.asarray([size for size in lengths if size], dtype="int64")
    last = numpy.cumsum(sizes) - 1
    return last - sizes + 1, last


def decode(
    scores: Floats2d, transitions: Floats2d, lengths: Sequence[int], asked: IntsNd
) -> tuple[Ints1d, FloatsNd]:
    """Find the best tags by the Viterbi recursion.

    asked (Ints): Rows whose path scores to return, an array of any shape.
    RETURNS (Tuple[Ints1d, Floats]): The tags, N; and for each of the `asked` rows the score of the
        best path that ends in each tag, minus the best path's score, ... x C.
    """
    order, bounds = get_steps(lengths)
    moves = get_moves(bounds)
    groups = group_tags(transitions)
    behind = numpy.concatenate([group.behind.ravel() for group in groups])
    # One row per tag: numpy computes maxima over the first axis several times as fast.
    columns = numpy.ascontiguousarray(scores[order].T)
    for before, here in moves:
        known, found = columns[:, before], columns[:, here]
        arrived = [(known[g.before] + g.transitions).max(axis=0) for g in groups]
        found[behind] += numpy.concatenate([rows.reshape(-1, rows.shape[-1]) for rows in arrived])
        # Sums over a long doc would lose the differences to rounding.
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

    before (Ints3d): The tags that each group may follow, P x G x 1.
    behind (Ints2d): The tags of each group, G x Q.
    transitions (Floats4d): The scores from `before` to `behind`, P x G x Q x 1.
    """

    before: Ints3d
    behind: Ints2d
    transitions: FloatsNd


def group_tags(transitions: Floats2d) -> list[TagGroups]:
    """Group tags by the tags that they may follow. Forbidden transitions, most of a scheme for
    entities, then cost nothing.

    RETURNS (List[TagGroups]): All tags, with groups of the same size together.
    """
    allowed = numpy.packbits(transitions > FORBIDDEN / 2)
    return [
        TagGroups(before, behind, transitions[before, behind][..., None])
        for before, behind in find_groups(allowed.tobytes(), len(transitions))
    ]


@lru_cache(maxsize=8)
def find_groups(allowed: bytes, n: int) -> list[tuple[Ints3d, Ints2d]]:
    """Find the groups of `group_tags`. They depend only on the transitions that a scheme allows.

    allowed (bytes): One bit for each transition, C x C.
    n (int): The number of tags, C.
    RETURNS (List[Tuple[Ints3d, Ints2d]]): `before` and `behind` of each group.
    """
    bits = numpy.unpackbits(numpy.frombuffer(allowed, dtype="uint8"), count=n * n)
    followers: dict[bytes, list[int]] = {}  # by the tags that they may follow
    for tag, column in enumerate(numpy.ascontiguousarray(bits.reshape(n, n).T)):
        followers.setdefault(column.tobytes(), []).append(tag)
    alike: dict[tuple[int, int], list[tuple[Ints1d, list[int]]]] = {}  # by their sizes
    for column, tags in followers.items():
        found = numpy.flatnonzero(numpy.frombuffer(column, dtype="uint8"))
        before = found if len(found) else numpy.arange(n)
        alike.setdefault((len(before), len(tags)), []).append((before, tags))
    groups = []
    for pairs in alike.values():
        before_all, behind = (numpy.array(tags) for tags in zip(*pairs, strict=True))
        groups.append((before_all.T[:, :, None], behind))
    return groups


def put_back(values: Array, order: Ints1d) -> Array:
    """RETURNS (Array): Values in the order of `get_steps` moved back to the order of the docs."""
    found: Array = numpy.empty_like(values)
    found[order] = values
    return found


@dataclass
class Segments:
    """Long docs cut into segments that overlap.

    rows (Ints1d): The rows of all segments, concatenated, M.
    sizes (List[int]): Tokens per segment.
    core (Ints1d): For each token the index into `rows` in the segment that decides its tag, N.
    joints (Tuple[Ints1d, Ints1d]): The first token that each later segment decides: its index into
        `rows` in the segment before, and in the segment itself.
    """

    rows: Ints1d
    sizes: list[int]
    core: Ints1d
    joints: tuple[Ints1d, Ints1d]


def get_segments(lengths: Sequence[int]) -> Segments:
    rows, sizes, core, left, right = [], [], [], [], []
    first = total = 0
    for length in lengths:
        for start in range(0, length, SEGMENT_TOKENS):
            end = min(start + SEGMENT_TOKENS, length)
            low, high = max(0, start - CONTEXT_TOKENS), min(length, end + CONTEXT_TOKENS)
            if start:  # the segment before ends CONTEXT_TOKENS after this token
                left.append(total - min(CONTEXT_TOKENS, length - start))
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
    """Forward and backward probabilities of all docs, float64. They are scaled at each token, so
    that none underflows in a long doc (Rabiner 1989, section V.A).

    likely (Floats2d): exp of each tag's score minus the token's highest score, N x C.
    moves (Floats2d): exp of the transitions, C x C.
    forward (Floats2d): The probability of each tag given the doc up to this token, N x C.
    scale (Floats1d): The sum by which each row of `forward` was divided, N.
    backward (Floats2d): The likelihood of the rest of the doc given each tag, up to a factor,
        N x C.
    log_z (Floats1d): The log partition function of each token's doc, N.
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
        marginals: Floats2d = self.forward * self.backward
        marginals /= numpy.maximum(marginals.sum(axis=1, keepdims=True), EPSILON)
        return marginals


def forward_backward(scores: Floats2d, chain: TransitionScores, lengths: Sequence[int]) -> Lattice:
    """Sum over all tag sequences of each doc by the forward and the backward recursion.

    scores, chain, lengths: As in `viterbi`.
    RETURNS (Lattice): The sums.
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
    # The backward recursion is the forward recursion from the other end of each doc.
    back = numpy.repeat(first + last, sizes)[order] - order
    recur = partial(recursion, steps=get_moves(bounds), first=slice(*bounds[:2]))
    laid = likely[numpy.stack([order, back], axis=1)]
    known, scales, arrived = on_single_thread(recur, laid, moves)
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


def recursion(
    likely: "Tensor", moves: "Tensor", steps: list[tuple[slice, slice]], first: slice
) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Run the forward and the backward recursion of all docs, side by side on the second axis.

    likely (torch.Tensor): `Lattice.likely` by steps, from the first tokens on and from the last
        tokens back, N x 2 x C. Overwritten by the probabilities of tags given all tokens so far.
    moves (torch.Tensor): The scores of the transitions and space for as many, 2 x C x C.
        Overwritten by exp of the scores and by its transpose.
    steps (List[Tuple[slice, slice]]): What `get_moves` returns.
    first (slice): The rows of the first step.
    RETURNS (Tuple[torch.Tensor, torch.Tensor, torch.Tensor]): `likely`; the sum by which each row
        was divided, N x 2 x 1; and the messages from the tokens before, N x 2 x C.
    """
    moves[1].copy_(moves[0].exp_().T)
    arrived, scale = likely.new_ones(likely.shape), likely.new_empty(*likely.shape[:2], 1)
    normalize(likely[first], scale[first])
    for before, here in steps:
        came = arrived[here]
        came.transpose(0, 1).baddbmm_(likely[before].transpose(0, 1), moves, beta=0)
        normalize(likely[here].mul_(came), scale[here])
    return likely, scale, arrived


def normalize(rows: "Tensor", total: "Tensor") -> None:
    """Divide rows by their sums in place and store the sums in `total`: ... x C and ... x 1."""
    rows.div_(total.copy_(rows.sum(-1, keepdim=True)).clamp_min_(EPSILON))


def count_moves(lattice: Lattice, rows: Ints1d) -> Floats2d:
    """Compute the expected number of transitions between each two tags.

    rows (Ints1d): The tokens whose transitions to the next token count; none may end a doc.
    RETURNS (Floats2d): The expected counts, C x C.
    """
    left, right = lattice.forward[rows], (lattice.likely * lattice.backward)[rows + 1]
    right /= numpy.maximum(
        (matmul(left, lattice.moves) * right).sum(axis=1, keepdims=True), EPSILON
    )
    return matmul(left.T, right) * lattice.moves


def find_possible(allowed: Bools2d, chain: TransitionScores, lengths: Sequence[int]) -> Bools1d:
    """RETURNS (Bools1d): Whether each token's doc allows any valid tag sequence, N."""
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
    scores: Floats2d, allowed: Bools2d, chain: TransitionScores, lengths: Sequence[int]
) -> tuple[float, Floats2d, Floats2d, int]:
    """Compute the mean negative log-likelihood, per labelled token, of the annotated tags.

    Tokens without annotation allow every tag and are marginalized out (Tsuboi et al. 2008,
    "Training Conditional Random Fields Using Incomplete Annotations", section 3).

    scores (Floats2d): The score of each tag for each token, N x C.
    allowed (Bools2d): Which tags each token may have, N x C.
    chain (TransitionScores): The scores of transitions.
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
    # All sequences of each doc, then the sequences that the annotation allows.
    free = scores[rows]
    gold = numpy.where(allowed[rows], free, FORBIDDEN)
    lattice = forward_backward(numpy.concatenate([free, gold]), chain, [*sizes, *sizes])
    last = numpy.cumsum(sizes) - 1
    inner = numpy.setdiff1d(numpy.arange(len(rows)), last)
    log_z, marginals = (x.reshape(2, len(rows), -1) for x in (lattice.log_z, lattice.marginals))
    loss = float((log_z[0] - log_z[1])[last].sum()) / n
    d_scores[rows] = (marginals[0] - marginals[1]) / n
    d_moves = count_moves(lattice, inner) - count_moves(lattice, inner + len(rows))
    return loss, d_scores, (d_moves / n).astype("f"), n


def span_probabilities(
    scores: Floats2d,
    chain: TransitionScores,
    lengths: Sequence[int],
    spans: Sequence[tuple[int, int]],
    tags: Ints1d,
) -> list[float]:
    """Compute the probability of spans, given CONTEXT_TOKENS or more tokens on each side.

    scores, chain, lengths: As in `viterbi`.
    spans (Sequence[Tuple[int, int]]): The first row of each span and the row after its last,
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
    lattice = forward_backward(around, TransitionScores(free, chain.transitions, free), sizes)
    shift = numpy.cumsum(sizes) - [high for _, high in windows]
    return [
        span_probability(lattice, int(start + shift[i]), tags[start:end].tolist())
        for (start, end), i in zip(spans, index, strict=True)
    ]


def get_windows(
    spans: Sequence[tuple[int, int]], lengths: Sequence[int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Find windows that cover spans and CONTEXT_TOKENS tokens on each side, within their docs.
    Neighbouring spans share a window of up to SEGMENT_TOKENS.

    spans (Sequence[Tuple[int, int]]): The first row of each span and the row after its last,
        ascending.
    lengths (Sequence[int]): Tokens per doc.
    RETURNS (Tuple[List[Tuple[int, int]], List[int]]): The bounds of each window, and the index of
        each span's window.
    """
    ends = numpy.cumsum(lengths)
    docs = numpy.searchsorted(ends, [start for start, _ in spans], side="right")
    windows: list[tuple[int, int]] = []
    index = []
    for (start, end), last, size in zip(
        spans, ends[docs].tolist(), numpy.asarray(lengths)[docs].tolist(), strict=True
    ):
        low, high = max(start - CONTEXT_TOKENS, last - size), min(end + CONTEXT_TOKENS, last)
        before = windows[-1] if windows else (-1, -1)
        if last - size <= before[0] and low <= before[1] and high - before[0] <= SEGMENT_TOKENS:
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
