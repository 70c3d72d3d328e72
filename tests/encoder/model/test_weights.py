"""Predictions read the weights of now, in their own precision, and leave them alone."""

import copy
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, TEXTS, build_encoder, encoder_weights, linear_unpacked
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import Adam

from spacy_mtl.encoder.model import weights
from spacy_mtl.encoder.model.transformer import SharedTransformer, build_shared_transformer_v1
from spacy_mtl.encoder.model.weights import PredictionWeights, get_dtype
from spacy_mtl.encoder.runtime.choice import CPU
from spacy_mtl.encoder.runtime.cpu import kernels
from spacy_mtl.encoder.runtime.cpu.capability import get_cpu, use_choice
from spacy_mtl.encoder.stock_names import configure_strided_spans
from spacy_mtl.training.adamw import create_adamw_v1

NLP = spacy.blank("en")
PRECISIONS = ["float32", "bfloat16"]
HALF = torch.bfloat16


@pytest.fixture(autouse=True)
def packed(choose_kernels: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed copies are made on any machine: a stale one would be seen."""
    choose_kernels("packed_float32", "packed_bfloat16")
    monkeypatch.setattr(kernels, "pack", lambda weight, n_rows: weight.detach().clone())
    monkeypatch.setattr(kernels, "linear_packed", linear_unpacked)


def make_model(name: str, precision: Any) -> SharedTransformer:
    model: Any = build_shared_transformer_v1(
        name, configure_strided_spans(64, 48), {}, {}, precision
    )
    model.initialize()
    return model


def make_docs() -> list[Doc]:
    return [NLP(text) for text in [TEXTS[0], " ".join(TEXTS * 4), "", TEXTS[1]]]


def get_shim(model: SharedTransformer) -> Any:
    return model.layers[0].shims[0]


def scale(model: SharedTransformer, factor: float) -> dict[str, Any]:
    """RETURNS (Dict[str, torch.Tensor]): Other weights than the model has."""
    return {name: factor * tensor for name, tensor in model.transformer.state_dict().items()}


# Predictions follow the weights

Change = Callable[[SharedTransformer], Any]  # a context manager


def is_context(change: Callable[[SharedTransformer], None]) -> Change:
    @contextmanager
    def changed(model: SharedTransformer) -> Iterator[None]:
        change(model)
        yield

    return changed


def learn(model: SharedTransformer, optimizer: Any) -> None:
    matrix, backprop = model.begin_update(make_docs())
    backprop(numpy.sign(matrix.data))
    model.finish_update(optimizer)


def load_bytes(model: SharedTransformer) -> None:
    other = model.copy()
    other.transformer.load_state_dict(scale(model, 1.25))
    model.from_bytes(other.to_bytes())


def multiply(model: SharedTransformer) -> None:
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.mul_(1.25)


def replace_data(model: SharedTransformer) -> None:
    for parameter in model.transformer.parameters():
        parameter.data = 1.25 * parameter.data


def replace_parameters(model: SharedTransformer) -> None:
    layer = model.transformer.encoder.layer[-1].output.dense
    layer.weight = torch.nn.Parameter(10.0 - layer.weight.detach())


@contextmanager
def use_params(model: SharedTransformer) -> Iterator[None]:
    prefix = f"pytorch_{get_shim(model).id}_"
    params: Any = {prefix + name: tensor.numpy() for name, tensor in scale(model, 1.25).items()}
    with model.use_params(params):
        yield


CHANGES: dict[str, Change] = {
    "torch's fused AdamW": is_context(lambda m: learn(m, create_adamw_v1(encoder_learn_rate=0.1))),
    "thinc's Adam": is_context(lambda m: learn(m, Adam(0.1))),
    "load_state_dict": is_context(lambda m: m.transformer.load_state_dict(scale(m, 1.25))),
    "from_bytes": is_context(load_bytes),
    "in place": is_context(multiply),
    "other data": is_context(replace_data),
    "another parameter": is_context(replace_parameters),
    "use_params": use_params,
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_predictions_follow_the_weights(encoder: str, change: str, precision: str) -> None:
    model, docs = make_model(encoder, precision), make_docs()
    for _ in range(2):
        before = model.predict(docs).data
        numpy.testing.assert_array_equal(model.predict(docs).data, before)
        with CHANGES[change](model):
            found = model.predict(docs).data
            numpy.testing.assert_array_equal(found, model.copy().predict(docs).data)
            assert numpy.abs(found - before).max() > 1e-3
        after = model.predict(docs).data
        numpy.testing.assert_array_equal(after, before if change == "use_params" else found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_predictions_follow_the_averages_of_a_pipeline(make_nlp: Callable, precision: str) -> None:
    nlp: Language = make_nlp("tagger", model={"precision": precision})
    pipe: Any = nlp.get_pipe("transformer")
    docs = make_docs()
    before = pipe.predict(docs).data
    weights: Any = scale(pipe.model, 1.25)
    prefix = f"pytorch_{get_shim(pipe.model).id}_"
    with nlp.use_params({prefix + name: tensor.numpy() for name, tensor in weights.items()}):
        found = pipe.predict(docs).data
        numpy.testing.assert_array_equal(found, pipe.model.copy().predict(docs).data)
    assert numpy.abs(found - before).max() > 1e-3
    numpy.testing.assert_array_equal(pipe.predict(docs).data, before)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_predictions_follow_a_switch_of_precision(encoder: str, precision: str) -> None:
    model, other = (make_model(encoder, p) for p in (precision, "float32"))
    model.predict(make_docs())
    model.attrs["precision"] = "float32"
    expected = other.predict(make_docs()).data
    numpy.testing.assert_array_equal(model.predict(make_docs()).data, expected)


def test_new_weights_at_an_old_address() -> None:
    """Memory that is given back is soon another's."""
    for i in range(40):
        layer, weights = torch.nn.Linear(64, 64), PredictionWeights()
        weights.get(layer, HALF)
        for _ in range(2):
            layer.weight.data = layer.weight.data + i
        found = weights.get(layer, HALF).weight
        assert torch.equal(found, layer.weight.to(HALF))
        layer = torch.nn.Linear(64, 64)
        assert torch.equal(weights.get(layer, HALF).weight, layer.weight.to(HALF))


# What they leave alone


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_predictions_leave_the_weights_as_they_are(family: str, tmp_path: Path) -> None:
    model = make_model(str(build_encoder(family, tmp_path)), "bfloat16")
    named = dict(model.transformer.named_parameters())
    before = {name: p.detach().numpy().tobytes() for name, p in named.items()}
    model.predict(make_docs())
    assert dict(model.transformer.named_parameters()) == named  # the same objects
    for name, parameter in named.items():
        assert parameter.dtype == torch.float32 and parameter.requires_grad
        assert parameter.detach().numpy().tobytes() == before[name] and parameter.grad is None
    assert get_shim(model)._model is model.transformer


def test_bfloat16_is_neither_saved_nor_loaded(make_nlp: Callable, tmp_path: Path) -> None:
    nlp = make_nlp("tagger", model={"precision": "bfloat16"})
    before = encoder_weights(nlp)
    nlp(TEXTS[0])
    nlp.to_disk(tmp_path)
    assert encoder_weights(spacy.load(tmp_path)) == before == encoder_weights(nlp)


def test_float32_copies_no_weights(encoder: str) -> None:
    """The module of predictions is another one, since training switches dropout on in its own."""
    model = make_model(encoder, "float32")
    module = get_shim(model).for_prediction.get(model.transformer, torch.float32)
    model.transformer.train()
    assert module is not model.transformer and not module.training
    for a, b in zip(module.parameters(), model.transformer.parameters(), strict=True):
        assert a is b


def test_one_copy_while_the_weights_stay(encoder: str) -> None:
    model = make_model(encoder, "bfloat16")
    weights = get_shim(model).for_prediction
    model.predict(make_docs())
    half = weights.get(model.transformer, HALF)
    packed = dict(CPU.get_kernels(half).packed)
    assert half is not model.transformer and not half.training
    assert {p.dtype for p in half.parameters()} == {HALF} and packed
    assert not any(p.requires_grad for p in half.parameters())
    model.predict(make_docs())
    assert weights.get(model.transformer, HALF) is half
    assert {key: id(value) for key, value in CPU.get_kernels(half).packed.items()} == {
        key: id(value) for key, value in packed.items()
    }
    kernels, old = weakref.ref(CPU.get_kernels(half)), weakref.ref(half)
    del half, packed
    weights.forget()
    assert kernels() is None and old() is None  # both are freed without the garbage collector


def test_copies_keep_ties_and_buffers() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.register_buffer("places", torch.arange(3) / 3)

    half = PredictionWeights().get(Tied(), HALF)
    assert half.second.weight is half.first.weight and half.first.weight.dtype == HALF
    assert torch.equal(half.places, torch.arange(3) / 3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_after_predictions(encoder: str, precision: str) -> None:
    """It starts from the float32 weights, in training mode, which predictions leave alone."""
    fresh, used = make_model(encoder, precision), make_model(encoder, precision)
    used.predict(make_docs())
    for model in (fresh, used):
        learn(model, create_adamw_v1())
        assert model.transformer.training
    for a, b in zip(fresh.transformer.parameters(), used.transformer.parameters(), strict=True):
        assert torch.equal(a, b)
    used.predict(make_docs())
    numpy.testing.assert_array_equal(
        used.predict(make_docs()).data, fresh.predict(make_docs()).data
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles_after_predictions(
    encoder: str, precision: str, clone: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed weights, whose layout is torch's own, can be neither copied nor pickled."""
    monkeypatch.undo()
    use_choice(None)
    model = make_model(encoder, precision)
    expected = model.predict(make_docs()).data
    module = model.shim.get_prediction_module(torch.float32)
    CPU.get_kernels(module).packed[0] = Unpicklable()
    cloned = clone(model)
    numpy.testing.assert_allclose(cloned.predict(make_docs()).data, expected, atol=1e-5)
    multiply(cloned)
    numpy.testing.assert_array_equal(model.predict(make_docs()).data, expected)


class Unpicklable:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NotImplementedError


# Threads


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_threads_predict_as_one(encoder: str, precision: str, eager_switches: None) -> None:
    model, docs = make_model(encoder, precision), make_docs()
    expected = model.predict(docs).data
    for _ in range(5):
        get_shim(model).for_prediction = PredictionWeights()
        start, found = threading.Barrier(2), []

        def predict(start: Any, found: list[Any]) -> None:
            start.wait()
            for _ in range(3):
                found.append(model.predict(docs).data)

        threads = [threading.Thread(target=predict, args=(start, found)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6  # none has failed
        for data in found:
            numpy.testing.assert_array_equal(data, expected)


# Which arithmetic


@pytest.mark.parametrize("native", [True, False])
def test_dtypes(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "get_cpu", lambda: replace(get_cpu(), has_bfloat16=native))
    cpu = torch.device("cpu")
    assert get_dtype("auto", cpu) == (HALF if native else torch.float32)
    assert [get_dtype(p, cpu) for p in ("float32", "bfloat16")] == [torch.float32, HALF]
    with pytest.raises(ValueError, match=r"M005.*float16"):
        get_dtype("float16", cpu)  # type: ignore[arg-type]
