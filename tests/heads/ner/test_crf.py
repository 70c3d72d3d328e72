"""Against enumeration: what all tag sequences of a short doc cost, written out one by one."""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_mtl.heads.losses import one_hot
from spacy_mtl.heads.ner import crf
from spacy_mtl.heads.ner.crf import (
    CONTEXT_TOKENS,
    FORBIDDEN,
    SEGMENT_TOKENS,
    TransitionScores,
    count_moves,
    crf_loss,
    find_possible,
    forward_backward,
    get_moves,
    get_steps,
    get_windows,
    group_tags,
    span_probabilities,
    span_probability,
    viterbi,
)
from spacy_mtl.heads.ner.tagging import get_chain, get_tags

LENGTHS = [[3], [1], [2, 4], [0, 3, 1, 0, 2, 3], [4, 1, 1]]
CHAINS = ["free", "bio", "biluo"]
TAGS = {
    "free": ["a", "b", "c"],
    "bio": get_tags(["X", "Y"], "bio"),
    "biluo": get_tags(["X"], "biluo"),
}


def make_chain(kind: str, seed: int = 0) -> TransitionScores:
    """A chain with learned transitions, and with the rules of a scheme unless it is free."""
    rng = numpy.random.default_rng(seed)
    n_tags = len(TAGS[kind])
    learned = rng.normal(size=(n_tags, n_tags))
    if kind == "free":
        return TransitionScores(rng.normal(size=n_tags), learned, rng.normal(size=n_tags))
    rules = get_chain(TAGS[kind], "bio" if kind == "bio" else "biluo")
    return TransitionScores(rules.start, rules.transitions + learned, rules.end)


def make_scores(kind: str, lengths: Sequence[int], seed: int = 0) -> numpy.ndarray:
    rng = numpy.random.default_rng(seed + 1)
    return 2 * rng.normal(size=(sum(lengths), len(TAGS[kind])))


def get_docs(lengths: Sequence[int]) -> list[slice]:
    """RETURNS (List[slice]): The rows of each doc that has any."""
    ends = numpy.cumsum(lengths).tolist()
    return [slice(end - n, end) for end, n in zip(ends, lengths, strict=True) if n]


def get_paths(n_tokens: int, n_tags: int) -> torch.Tensor:
    return torch.tensor(list(product(range(n_tags), repeat=n_tokens)))


def score_paths(scores: torch.Tensor, chain: TransitionScores, paths: torch.Tensor) -> torch.Tensor:
    """RETURNS (Tensor): The score of each path through one doc; P paths of n tokens."""
    start, moves, end = map(torch.as_tensor, (chain.start, chain.transitions, chain.end))
    return (
        start[paths[:, 0]]
        + scores[torch.arange(paths.shape[1]), paths].sum(1)
        + moves[paths[:, :-1], paths[:, 1:]].sum(1)
        + end[paths[:, -1]]
    )


