"""Attention is what torch computes."""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import normal
from numpy.random import default_rng
from torch.nn import functional

from spacy_mtl.encoder.runtime.base import Block
from spacy_mtl.encoder.runtime.cpu import attention as module
from spacy_mtl.encoder.runtime.cpu.attention import FUSED_BELOW, attention
from spacy_mtl.encoder.runtime.cpu.dropout import attend, sample_mask

HALF = torch.bfloat16


@pytest.fixture
def torchs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The queries that the kernel gives to torch."""
    queries: list[Any] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        queries.append(args[0])
        return functional.scaled_dot_product_attention(*args, **kwargs)

    names = {**vars(functional), "scaled_dot_product_attention": watched}
    monkeypatch.setattr(module, "functional", SimpleNamespace(**names))
    return queries


def make_qkv(length: int = 64, size: int = 8, value_size: int = 8, keys: int = 0) -> list[Any]:
    sizes = [(length, size), (keys or length, size), (keys or length, value_size)]
    return [normal(3, 4, *shape, seed=seed) for seed, shape in enumerate(sizes)]


def make_mask(kind: str, length: int = 64) -> Any:
    """Of three sequences, of which two have padding behind them; or a bias for each place."""
    lengths = torch.tensor([length, length - 1, 5])
    is_text = (torch.arange(length) < lengths[:, None])[:, None, None, :]
    if kind == "bool":
        return is_text
    if kind == "bool, by rows":
        return is_text.expand(3, 1, length, length)
    if kind == "float":
        return torch.zeros(is_text.shape).masked_fill(~is_text, torch.finfo(torch.float32).min)
    if kind == "infinite":
        return torch.zeros(is_text.shape).masked_fill(~is_text, -math.inf)
    if kind == "bias":
        return normal(length, length, seed=9)
    if kind == "bias, by queries":
        return normal(length, 1, seed=9)
    if kind == "bias, by heads":
        return normal(1, 4, length, length, seed=9).masked_fill(~is_text[-1:], -1e4)
    return None


MASKS = ["none", "bool", "bool, by rows", "float", "infinite"]
MASKS += ["bias", "bias, by heads", "bias, by queries"]


def test_exact_attention_is_torchs_where_that_is_fast(
    torchs: list[Any], choose_kernels: Callable
) -> None:
    choose_kernels()
    q, k, v = make_qkv()
    expected = functional.scaled_dot_product_attention(q, k, v)
    assert torch.equal(attention(q, k, v), expected) and len(torchs) == 1


@pytest.mark.parametrize("kind", MASKS)
def test_attention_in_bfloat16(kind: str, torchs: list[Any], forced: None) -> None:
    q, k, v = (x.to(HALF) for x in make_qkv())
    mask = make_mask(kind)
    found = attention(q, k, v, mask)
    assert not torchs and found.dtype == HALF and found.shape == q.shape
    mask = mask.float() if mask is not None and mask.dtype != torch.bool else mask
    exact = functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask)
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=2**-5)
    assert (found.float() - exact).norm() < 2**-7 * exact.norm()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("cached", [1, 4 * 64 * 64 * 2, 2**19])
def test_attention_of_predictions(
    kind: str,
    dtype: torch.dtype,
    cached: int,
    torchs: list[Any],
    forced: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In parts of one sequence, of two and one, or of all."""
    monkeypatch.setattr(module, "CACHED_SCORES", cached)
    q, k, v = (x.to(dtype) for x in make_qkv(value_size=6))
    mask = make_mask(kind)
    with torch.inference_mode():
        found = attention(q, k, v, mask)
    assert not torchs and found.dtype == dtype and found.shape == v.shape
    exact = functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask)
    atol = 2**-5 if dtype == HALF else 1e-6
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["bool", "float", "infinite"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_padding_counts_for_nothing(kind: str, dropout_p: float) -> None:
    q, k, v = (x.to(HALF) for x in make_qkv())
    mask = make_mask(kind)
    expected = attention(q, k, v, mask, dropout_p, generator=default_rng(0))
    for x in (k, v):
        x[1, :, -1], x[2, :, 5:] = 100.0, -100.0
    found = attention(q, k, v, mask, dropout_p, generator=default_rng(0))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("keys", [FUSED_BELOW, 10])
def test_other_value_sizes_and_numbers_of_keys(
    dtype: torch.dtype, keys: int, torchs: list[Any], forced: None
) -> None:
    """Other numbers of keys in predictions only."""
    q, k, v = (x.to(dtype) for x in make_qkv(FUSED_BELOW, 16, 24, keys=keys))
    with torch.inference_mode(keys != FUSED_BELOW):
        found = attention(q, k, v)
    assert not torchs and found.shape == (3, 4, FUSED_BELOW, 24)
    exact = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    tolerance = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(found.float(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "case",
    [
        "short",
        "causal",
        "scale",
        "three axes",
        "one batch of keys",
        "other keys",
        "other keys, some dropped",
        "mixed dtypes",
        "mask that learns",
    ],
)
def test_what_goes_to_torch(case: str, torchs: list[Any], choose_kernels: Callable) -> None:
    choose_kernels()
    q, k, v = (x.to(HALF) for x in make_qkv(FUSED_BELOW - 1 if case == "short" else 64))
    kwargs: dict[str, Any] = {}
    if case == "causal":
        kwargs = {"is_causal": True}
    elif case == "scale":
        kwargs = {"scale": 0.5}
    elif case == "three axes":
        q, k, v = q[0], k[0], v[0]
    elif case == "one batch of keys":
        k, v = k[:1], v[:1]
    elif case.startswith("other keys"):
        k, v = k[:, :, :9], v[:, :, :9]
        kwargs = {"dropout_p": 0.5} if case.endswith("dropped") else {}
    elif case == "mask that learns":
        kwargs = {"attn_mask": normal(64, 64).to(HALF).requires_grad_()}
    elif case == "mixed dtypes":  # which autocast makes alike
        q, k = q.float(), k.float()
    learns = case != "short" and not case.endswith("dropped")
    with torch.autocast("cpu", HALF), torch.set_grad_enabled(learns):
        torch.manual_seed(0)
        expected = functional.scaled_dot_product_attention(q, k, v, **kwargs)
        torch.manual_seed(0)
        assert torch.equal(attention(q, k, v, **kwargs), expected)
        if case == "mixed dtypes":
            assert attention(q, k, v, dropout_p=0.1).dtype == HALF
    assert torchs


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("one_dnn", [False, True])
@pytest.mark.parametrize("length", [16, 24, FUSED_BELOW, 88, 96, 104])
def test_predictions_take_what_is_fast(
    dtype: torch.dtype,
    tiles: bool,
    one_dnn: bool,
    length: int,
    torchs: list[Any],
    choose_kernels: Callable,
) -> None:
    """Torch's own attention for short sequences, and in bfloat16 with tiles for those that fill
    tiles or are long; at float32 for all, unless oneDNN is faster.
    """
    choose_kernels("tiled_attention" if tiles else "", "onednn_products" if one_dnn else "")
    with torch.inference_mode():
        attention(*(x.to(dtype) for x in make_qkv(length)))
    expected = length < FUSED_BELOW
    if dtype == HALF and tiles:
        expected = length in (16, FUSED_BELOW, 96, 104)
    elif dtype == torch.float32 and not one_dnn:
        expected = True
    assert bool(torchs) is expected


def learn(way: Callable, p: float, mask: Any, dtype: torch.dtype = torch.float32) -> list[Any]:
    """RETURNS (List[torch.Tensor]): The output, and the gradients of query, key and value."""
    leaves = [x.to(dtype).requires_grad_() for x in make_qkv(value_size=24)]
    output = way(*leaves, mask, p)
    output.backward(normal(3, 4, 64, 24, seed=5).to(dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def plain(generator: Any, q: Any, k: Any, v: Any, mask: Any, p: float) -> Any:
    """Attention as in the textbook, with the same random numbers."""
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if mask is not None:
        is_bool = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -math.inf) if is_bool else scores + mask
    weights = scores.softmax(-1)
    if p:
        kept = sample_mask((12, 64, 64), p, generator).view(3, 4, 64, 64)
        weights = weights * (kept != 0) / (1 - p)
    return weights @ v


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_gradients_of_attention(kind: str, p: float, torchs: list[Any], forced: None) -> None:
    mask = make_mask(kind)
    found = learn(partial(attention, generator=default_rng(1)), p, mask)
    expected = learn(partial(plain, default_rng(1)), p, mask)
    assert not torchs
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_gradients_in_bfloat16(p: float, torchs: list[Any]) -> None:
    found = learn(partial(attention, generator=default_rng(1)), p, make_mask("bool"), HALF)
    expected = learn(partial(plain, default_rng(1)), p, make_mask("bool"))
    assert not torchs
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == HALF
        assert (ours.float() - exact).norm() < 2**-6 * exact.norm()


def test_a_backward_leaves_all_for_the_next(forced: None) -> None:
    """As balancers have it, one for each task."""
    leaves = [x.requires_grad_() for x in make_qkv()]
    output = attention(*leaves, dropout_p=0.2, generator=default_rng(1))
    d_output = normal(*output.shape)
    first, second = (
        torch.autograd.grad(output, leaves, d_output, retain_graph=True) for _ in range(2)
    )
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("p", [0.0, 0.2])
def test_each_sequence_attends_to_itself(p: float) -> None:
    """Blocks behind each other have what each has alone, forward and backward."""
    mask = torch.tensor([-1e30, -1e30]).view(1, 1, 1, 2)  # of the last two keys
    blocks = [Block(2, 3, None), Block(1, 5, mask)]
    leaves = [x.requires_grad_() for x in normal(3, 11, 4, 8).unbind()]
    found = attend(*leaves, blocks, p, default_rng(3))
    assert found.shape == (11, 4, 8)
    found.backward(d_output := normal(11, 4, 8, seed=1))
    generator, start = default_rng(3), 0
    for block in blocks:
        rows = slice(start, start := start + block.n * block.length)
        alone = [leaf[rows].detach().clone().requires_grad_() for leaf in leaves]
        expected = attend(*alone, [block], p, generator)
        expected.backward(d_output[rows])
        torch.testing.assert_close(found[rows], expected)
        for leaf, own in zip(leaves, alone, strict=True):
            torch.testing.assert_close(leaf.grad[rows], own.grad)
        if not p:  # as torch's function has it
            q, k, v = (x.unflatten(0, (block.n, block.length)).transpose(1, 2) for x in alone)
            whole = None if block.mask is None else functional.pad(block.mask, (3, 0))
            exact = functional.scaled_dot_product_attention(q, k, v, whole)
            torch.testing.assert_close(expected, exact.transpose(1, 2).flatten(0, 1))


def test_queries_that_may_see_nothing_learn_nothing_in_bfloat16(forced: None) -> None:
    """Those of padding, in encoders whose wordpieces see a window. Hugging Face hides by the lowest
    number of float32, which bfloat16 does not have.
    """
    q, k, v = (x.to(HALF).requires_grad_() for x in make_qkv())
    mask = make_mask("float").repeat(1, 1, 64, 1)
    mask[1, :, 40:] = torch.finfo(torch.float32).min
    y = module.attention(q, k, v, mask, 0.1, False, default_rng(0))
    (y[:, :, :40] ** 2).sum().backward()
    assert all(torch.isfinite(x).all() for x in (y, q.grad, k.grad, v.grad))
