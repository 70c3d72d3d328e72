"""Dropout drops what it should, and nothing else."""

import math

import pytest
import torch
from conftest import normal
from numpy.random import default_rng

from spacy_mtl.encoder.runtime.cpu.dropout import apply_mask, dropout, sample_mask

HALF = torch.bfloat16


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_rate_of_dropout(p: float) -> None:
    """Each of the four values that share a number is dropped at the rate, whatever the others."""
    n = 2**18
    dropped = (dropout(torch.ones(n, 4), p, generator=default_rng(0)) == 0).double()
    rate = 1 - round((1 - p) * 2**15) / 2**15
    assert abs(rate - p) <= 2**-16
    sigma = math.sqrt(rate * (1 - rate) / n)
    assert (dropped.mean(0) - rate).abs().max() < 5 * sigma
    both = (dropped.T @ dropped / n)[~torch.eye(4, dtype=torch.bool)]
    assert (both - rate**2).abs().max() < 5 * math.sqrt(rate**2 * (1 - rate**2) / n)
    in_turn = (dropped[1:] * dropped[:-1]).mean()
    assert abs(in_turn - rate**2) < 5 * sigma


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 5), (0, 4), (8, 16)])
def test_kept_values_are_scaled_and_gradients_alike(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = normal(*shape).to(dtype).requires_grad_()
    y = dropout(x, 0.3, generator=default_rng(2))
    y.backward(torch.ones_like(y))
    scale = torch.tensor(1 / 0.7).to(dtype)
    assert y.dtype == dtype and y.shape == shape
    assert torch.equal(x.grad, scale * (y != 0)) and torch.equal(y, x * x.grad)


def test_dropout_of_a_view() -> None:
    x = normal(6, 10).T
    y = dropout(x, 0.5, generator=default_rng(0))
    assert torch.equal(y, torch.where(y == 0, 0.0, 2 * x)) and (y == 0).any() and (y != 0).any()


@pytest.mark.parametrize("p,training", [(0.0, True), (0.5, False)])
def test_no_dropout(p: float, training: bool) -> None:
    x, generator = normal(5, 7), default_rng(0)
    assert torch.equal(dropout(x, p, training, generator=generator), x)
    assert generator.random() == default_rng(0).random()


def test_odd_rates() -> None:
    assert not dropout(normal(9), 1.0, generator=default_rng(0)).any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        dropout(normal(9), 1.5, generator=default_rng(0))


def test_same_seed_same_mask() -> None:
    x = torch.ones(1001)
    masks = []
    for seed in (3, 3, 4):
        generator = default_rng(seed)
        masks.append(dropout(x, 0.5, generator=generator))
    first, second, third = masks
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert not torch.equal(dropout(x, 0.5, generator=generator), third)  # it goes on


@pytest.mark.parametrize("dtype", [HALF, torch.float32, torch.float64])
def test_what_is_kept(dtype: torch.dtype) -> None:
    x, kept = normal(5, 7).to(dtype), sample_mask((5, 7), 0.5, default_rng(0))
    found = apply_mask(x, kept)
    assert found.dtype == dtype and torch.equal(found, torch.where(kept == 0, 0, x))
    assert apply_mask(x, kept, out=x).data_ptr() == x.data_ptr() and torch.equal(x, found)
