"""What the kernels compute is what torch computes."""

import gc
import json
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, TEXTS, build_encoder, normal
from spacy.tokens import Doc
from torch.nn import functional

from spacy_mtl.encoder.model.transformer import build_shared_transformer_v1
from spacy_mtl.encoder.runtime.choice import CPU
from spacy_mtl.encoder.runtime.cpu import kernels
from spacy_mtl.encoder.runtime.cpu import runtime as cpu_runtime
from spacy_mtl.encoder.runtime.cpu.capability import get_cpu
from spacy_mtl.encoder.runtime.cpu.kernels import (
    PredictionKernels,
    TrainingKernels,
)
from spacy_mtl.encoder.stock_names import configure_strided_spans

NLP = spacy.blank("en")
HALF = torch.bfloat16


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
    linear, x = layer(has_bias=has_bias), normal(*shape)
    modes = PredictionKernels(linear)
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
        with PredictionKernels(torch.nn.Module()):
            found = linear(x)
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6)


def test_training_reads_no_packed_weights(forced: None) -> None:
    linear, x, modes = layer(), normal(4, 32), PredictionKernels(torch.nn.Module())
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
    linear, x, modes = layer(), normal(4, 32), PredictionKernels(torch.nn.Module())
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

    linear, x, modes = layer(), normal(4, 32), PredictionKernels(torch.nn.Module())
    modes.packed = Cleared()
    with torch.inference_mode(), modes:
        found = linear(x)
    torch.testing.assert_close(found, linear(x), rtol=1e-5, atol=1e-5)


def test_weights_made_on_the_fly(forced: None) -> None:
    """One weight after the other lies at the same place and has the same id."""
    x, modes = torch.ones(4, 32), PredictionKernels(torch.nn.Module())
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


def test_layers_go_through_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    modes, called = learning(), []
    for function, name in modes.replaced.items():
        way = partial(
            lambda function, way, *args, **kw: called.append(function) or way(*args, **kw),
            function,
            getattr(modes, name),
        )
        monkeypatch.setattr(modes, name, way)
    q = normal(3, 4, 64, 8)
    with modes:
        torch.nn.Dropout(0.5)(torch.nn.Linear(8, 8)(q))
        functional.scaled_dot_product_attention(query=q, key=q, value=q)
    names = functional.linear, functional.dropout, functional.scaled_dot_product_attention
    assert called == [*names]
    torch.nn.Linear(8, 8)(q)
    assert len(called) == 3


def test_the_mode_ends_with_an_error() -> None:
    modes = PredictionKernels(torch.nn.Module())
    with pytest.raises(RuntimeError), modes:
        functional.linear(normal(2, 3), normal(2, 4))
    modes.replaced = {}
    assert torch.nn.Linear(3, 2)(normal(4, 3)).shape == (4, 2)


# Encoders


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny encoder without dropout, made once."""
    return str(build_encoder(request.param, tmp_path_factory.mktemp(request.param)))


def make_model(name: str, precision: Any = "float32", **options: Any) -> Any:
    get_spans = configure_strided_spans(64, 48)
    model = build_shared_transformer_v1(name, get_spans, {}, {}, precision, **options)
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
    return CPU.get_kernels(model.shim.get_prediction_module(torch.float32))


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


@pytest.mark.skipif(not get_cpu().has_precision, reason="torch lacks the setting")
def test_a_pass_has_it_in_all_threads(choose_kernels: Callable, encoder: str) -> None:
    """Forward and backward, so that no product depends on what other threads do. Not the heads."""
    choose_kernels("onednn_products")
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


def test_cast_weights_are_freed_at_once() -> None:
    modes, linear = learning(), layer()
    with torch.autocast("cpu", HALF), modes:
        linear(normal(4, 32))
    held = weakref.ref(modes.weights[id(linear.weight)])
    gc.disable()
    try:
        del modes
        assert held() is None
    finally:
        gc.enable()


def test_exact_gradients_of_every_family(family: str, forced: None) -> None:
    found = dict(get_gradients(make_model(family)))
    expected = dict(get_gradients(make_model(family, runtime="eager")))
    assert found.keys() == expected.keys() and len(found) > 10
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)


def test_exact_predictions_of_every_family(family: str, forced: None) -> None:
    model, plain = make_model(family), make_model(family, runtime="eager")
    found = model.predict(make_docs()).data
    expected = plain.predict(make_docs()).data
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
def test_training_with_dropout(precision: str, tmp_path: Path) -> None:
    """The same seed gives the same gradients."""
    model = make_model(str(build_encoder("bert", tmp_path, dropout=0.2)), precision)
    first, second = dict(get_gradients(model)), dict(get_gradients(model))
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
    assert mode.last_cast[0] is x and mode.last_cast[1].dtype == HALF
    sum(y.float().sum() for y in found).backward()  # type: ignore[attr-defined]
    with torch.autocast("cpu", torch.bfloat16):
        expected = [layer(x) for layer in layers]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    exact = sum(layer.weight.sum(0) for layer in layers)
    torch.testing.assert_close(x.grad, exact.expand(4, 8), rtol=0, atol=2**-6)  # type: ignore[attr-defined]


def test_a_table_with_fewer_rows_than_the_vocabulary() -> None:
    """That of positions, all of which happen to be vocabulary ids of the pass."""
    table = torch.nn.Parameter(torch.randn(512, 4))
    kernels_of_pass = TrainingKernels([1, 2, 600], 0)
    found = kernels_of_pass.embedding(torch.tensor([1, 2]), table)
    assert torch.equal(found, table[1:3]) and not kernels_of_pass.tables


# Activations of predictions


def test_an_activation_is_computed_with_its_layer(forced: None, tmp_path: Path) -> None:
    """Once, also by two threads at a time, which share what is packed."""
    model = make_model(str(build_encoder("bert", tmp_path)))
    expected = model.predict(make_docs()).data
    modes = get_modes(model)
    assert len(modes.before_gelu) == 2 < len(modes.packed)
    # Were they not marked, they would be activated twice.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "gelu", functional.gelu)
        assert numpy.abs(model.predict(make_docs()).data - expected).max() > 1e-3
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: model.predict(make_docs()).data, range(20)):
            numpy.testing.assert_allclose(found, expected, atol=1e-6)


def test_another_activation_is_left_alone(
    forced: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_encoder("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    model, plain = make_model(str(folder)), make_model(str(folder))
    found = model.predict(make_docs()).data
    get_modes(plain).replaced = {}
    monkeypatch.setattr(cpu_runtime, "can_pack", lambda module: False)
    expected = plain.predict(make_docs()).data
    numpy.testing.assert_allclose(found, expected, atol=1e-5)
    assert get_modes(model).packed and not get_modes(model).before_gelu