def get_torch_loss(
    scores: numpy.ndarray, allowed: numpy.ndarray, chain: TransitionScores, lengths: Sequence[int]
) -> tuple[float, numpy.ndarray, numpy.ndarray]:
    """RETURNS (Tuple[float, Floats2d, Floats2d]): The mean per labelled token, and autograd's
    gradients for the scores and the transitions.
    """
    leaf = torch.tensor(scores, requires_grad=True)
    moves = torch.tensor(chain.transitions, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for rows in get_docs(lengths):
        paths = get_paths(rows.stop - rows.start, scores.shape[1])
        costs = score_paths(leaf[rows], TransitionScores(chain.start, moves, chain.end), paths)
        mask = torch.tensor(allowed[rows])
        gold = mask[torch.arange(paths.shape[1]), paths].all(1)
        total = total + costs.logsumexp(0) - costs[gold].logsumexp(0)
    loss = total / (~allowed.all(axis=1)).sum()
    loss.backward()
    assert leaf.grad is not None and moves.grad is not None
    return loss.item(), leaf.grad.numpy(), moves.grad.numpy()


def sample_gold(kind: str, lengths: Sequence[int], seed: int = 0) -> numpy.ndarray:
    """RETURNS (Ints1d): Valid tags, N."""
    return viterbi(make_scores(kind, lengths, seed + 100), make_chain(kind, seed), lengths)


def test_steps():
    order, bounds = get_steps([1, 0, 3, 2])
    assert order.tolist() == [1, 4, 0, 2, 5, 3]
    assert bounds == [0, 3, 5, 6]
    assert get_moves(bounds) == [(slice(0, 2), slice(3, 5)), (slice(3, 4), slice(5, 6))]
    for nothing in ([0, 0], []):
        order, bounds = get_steps(nothing)
        assert not len(order) and bounds == [0] and get_moves(bounds) == []


def test_tags_that_may_follow_the_same_ones():
    """With two labels 33 moves of 81 are left to look at in BILUO, and what is forbidden is not."""
    tags = get_tags(["X", "Y"], "biluo")
    moves = get_chain(tags, "biluo").transitions
    moves = moves + numpy.arange(moves.size).reshape(moves.shape)
    groups = group_tags(moves)
    assert [group.transitions.size for group in groups] == [25, 8]
    assert sorted(tag for group in groups for tag in group.behind.ravel()) == list(range(len(tags)))
    for group in groups:
        for i, behind in enumerate(group.behind):
            before = group.before[:, i, 0]
            numpy.testing.assert_array_equal(
                group.transitions[:, i, :, 0], moves[before][:, behind]
            )
            others = numpy.setdiff1d(numpy.arange(len(tags)), before)
            assert (moves[others][:, behind] < FORBIDDEN / 2).all()


def test_a_tag_that_follows_none():
    moves = numpy.array([[0.5, FORBIDDEN], [0.0, FORBIDDEN]])
    chain = TransitionScores(numpy.zeros(2), moves, numpy.zeros(2))
    scores = numpy.array([[0.0, 1.0], [0.0, 9.0], [0.0, 9.0]])
    assert viterbi(scores, chain, [3]).tolist() == [1, 0, 0]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", CHAINS)
def test_viterbi_finds_the_best_path(kind, lengths):
    for seed in range(5):
        scores, chain = make_scores(kind, lengths, seed), make_chain(kind, seed)
        tags = viterbi(scores, chain, lengths)
        for rows in get_docs(lengths):
            paths = get_paths(rows.stop - rows.start, scores.shape[1])
            best = score_paths(torch.tensor(scores[rows]), chain, paths).argmax()
            assert tags[rows].tolist() == paths[best].tolist()


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", CHAINS)
def test_sums_and_marginals(kind, lengths):
    scores, chain = make_scores(kind, lengths), make_chain(kind)
    lattice = forward_backward(scores, chain, lengths)
    moves = numpy.zeros_like(chain.transitions)
    for rows in get_docs(lengths):
        paths = get_paths(rows.stop - rows.start, scores.shape[1])
        costs = score_paths(torch.tensor(scores[rows]), chain, paths)
        assert lattice.log_z[rows] == pytest.approx(costs.logsumexp(0).item(), rel=1e-12)
        p = costs.softmax(0).numpy()
        for t in range(paths.shape[1]):
            expected = numpy.bincount(paths[:, t], weights=p, minlength=scores.shape[1])
            numpy.testing.assert_allclose(lattice.marginals[rows][t], expected, atol=1e-12)
        for a, b in zip(paths.T, paths.T[1:], strict=False):
            numpy.add.at(moves, (a, b), p)
    inner = [i for rows in get_docs(lengths) for i in range(rows.start, rows.stop - 1)]
    found = count_moves(lattice, numpy.array(inner, dtype="int64"))
    numpy.testing.assert_allclose(found, moves, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", CHAINS)
def test_loss_and_gradients(kind, lengths):
    scores, chain = make_scores(kind, lengths), make_chain(kind)
    allowed = one_hot(sample_gold(kind, lengths), scores.shape[1], numpy)
    loss, d_scores, d_moves, n = crf_loss(scores, allowed, chain, lengths)
    expected = get_torch_loss(scores, allowed, chain, lengths)
    assert loss == pytest.approx(expected[0], rel=1e-9)
    numpy.testing.assert_allclose(d_scores, expected[1], atol=1e-6)
    numpy.testing.assert_allclose(d_moves, expected[2], atol=1e-6)
    assert n == sum(lengths)
    assert d_scores.dtype == d_moves.dtype == "float32"


@pytest.mark.parametrize("kind", CHAINS)
def test_partial_annotation_sums_over_all_consistent_paths(kind):
    """One token without a tag, one with two left, one doc with a single known token."""
    lengths = [3, 4]
    scores, chain = make_scores(kind, lengths), make_chain(kind)
    allowed = one_hot(sample_gold(kind, lengths), scores.shape[1], numpy)
    allowed[1] = True
    allowed[2, 0] = True
    allowed[4:] = True
    loss, d_scores, d_moves, n = crf_loss(scores, allowed, chain, lengths)
    expected = get_torch_loss(scores, allowed, chain, lengths)
    assert n == 3
    assert loss == pytest.approx(expected[0], rel=1e-9)
    numpy.testing.assert_allclose(d_scores, expected[1], atol=1e-6)
    numpy.testing.assert_allclose(d_moves, expected[2], atol=1e-6)
    assert d_scores[1].any()  # the untagged token learns from its neighbours


def test_mean_is_per_labelled_token():
    """A doc repeated costs the same, and so does one beside docs without labels."""
    scores, chain = make_scores("biluo", [3]), make_chain("biluo")
    allowed = one_hot(sample_gold("biluo", [3]), 5, numpy)
    loss, d_scores, d_moves, n = crf_loss(scores, allowed, chain, [3])

    twice = crf_loss(numpy.tile(scores, (2, 1)), numpy.tile(allowed, (2, 1)), chain, [3, 3])
    assert twice[0] == pytest.approx(loss, rel=1e-12)
    numpy.testing.assert_allclose(twice[1], numpy.tile(d_scores / 2, (2, 1)), atol=1e-7)
    numpy.testing.assert_allclose(twice[2], d_moves, atol=1e-7)
    assert (n, twice[3]) == (3, 6)

    free = numpy.ones_like(allowed)
    beside = crf_loss(numpy.tile(scores, (2, 1)), numpy.vstack([free, allowed]), chain, [3, 3])
    assert beside[0] == pytest.approx(loss, rel=1e-12)
    numpy.testing.assert_allclose(beside[1][:3], 0, atol=1e-9)
    numpy.testing.assert_allclose(beside[1][3:], d_scores, atol=1e-7)
    numpy.testing.assert_allclose(beside[2], d_moves, atol=1e-7)
    assert beside[3] == 3


@pytest.mark.parametrize("lengths", [[3, 1], [], [0, 0]])
def test_nothing_labelled(lengths):
    scores, chain = make_scores("bio", lengths), make_chain("bio")
    loss, d_scores, d_moves, n = crf_loss(scores, numpy.ones_like(scores) > 0, chain, lengths)
    assert (loss, n) == (0.0, 0)
    assert d_scores.shape == scores.shape
    assert not d_scores.any() and not d_moves.any()
    assert viterbi(scores, chain, lengths).shape == (len(scores),)


@pytest.mark.parametrize(
    "gold",
    [
        ["I-X", "L-X", "O"],  # cannot start
        ["O", "B-X", "O"],  # cannot follow
        ["O", "O", "B-X"],  # cannot end
        ["O", None, "O"],  # no tag left
    ],
)
def test_doc_without_a_valid_path_is_left_out(gold):
    tags = TAGS["biluo"]
    scores, chain = make_scores("biluo", [2, 3, 1]), make_chain("biluo")
    good = one_hot([0, 4, 4], 5, numpy)
    bad = numpy.array([[tag == name for name in tags] for tag in gold])
    allowed = numpy.vstack([good[:2], bad, good[2:]])
    assert find_possible(allowed, chain, [2, 3, 1]).tolist() == [True] * 2 + [False] * 3 + [True]
    loss, d_scores, d_moves, n = crf_loss(scores, allowed, chain, [2, 3, 1])
    alone = crf_loss(scores[[0, 1, 5]], good, chain, [2, 1])
    assert loss == pytest.approx(alone[0], rel=1e-12)
    numpy.testing.assert_allclose(d_scores[[0, 1, 5]], alone[1], atol=1e-9)
    numpy.testing.assert_allclose(d_scores[2:5], 0, atol=1e-9)
    numpy.testing.assert_allclose(d_moves, alone[2], atol=1e-9)
    assert n == alone[3] == 3


@pytest.mark.parametrize("kind", CHAINS)
def test_span_probability(kind):
    lengths = [2, 4, 1]
    scores, chain = make_scores(kind, lengths), make_chain(kind)
    lattice = forward_backward(scores, chain, lengths)
    for rows in get_docs(lengths):
        size = rows.stop - rows.start
        paths = get_paths(size, scores.shape[1])
        p = score_paths(torch.tensor(scores[rows]), chain, paths).softmax(0)
        for start in range(size):
            for end in range(start + 1, size + 1):
                for tags in get_paths(end - start, scores.shape[1]).tolist()[::7]:
                    fits = (paths[:, start:end] == torch.tensor(tags)).all(1)
                    found = span_probability(lattice, rows.start + start, tags)
                    assert found == pytest.approx(p[fits].sum().item(), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(CHAINS),
    st.lists(st.integers(0, 12), min_size=1, max_size=8),
    st.integers(0, 1000),
    st.floats(0.1, 30),
)
def test_one_doc_alone_is_as_in_a_batch(kind, lengths, seed, scale):
    scores, chain = scale * make_scores(kind, lengths, seed), make_chain(kind, seed)
    allowed = one_hot(sample_gold(kind, lengths, seed), scores.shape[1], numpy)
    tags, lattice = viterbi(scores, chain, lengths), forward_backward(scores, chain, lengths)
    d_scores = crf_loss(scores, allowed, chain, lengths)[1]
    for rows in get_docs(lengths):
        size = rows.stop - rows.start
        assert (viterbi(scores[rows], chain, [size]) == tags[rows]).all()
        alone = forward_backward(scores[rows], chain, [size])
        numpy.testing.assert_allclose(alone.log_z, lattice.log_z[rows], rtol=1e-12)
        numpy.testing.assert_allclose(alone.marginals, lattice.marginals[rows], atol=1e-12)
        numpy.testing.assert_allclose(alone.marginals.sum(axis=1), 1, atol=1e-9)
        own = crf_loss(scores[rows], allowed[rows], chain, [size])[1]
        numpy.testing.assert_allclose(own * size / sum(lengths), d_scores[rows], atol=1e-6)


def test_long_doc():
    """2,000 tokens, whose sums are far beyond what single precision and exp can hold."""
    rng = numpy.random.default_rng(0)
    chain = make_chain("biluo")
    scores = (50 + 5 * rng.normal(size=(2000, 5))).astype("f")
    gold = sample_gold("biluo", [2000])
    loss, d_scores, d_moves, n = crf_loss(scores, one_hot(gold, 5, numpy), chain, [2000])
    assert n == 2000
    assert 0 < loss < 50
    assert numpy.isfinite(d_scores).all() and numpy.isfinite(d_moves).all()
    numpy.testing.assert_allclose(d_scores.sum(axis=1), 0, atol=1e-8)
    assert d_moves.sum() == pytest.approx(0, abs=1e-6)
    moves = count_moves(forward_backward(scores, chain, [2000]), numpy.arange(1999))
    assert moves.sum() == pytest.approx(1999)
    assert not moves[chain.transitions < FORBIDDEN / 2].any()


def test_long_doc_is_decoded_exactly():
    """A small difference counts as much at the last token as at the first."""
    chain = get_chain(TAGS["biluo"], "biluo")
    gold = sample_gold("biluo", [20_000])
    scores = numpy.full((20_000, 5), 20, dtype="f")
    scores[numpy.arange(20_000), gold] += 0.01
    assert (viterbi(scores, chain, [20_000]) == gold).all()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(CHAINS),
    st.lists(st.integers(0, 70), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.floats(0.0, 10),
)
def test_segments_of_a_long_doc_decode_as_the_whole(kind, lengths, seed, scale):
    """Also where the halo is too short for the paths to meet, as with scores that say nothing."""
    scores, chain = scale * make_scores(kind, lengths, seed), make_chain(kind, seed)
    whole = viterbi(scores, chain, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crf, "SEGMENT_TOKENS", 10)
        patch.setattr(crf, "CONTEXT_TOKENS", 4)
        assert (viterbi(scores, chain, lengths) == whole).all()


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(CHAINS),
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.floats(-1, 10),
)
def test_tokens_that_are_certain_to_have_tag_0(kind, lengths, seed, margin):
    """Decoding the parts between them finds the best sequence of the whole doc."""
    scores, chain = make_scores(kind, lengths, seed), make_chain(kind, seed)
    scores[:, 0] += margin
    whole = crf.decode_docs(
        crf.frame(scores, chain, lengths, "float32"), chain.transitions, lengths
    )
    certain = crf.find_certain(scores, chain)
    assert not whole[certain].any()
    assert (viterbi(scores, chain, lengths) == whole).all()


def test_most_tokens_are_certain_where_scores_are_clear():
    scores, chain = make_scores("biluo", [300]), make_chain("biluo")
    scores[:, 0] += 20
    scores[100:110, 0] -= 20
    certain = crf.find_certain(scores, chain)
    assert certain.sum() > 270 and not certain[100:110].any()


def test_segments():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crf, "SEGMENT_TOKENS", 4)
        patch.setattr(crf, "CONTEXT_TOKENS", 2)
        found = crf.get_segments([2, 0, 5, 9])
    assert found.sizes == [2, 5, 3, 6, 7, 3]
    assert (found.rows[found.core] == numpy.arange(16)).all()
    left, right = found.joints
    assert found.rows[left].tolist() == found.rows[right].tolist() == [6, 11, 15]
    assert (left < right).all()


