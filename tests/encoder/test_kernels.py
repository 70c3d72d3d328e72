"""What the kernels compute is what torch computes."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, TEXTS, build_encoder, linear_unpacked
from spacy.tokens import Doc
from spacy_transformers.span_getters import configure_strided_spans
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModel

from spacy_mtl.encoder import kernels
from spacy_mtl.encoder import model as encoder_model
from spacy_mtl.encoder.kernels import (
    SHORT,
    Kernels,
    KnownMask,
    PredictionKernels,
    TrainingKernels,
    attention,
    dropout,
    gpu_attention,
)
from spacy_mtl.encoder.model import build_shared_transformer_v1

NLP = spacy.blank("en")
HALF = torch.bfloat16


def normal(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_dnn_rounds() -> bool:
    """Whether this CPU computes bfloat16 where oneDNN may, or torch does not know the setting."""
    x = normal(64, 64)
    try:
        with kernels.one_dnn:
            return bool((x @ x - (x.double() @ x.double())).abs().max() > 1e-3)
    except AttributeError:
        return True


def can_pack() -> bool:
    with torch.inference_mode():
        try:
            x, weight, bias = kernels.example(torch.float32)
            kernels.linear_packed(x, kernels.pack(weight, len(x)), bias)
        except (AttributeError, RuntimeError):
            return False
    return True


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All kernels are used, whether or not they are the faster ones here. What this machine or
    build of torch lacks is replaced by torch's plain functions, so that the rest is tested.
    """
    monkeypatch.setattr(kernels, "one_dnn_pays", lambda: True)
    monkeypatch.setattr(kernels, "packing_pays", lambda dtype: dtype == torch.float32)
    if one_dnn_rounds():
        monkeypatch.setattr(kernels, "one_dnn", nullcontext())
    if not can_pack():
        monkeypatch.setattr(kernels, "pack", lambda weight, n_rows: weight.detach().clone())
        monkeypatch.setattr(kernels, "linear_packed", linear_unpacked)


