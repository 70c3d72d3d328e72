"""The decoder: its loss and gradient, and the search for likely texts."""

from itertools import product
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spacy_mtl.heads.seq2seq.decoder import get_positions, make_weights
from spacy_mtl.heads.seq2seq.decoding import Text, find_loss, write_texts
from spacy_mtl.heads.seq2seq.model import Factors, Sizes

N_PIECES, WIDTH = 5, 8
SIZES = Sizes(2, 2)
# Two docs of 3 tokens and one of 1, without and with a space. 5 and more are no pieces.
COPIES = [[5, 2, 5, 6, 7, 6], [5, 6], [1, 5, 6, 2, 7, 8]]
TARGETS = [[5, 2, 6, 0], None, [1, 3, 3, 8, 0]]


@pytest.fixture
def factors() -> Factors:
    random = numpy.random.default_rng(0)
    torch.manual_seed(0)
    shapes = {name: array.shape for name, array in make_weights(N_PIECES, WIDTH, *SIZES).items()}
    weights = {n: random.normal(scale=0.5, size=s).astype("f") for n, s in shapes.items()}
    rows: Any = random.normal(size=(7, WIDTH)).astype("f")
    return Factors(rows, weights)


def attend(w: dict[str, Tensor], name: str, x: Tensor, y: Tensor, is_causal: bool) -> Tensor:
    """Compute attention from L vectors to M vectors, head by head."""
    q = x @ w[f"{name}.query.weight"].T + w[f"{name}.query.bias"]
    both = y @ w[f"{name}.key_value.weight"].T + w[f"{name}.key_value.bias"]
    size, found = WIDTH // SIZES.heads, []
    for h in range(SIZES.heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ both[:, :WIDTH][:, part].T / size**0.5
        if is_causal:
            scores = scores + torch.full(scores.shape, -torch.inf).triu(1)
        found.append(scores.softmax(-1) @ both[:, WIDTH:][:, part])
    return torch.cat(found, 1) @ w[f"{name}.output.weight"].T + w[f"{name}.output.bias"]


def reference(w: dict[str, Tensor], rows: Tensor, copies: list[int], target: list[int]) -> Tensor:
    """Compute the log-probability of each unit of a text, one doc at a time, in float64."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    n = len(rows)
    source = norm("source_norm", rows) + get_positions(torch.arange(n), WIDTH)
    copied = source @ w["copied.weight"].T + w["copied.bias"]
    inputs = []
    for unit in [0, *target[:-1]]:
        vector = torch.zeros(WIDTH, dtype=torch.float64)
        if unit < N_PIECES:
            vector = vector + WIDTH**0.5 * w["embedding"][unit]
        if unit in copies:
            place = copies.index(unit)
            half = slice(0, WIDTH) if place < n else slice(WIDTH, None)
            vector = vector + copied[place % n, half]
        inputs.append(vector)
    x = torch.stack(inputs) + get_positions(torch.arange(len(target)), WIDTH)
    for i in range(SIZES.depth):
        own = norm(f"layers.{i}.self_norm", x)
        x = x + attend(w, f"layers.{i}.self_attention", own, own, True)
        read = norm(f"layers.{i}.source_norm", x)
        x = x + attend(w, f"layers.{i}.source_attention", read, source, False)
        hidden = norm(f"layers.{i}.hidden_norm", x) @ w[f"layers.{i}.hidden.weight"].T
        hidden = F.gelu(hidden + w[f"layers.{i}.hidden.bias"])
        x = x + hidden @ w[f"layers.{i}.output.weight"].T + w[f"layers.{i}.output.bias"]
    x = norm("norm", x)
    chosen = x @ w["output.weight"].T + w["output.bias"]
    p_pieces = (chosen @ w["embedding"].T + w["b"]).softmax(-1)
    queries = x @ w["pointer.weight"].T + w["pointer.bias"]
    scores = torch.cat([queries[:, :WIDTH] @ source.T, queries[:, WIDTH:] @ source.T], 1)
    p_copies = (scores / WIDTH**0.5).softmax(-1)
    gate = (x @ w["gate.weight"].T + w["gate.bias"]).sigmoid()[:, 0]
    found = []
    for step, unit in enumerate(target):
        p = gate[step] * p_pieces[step, unit] if unit < N_PIECES else 0.0 * gate[step]
        for place, copy in enumerate(copies):
            if copy == unit:
                p = p + (1 - gate[step]) * p_copies[step, place]
        found.append(p.log())
    return torch.stack(found)


def test_loss_and_gradient_are_those_of_plain_autograd(factors: Factors) -> None:
    w = {n: torch.tensor(a, dtype=torch.float64) for n, a in factors.weights.items()}
    rows = torch.tensor(factors.rows, dtype=torch.float64)
    for tensor in (rows, *w.values()):
        tensor.requires_grad_()
    log_p = [
        reference(w, rows[start : start + len(copies) // 2], copies, target)
        for start, copies, target in zip((0, 3, 4), COPIES, TARGETS, strict=True)
        if target is not None
    ]
    expected = -torch.cat(log_p).mean()
    expected.backward()
    loss, gradient, n = find_loss(factors, SIZES, COPIES, TARGETS)
    assert (n, loss) == (9, pytest.approx(float(expected.detach()), rel=1e-5))
    close: Any = {"rtol": 1e-4, "atol": 1e-6}
    numpy.testing.assert_allclose(gradient.rows, rows.grad, **close)
    assert gradient.weights.keys() == w.keys()
    for name, tensor in w.items():
        numpy.testing.assert_allclose(gradient.weights[name], tensor.grad, **close)
    assert not gradient.rows[3].any() and gradient.rows[0].any()


def test_label_smoothing_spreads_over_the_pieces(factors: Factors) -> None:
    """All copies removed, the loss is the cross-entropy with smoothed targets."""
    factors.weights["gate.weight"][:] = 0
    factors.weights["gate.bias"][:] = 50
    pieces = [[-1, -1]]
    rows = Factors(factors.rows[:1], factors.weights)
    plain = [find_loss(rows, SIZES, pieces, [[unit]])[0] for unit in range(N_PIECES)]
    smoothed, gradient, _ = find_loss(rows, SIZES, pieces, [[2]], label_smoothing=0.2)
    assert smoothed == pytest.approx(0.8 * plain[2] + 0.2 * numpy.mean(plain), rel=1e-5)
    assert gradient.rows.any()


def test_without_targets(factors: Factors) -> None:
    loss, gradient, n = find_loss(factors, SIZES, COPIES, [None, None, None])
    assert (loss, n, gradient.rows.any(), gradient.weights) == (0.0, 0, False, {})
    assert write_texts(Factors(factors.rows[:0], factors.weights), SIZES, [[]], 1, 5) == [
        Text([], 0.0, True)
    ]


def test_dropout(factors: Factors) -> None:
    dropped = factors._replace(dropout=0.5)
    losses = [find_loss(dropped, SIZES, COPIES, TARGETS)[0] for _ in range(2)]
    assert losses[0] != losses[1]


# Search


@pytest.mark.parametrize("beam_width", [1, 3])
def test_likelihood_of_a_text_is_that_of_the_loss(factors: Factors, beam_width: int) -> None:
    """Docs in a batch, step by step, agree with teacher forcing for each doc."""
    texts = write_texts(factors, SIZES, COPIES, beam_width, 12)
    starts = (0, 3, 4)
    for start, copies, text in zip(starts, COPIES, texts, strict=True):
        own = Factors(factors.rows[start : start + len(copies) // 2], factors.weights)
        target = [*text.units, 0] if text.is_complete else text.units
        loss, _, n = find_loss(own, SIZES, [copies], [target])
        assert text.log_p == pytest.approx(-loss * n, rel=1e-4)
        assert write_texts(own, SIZES, [copies], beam_width, 12)[0].units == text.units


def follow_best(factors: Factors, copies: list[int], limit: int) -> list[int]:
    """Choose the best unit at each step, by the loss of each."""
    text: list[int] = []
    for _ in range(limit):
        losses = {
            unit: find_loss(factors, SIZES, [copies], [[*text, unit]])[0]
            for unit in {*range(N_PIECES), *copies}
        }
        best = min(losses, key=losses.__getitem__)
        if best == 0:
            break
        text.append(best)
    return text


def test_a_beam_of_one_is_greedy(factors: Factors) -> None:
    rows = Factors(factors.rows[4:], factors.weights)
    (text,) = write_texts(rows, SIZES, COPIES[2:], 1, 6)
    assert text.units == follow_best(rows, COPIES[2], 6)


def get_mean(text: Text) -> float:
    return text.log_p / (len(text.units) + text.is_complete)


def test_a_wide_beam_finds_the_best_text(factors: Factors) -> None:
    """Wide enough, the beam has all texts up to the limit."""
    rows, copies = Factors(factors.rows[3:4], factors.weights), COPIES[1]
    units = [1, 2, 3, 4, 5, 6]
    targets = [[0], *([unit, 0] for unit in units), *map(list, product(units, repeat=2))]
    means = [-find_loss(rows, SIZES, [copies], [target])[0] for target in targets]
    (text,) = write_texts(rows, SIZES, [copies], 50, 2)
    best = targets[int(numpy.argmax(means))]
    # The search ends when the best text so far is complete.
    assert get_mean(text) <= max(means) + 1e-5
    if not text.is_complete:
        assert text.units == best
    greedy = write_texts(rows, SIZES, [copies], 1, 2)[0]
    assert get_mean(text) >= get_mean(greedy) - 1e-6


def test_a_beam_finds_texts_at_least_as_likely(factors: Factors) -> None:
    random = numpy.random.default_rng(1)
    lengths = random.integers(1, 9, 40)
    copies = [random.integers(1, 9, 2 * n).tolist() for n in lengths]
    rows: Any = random.normal(size=(lengths.sum(), WIDTH)).astype("f")
    found = [
        [
            get_mean(text)
            for text in write_texts(Factors(rows, factors.weights), SIZES, copies, k, 8)
        ]
        for k in (1, 4)
    ]
    assert numpy.mean(found[1]) > numpy.mean(found[0])
    assert numpy.mean(numpy.array(found[1]) >= numpy.array(found[0]) - 1e-6) > 0.9