@pytest.mark.parametrize("kind", CHAINS)
def test_probabilities_of_spans_are_those_of_the_whole_doc(kind):
    lengths = [200, 0, 3, 90]
    scores, chain = make_scores(kind, lengths), make_chain(kind)
    tags = viterbi(scores, chain, lengths)
    spans = [(0, 1), (2, 5), (100, 103), (199, 200), (200, 203), (203, 204), (290, 293)]
    lattice = forward_backward(scores, chain, lengths)
    found = span_probabilities(scores, chain, lengths, spans, tags)
    for (start, end), p in zip(spans, found, strict=True):
        whole = span_probability(lattice, start, tags[start:end])
        assert p == pytest.approx(whole, abs=1e-6)
    assert span_probabilities(scores, chain, lengths, [], tags) == []


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(0, 30)), min_size=1, max_size=4), st.data()
)
def test_windows_around_spans(docs: list[tuple[int, int]], data: st.DataObject) -> None:
    """Each span has CONTEXT_TOKENS around it if its doc has, and few rows are in two windows."""
    spans, bounds, first = [], [], 0
    for length, n_spans in docs:
        starts = data.draw(st.lists(st.integers(0, length - 1), max_size=n_spans, unique=True))
        for start, after in pairwise([*sorted(starts), length]):
            end = data.draw(st.integers(start + 1, after))
            spans.append((first + start, first + end))
            bounds.append((first, first + length))
        first += length
    windows, index = get_windows(spans, [length for length, _ in docs])
    assert len(index) == len(spans) and index == sorted(index)
    assert set(index) == set(range(len(windows)))
    for (start, end), (first, last), i in zip(spans, bounds, index, strict=True):
        low, high = windows[i]
        assert first <= low <= max(start - CONTEXT_TOKENS, first)
        assert min(end + CONTEXT_TOKENS, last) <= high <= last
        assert high - low <= max(SEGMENT_TOKENS, end - start + 2 * CONTEXT_TOKENS)
    ends = numpy.cumsum([length for length, _ in docs])
    for before, after in pairwise(windows):
        doc = numpy.searchsorted(ends, after[0], side="right")
        assert before[1] <= after[0] or docs[doc][0] > SEGMENT_TOKENS