@pytest.fixture
def torchs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The queries that the kernel gives to torch."""
    queries: list[Any] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        queries.append(args[0])
        return functional.scaled_dot_product_attention(*args, **kwargs)

    names = {**vars(functional), "scaled_dot_product_attention": watched}
    monkeypatch.setattr(kernels, "functional", SimpleNamespace(**names))
    return queries


# Attention


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
    if kind == "bias, by heads":
        return normal(1, 4, length, length, seed=9).masked_fill(~is_text[-1:], -1e4)
    return None


MASKS = ["none", "bool", "bool, by rows", "float", "infinite", "bias", "bias, by heads"]


def test_exact_attention_is_torchs_where_that_is_fast(
    torchs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "one_dnn_pays", lambda: False)
    q, k, v = make_qkv()
    expected = functional.scaled_dot_product_attention(q, k, v)
    assert torch.equal(attention(q, k, v), expected) and len(torchs) == 1


@pytest.mark.parametrize("kind", MASKS)
def test_attention_in_bfloat16(kind: str, torchs: list[Any]) -> None:
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
    monkeypatch.setattr(kernels, "CACHED", cached)
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
    torch.manual_seed(0)
    expected = attention(q, k, v, mask, dropout_p)
    for x in (k, v):
        x[1, :, -1], x[2, :, 5:] = 100.0, -100.0
    torch.manual_seed(0)
    assert torch.equal(attention(q, k, v, mask, dropout_p), expected)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_other_value_sizes_and_numbers_of_keys(dtype: torch.dtype, torchs: list[Any]) -> None:
    q, k, v = (x.to(dtype) for x in make_qkv(SHORT, 16, 24, keys=10))
    found = attention(q, k, v, dropout_p=1e-9)  # too little to drop anything
    assert not torchs and found.shape == (3, 4, SHORT, 24)
    exact = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    tolerance = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(found.float(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "case", ["short", "causal", "scale", "three axes", "one batch of keys", "mixed dtypes"]
)
def test_what_goes_to_torch(case: str, torchs: list[Any]) -> None:
    q, k, v = (x.to(HALF) for x in make_qkv(SHORT - 1 if case == "short" else 64))
    kwargs: dict[str, Any] = {}
    if case == "causal":
        kwargs = {"is_causal": True}
    elif case == "scale":
        kwargs = {"scale": 0.5}
    elif case == "three axes":
        q, k, v = q[0], k[0], v[0]
    elif case == "one batch of keys":
        k, v = k[:1], v[:1]
    elif case == "mixed dtypes":  # which autocast makes alike
        q, k = q.float(), k.float()
    with torch.autocast("cpu", HALF), torch.set_grad_enabled(case != "short"):
        expected = functional.scaled_dot_product_attention(q, k, v, **kwargs)
        assert torch.equal(attention(q, k, v, **kwargs), expected)
        if case == "mixed dtypes":
            assert attention(q, k, v, dropout_p=0.1).dtype == HALF
    assert torchs


@pytest.mark.parametrize("kind", MASKS)
def test_gradients_of_attention(kind: str, torchs: list[Any]) -> None:
    undropped = partial(attention, drop=lambda x, p: x)
    mask, d_output = make_mask(kind), normal(3, 4, 64, 24, seed=5)
    results = []
    for way, p in ((undropped, 0.1), (functional.scaled_dot_product_attention, 0.0)):
        leaves = [x.requires_grad_() for x in make_qkv(value_size=24)]
        if mask is not None and kind.startswith("bias"):
            mask = mask.detach().clone().requires_grad_()
            leaves.append(mask)
        output = way(*leaves[:3], mask, p)
        output.backward(d_output)
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    assert not torchs
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_in_attention() -> None:
    q, k, v = make_qkv()
    torch.manual_seed(1)
    found = attention(q, k, v, dropout_p=0.3)
    torch.manual_seed(1)
    kept = dropout(torch.ones(12, 64, 64), 0.3).view(3, 4, 64, 64)
    expected = ((q @ k.transpose(2, 3) / math.sqrt(8)).softmax(-1) * kept) @ v
    assert (kept == 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# Dropout


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_rate_of_dropout(p: float) -> None:
    """Each of the four values that share a number is dropped at the rate, whatever the others."""
    n = 2**18
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(n, 4), p) == 0).double()
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
    torch.manual_seed(2)
    y = dropout(x, 0.3)
    y.backward(torch.ones_like(y))
    scale = torch.tensor(1 / 0.7).to(dtype)
    assert y.dtype == dtype and y.shape == shape
    assert torch.equal(x.grad, scale * (y != 0)) and torch.equal(y, x * x.grad)


def test_dropout_of_a_view() -> None:
    x = normal(6, 10).T
    y = dropout(x, 0.5)
    assert torch.equal(y, torch.where(y == 0, 0.0, 2 * x)) and (y == 0).any() and (y != 0).any()


@pytest.mark.parametrize("p,training", [(0.0, True), (0.5, False)])
def test_no_dropout(p: float, training: bool) -> None:
    x, state = normal(5, 7), torch.get_rng_state()
    assert torch.equal(dropout(x, p, training), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_odd_rates() -> None:
    assert not dropout(normal(9), 1.0).any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        dropout(normal(9), 1.5)


def test_same_seed_same_mask() -> None:
    x = torch.ones(1001)
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(dropout(x, 0.5))
    first, second, third = masks
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert not torch.equal(dropout(x, 0.5), third)  # it goes on


# Products in training


@pytest.fixture(params=["none", "ieee"])
def setting(request: Any) -> Iterator[Callable[[], str]]:
    """Torch's global setting, whatever somebody has chosen."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, settings.fp32_precision = settings.fp32_precision, request.param
    yield lambda: settings.fp32_precision
    settings.fp32_precision = before


def test_the_global_setting_returns_when_the_last_thread_leaves(setting: Callable) -> None:
    before, inside, outside = setting(), threading.Event(), threading.Event()

    def other() -> None:
        with kernels.one_dnn:
            inside.set()
            outside.wait(10)

    thread = threading.Thread(target=other)
    with kernels.one_dnn:
        thread.start()
        assert inside.wait(10)
    assert setting() == "bf16"
    outside.set()
    thread.join()
    assert setting() == before


def test_the_global_setting_stays(setting: Callable) -> None:
    before = setting()
    with pytest.raises(ZeroDivisionError), kernels.one_dnn:
        assert setting() == "bf16"
        raise ZeroDivisionError
    assert setting() == before


def test_a_pass_has_it_in_all_threads(
    setting: Callable, forced: None, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, so that no product depends on what other threads do. Not the heads."""
    monkeypatch.setattr(kernels, "one_dnn", kernels.OneDnn())
    before, seen = setting(), []
    model = make_model(encoder)
    for layer in model.transformer.encoder.layer:
        layer.register_forward_hook(lambda *args: seen.append(setting()))
        layer.attention.self.query.weight.register_hook(lambda _: seen.append(setting()))
    matrix, backprop = model.begin_update(make_docs())
    assert set(seen) == {"bf16"} and setting() == before
    seen.clear()
    backprop(numpy.ones(matrix.data.shape, dtype="f"))
    assert set(seen) == {"bf16"} and setting() == before


# Linear layers in predictions


def learning(*ids: int, seed: int = 0) -> TrainingKernels:
    return TrainingKernels(numpy.array(ids or [0]), seed)


def layer(seed: int = 1, has_bias: bool = True) -> torch.nn.Linear:
    made = torch.nn.Linear(32, 48, bias=has_bias)
    with torch.no_grad():
        made.weight.copy_(normal(48, 32, seed=seed))
    return made


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(16, 32), (2, 7, 32), (32,), (0, 32), (1, 1, 32)])
def test_packed_linear(shape: tuple[int, ...], has_bias: bool, forced: None) -> None:
    linear, x, modes = layer(has_bias=has_bias), normal(*shape), PredictionKernels()
    strided = normal(*shape, 2)[..., 0]
    with torch.inference_mode():
        expected = linear(x), linear(strided)
        with modes:
            found = linear(x), linear(strided)
            again = linear(x)
    for a, b in zip((*found, again), (*expected, expected[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert list(modes.packed) == ([id(linear.weight)] if x.numel() else [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, HALF])
def test_other_dtypes(dtype: torch.dtype) -> None:
    linear, x = layer().to(dtype), normal(9, 32).to(dtype)
    with torch.inference_mode():
        expected = linear(x)
        with PredictionKernels():
            found = linear(x)
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6)


def test_training_reads_no_packed_weights(forced: None) -> None:
    linear, x, modes = layer(), normal(4, 32), PredictionKernels()
    with torch.inference_mode(), modes:
        linear(x)
    poison = kernels.pack(torch.zeros(48, 32), 4)
    modes.packed[id(linear.weight)] = poison
    expected = linear(x)
    with learning():
        found = linear(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    torch.testing.assert_close(linear.weight.grad, x.sum(0).expand(48, 32), rtol=1e-5, atol=1e-5)
    with torch.inference_mode(), modes:
        assert not (linear(x) - linear.bias).any()  # predictions do read them


def test_no_packed_weights_once_cleared(forced: None) -> None:
    linear, x, modes = layer(), normal(4, 32), PredictionKernels()
    with torch.inference_mode(), modes:
        linear(x)
    with torch.no_grad():
        linear.weight.mul_(3.0)
    modes.packed.clear()
    with torch.inference_mode():
        expected = linear(x)
        with modes:
            torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=1e-5)


def test_another_thread_may_clear_at_any_time(forced: None) -> None:
    class Cleared(dict):
        def __setitem__(self, key: Any, value: Any) -> None:
            """As if it had been cleared right after."""

    linear, x, modes = layer(), normal(4, 32), PredictionKernels()
    modes.packed = Cleared()
    with torch.inference_mode(), modes:
        found = linear(x)
    torch.testing.assert_close(found, linear(x), rtol=1e-5, atol=1e-5)


def test_weights_made_on_the_fly(forced: None) -> None:
    """One weight after the other lies at the same place and has the same id."""
    x, modes = torch.ones(4, 32), PredictionKernels()
    with torch.inference_mode(), modes:
        for i in range(50):
            assert functional.linear(x, torch.full((64, 32), float(i))).eq(32.0 * i).all()
    assert not modes.packed


def test_autocast_stays_in_bfloat16(forced: None) -> None:
    linear, x = layer(), normal(4, 32)
    with torch.autocast("cpu", HALF):
        expected = linear(x)
        with learning():
            found = linear(x)
    assert found.dtype == HALF and torch.equal(found, expected)
    found.float().sum().backward()
    assert linear.weight.grad.dtype == torch.float32


# The mode


def test_layers_go_through_the_kernels() -> None:
    modes, called = learning(), []
    for name, way in list(modes.ways.items()):
        modes.ways[name] = lambda *args, name=name, way=way, **kw: (
            called.append(name) or way(*args, **kw)
        )
    q, _, _ = make_qkv()
    with modes:
        torch.nn.Dropout(0.5)(torch.nn.Linear(8, 8)(q))
        functional.scaled_dot_product_attention(query=q, key=q, value=q)
    names = functional.linear, functional.dropout, functional.scaled_dot_product_attention
    assert called == [*names]
    torch.nn.Linear(8, 8)(q)
    assert len(called) == 3


def test_the_mode_ends_with_an_error() -> None:
    modes = PredictionKernels()
    with pytest.raises(RuntimeError), modes:
        functional.linear(normal(2, 3), normal(2, 4))
    modes.ways.clear()
    assert torch.nn.Linear(3, 2)(normal(4, 3)).shape == (4, 2)


# Which way is the faster one


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_another_build_of_torch(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(kernels, "pack", fail)
    assert kernels.packing_pays.__wrapped__(torch.float32) is False
    if error is AttributeError:
        monkeypatch.setattr(kernels.OneDnn, "__enter__", fail)
        assert kernels.one_dnn_pays.__wrapped__() is False


def test_threads_measure_one_after_the_other() -> None:
    """And once: a thread that computes in another way meanwhile would be measured too."""
    inside, most, calls = 0, 0, []

    @kernels.probe
    def ask(key: str) -> str:
        nonlocal inside, most
        inside, _ = inside + 1, calls.append(key)
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return key

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, "abab" * 4)) == list("abab" * 4)
    assert most == 1 and sorted(calls) == ["a", "b"]


@pytest.mark.parametrize(
    "seconds,factor,margin,expected",
    [
        (1.0, 1.0, 1.0, True),
        (1.0, 1.0, 1.2, True),
        (1.2, 1.0, 1.2, False),
        (2.0, 1.0, 1.0, False),
        (1.0, 1 + 1e-7, 1.0, True),
        (1.0, 1 + 1e-4, 1.0, False),
        (1.0, math.nan, 1.0, False),
    ],
)
def test_faster_and_as_exact(
    seconds: float, factor: float, margin: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(8, 8)

    def ours() -> Any:
        return x * factor

    def theirs() -> Any:
        return x

    monkeypatch.setattr(kernels, "clock", lambda way: seconds if way is ours else 1.4)
    assert kernels.is_better(ours, theirs, margin) is expected


# Encoders


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny encoder without dropout, made once."""
    return str(build_encoder(request.param, tmp_path_factory.mktemp(request.param)))


def make_model(name: str, precision: Any = "float32") -> Any:
    model = build_shared_transformer_v1(name, configure_strided_spans(64, 48), {}, {}, precision)
    model.initialize()
    return model


def make_docs() -> list[Doc]:
    """Some longer and some shorter than what the attention kernel is for."""
    return [NLP(text) for text in [TEXTS[0], " ".join(TEXTS * 4), "", TEXTS[1], "x"]]


def get_gradients(model: Any) -> Iterator[tuple[str, Any]]:
    torch.manual_seed(0)
    matrix, backprop = model.begin_update(make_docs())
    backprop(normal(*matrix.data.shape).numpy())
    for name, parameter in model.transformer.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.clone()
    model.transformer.zero_grad()


def get_modes(model: Any) -> PredictionKernels:
    return model.layers[0].shims[0].for_prediction.kernels


def test_exact_gradients_of_every_family(
    family: str, forced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(get_gradients(make_model(family)))
    monkeypatch.setattr(encoder_model, "TrainingKernels", lambda ids, seed: Kernels({}))
    expected = dict(get_gradients(make_model(family)))
    assert found.keys() == expected.keys() and len(found) > 10
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)


def test_exact_predictions_of_every_family(family: str, forced: None) -> None:
    model, plain = make_model(family), make_model(family)
    get_modes(plain).ways.clear()
    found, expected = (m.predict(make_docs()).data for m in (model, plain))
    numpy.testing.assert_allclose(found, expected, atol=1e-5)
    assert get_modes(model).packed and not get_modes(plain).packed


def test_bfloat16_of_every_family(family: str) -> None:
    exact, half = make_model(family), make_model(family, "bfloat16")
    expected, found = (model.predict(make_docs()).data for model in (exact, half))
    assert found.dtype == "float32"
    assert 0 < numpy.linalg.norm(found - expected) < 0.05 * numpy.linalg.norm(expected)
    if exact.transformer.config.model_type == "deberta":
        with pytest.raises(RuntimeError, match="overflow"):  # transformers' own masks
            half.begin_update(make_docs())
        return
    in_training, _ = half.begin_update(make_docs())
    assert numpy.linalg.norm(in_training.data - expected) < 0.05 * numpy.linalg.norm(expected)
    gradients, exact_gradients = dict(get_gradients(half)), dict(get_gradients(exact))
    assert gradients.keys() == exact_gradients.keys()
    for gradient in gradients.values():
        assert gradient.dtype == torch.float32 and gradient.isfinite().all()
    flat, exact_flat = (
        torch.cat([gradient.flatten() for gradient in found.values()])
        for found in (gradients, exact_gradients)
    )
    assert (flat - exact_flat).norm() < 0.1 * exact_flat.norm()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_with_dropout(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In long and in short sequences the same seed gives the same gradients."""
    model = make_model(str(build_encoder("bert", tmp_path, dropout=0.2)), precision)
    lengths = []

    def watched(query: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(query.shape[-2])
        return attention(query, *args, **kwargs)

    monkeypatch.setattr(kernels, "attention", watched)
    first, second = dict(get_gradients(model)), dict(get_gradients(model))
    assert min(lengths) < SHORT <= max(lengths)
    for name, gradient in first.items():
        assert gradient.isfinite().all() and torch.equal(gradient, second[name])


# Embeddings of a training pass


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_one_gradient_for_the_vocabulary(padding_idx: int | None) -> None:
    """The batches of a pass look rows up in one small table, whose gradient is sparse."""
    ours, plain = (torch.nn.Embedding(500, 6, padding_idx) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    batches = [torch.tensor([[3, 7, 9], [7, 7, 499]]), torch.tensor([[9, 0, 3]])]
    with learning(499, 0, 3, 7, 9, 7) as mode:
        found = [ours(ids) for ids in batches]
    assert [len(table) for table in mode.tables.values()] == [5]
    expected = [plain(ids) for ids in batches]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        weight = normal(*one.shape)
        (one * weight).sum().backward(retain_graph=True)
        (other * weight).sum().backward(retain_graph=True)
    assert ours.weight.grad is not None and ours.weight.grad.is_sparse
    found = ours.weight.grad.to_dense()
    torch.testing.assert_close(found, plain.weight.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["other ids", "small", "max_norm", "scale_grad_by_freq"])
def test_embeddings_that_are_left_to_torch(case: str) -> None:
    """Ids that the pass does not have, such as those of positions, tables not worth it, and what
    no encoder asks for.
    """
    settings: Any = {"max_norm": {"max_norm": 0.1}, "scale_grad_by_freq": {case: True}}
    embedding = torch.nn.Embedding(6 if case == "small" else 500, 4, **settings.get(case, {}))
    ids = torch.tensor([1, 2, 5 if case == "other ids" else 3])
    with learning(1, 2, 3) as mode:
        found = embedding(ids)
    assert not mode.tables
    assert torch.equal(found, embedding.weight[ids])


def test_layers_that_read_the_same_rows_cast_them_once() -> None:
    x = normal(4, 8).requires_grad_()
    layers = [torch.nn.Linear(8, 3) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16), learning() as mode:
        found = [layer(x) for layer in layers]
    assert mode.cast[0] is x and mode.cast[1].dtype == HALF
    sum(y.float().sum() for y in found).backward()  # type: ignore[attr-defined]
    with torch.autocast("cpu", torch.bfloat16):
        expected = [layer(x) for layer in layers]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    exact = sum(layer.weight.sum(0) for layer in layers)
    torch.testing.assert_close(x.grad, exact.expand(4, 8), rtol=0, atol=2**-6)  # type: ignore[attr-defined]


# Activations of predictions


def test_an_activation_is_computed_with_its_layer(forced: None, tmp_path: Path) -> None:
    """Once, also by two threads at a time, which share what is packed."""
    model = make_model(str(build_encoder("bert", tmp_path)))
    expected = model.predict(make_docs()).data
    modes = get_modes(model)
    assert len(modes.before_gelu) == 2 < len(modes.packed)
    del modes.ways[functional.gelu]  # were they not marked, they would be activated twice
    assert numpy.abs(model.predict(make_docs()).data - expected).max() > 1e-3
    modes.ways[functional.gelu] = modes.gelu
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: model.predict(make_docs()).data, range(20)):
            numpy.testing.assert_allclose(found, expected, atol=1e-6)


def test_another_activation_is_left_alone(forced: None, tmp_path: Path) -> None:
    folder = build_encoder("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    model, plain = make_model(str(folder)), make_model(str(folder))
    get_modes(plain).ways.clear()
    found, expected = (m.predict(make_docs()).data for m in (model, plain))
    numpy.testing.assert_allclose(found, expected, atol=1e-5)
    assert get_modes(model).packed and not get_modes(model).before_gelu


# On a GPU


def test_a_mask_is_not_asked_whether_it_masks(family: str) -> None:
    """The answer would have to come back from the GPU. The outputs are the same."""
    module = AutoModel.from_pretrained(family).eval()
    ids = torch.arange(5, 32).view(3, 9)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [7]])).long()
    with torch.inference_mode():
        expected = module(input_ids=ids, attention_mask=mask).last_hidden_state
        with profile(activities=[ProfilerActivity.CPU]) as profiler, gpu_attention():
            known = mask.as_subclass(KnownMask)
            found = module(input_ids=ids, attention_mask=known).last_hidden_state
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not {"aten::all", "aten::is_nonzero"} & {event.name for event in profiler.events()}


def test_without_cudnns_plans() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with gpu_attention():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
