"""What is packed learns and predicts as what is padded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, TEXTS, build_encoder
from spacy.tokens import Doc
from transformers import AutoModel

from spacy_mtl.encoder.model.spans import configure_sentence_spans
from spacy_mtl.encoder.model.transformer import build_shared_transformer_v1
from spacy_mtl.encoder.runtime.choice import CPU
from spacy_mtl.encoder.runtime.cpu import packing
from spacy_mtl.encoder.runtime.cpu import runtime as cpu_runtime
from spacy_mtl.encoder.runtime.cpu.kernels import TrainingKernels
from spacy_mtl.encoder.runtime.cpu.packing import ROWS_STEP, can_pack, pack

NLP = spacy.blank("en")
PACKED = sorted(packing.FAMILIES & FAMILIES.keys())


def make_model(name: str, precision: Any = "float32", **config: Any) -> Any:
    get_spans = configure_sentence_spans(200)
    model = build_shared_transformer_v1(name, get_spans, {}, config, precision)
    model.initialize()
    return model


def make_docs() -> list[Doc]:
    texts = [TEXTS[0], " ".join(TEXTS * 4), "", TEXTS[1], "x", TEXTS[0], " ".join(TEXTS * 5)]
    return [NLP(text) for text in texts]


@contextmanager
def watched(module: Any) -> Iterator[list[tuple[int, ...]]]:
    """YIELDS (List[Tuple[int, ...]]): The shape of each forward pass."""
    shapes: list[tuple[int, ...]] = []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    handle = module.register_forward_pre_hook(watch, with_kwargs=True)
    yield shapes
    handle.remove()


def learn(model: Any) -> tuple[numpy.ndarray, dict[str, torch.Tensor], list[tuple[int, ...]]]:
    """RETURNS (Tuple): The features, the gradient of each weight, and the shape of each pass."""
    with watched(model.transformer) as shapes:
        matrix, backprop = model.begin_update(make_docs())
    backprop(numpy.random.default_rng(0).normal(size=matrix.data.shape).astype("f"))
    named = model.transformer.named_parameters()
    return matrix.data, {n: p.grad.clone() for n, p in named if p.grad is not None}, shapes


def assert_alike(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    """But for rounding: what all tokens add to is much larger than what is left of it."""
    assert found.keys() == exact.keys() and len(exact) > 10
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    for name, gradient in exact.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=4e-6 * largest)


@pytest.fixture
def one_thread() -> Any:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize("family", PACKED)
def test_packed_learns_what_padded_does(
    family: str, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(str(build_encoder(family, tmp_path)))
    assert can_pack(model.transformer)
    found, gradients, shapes = learn(model)
    [(n, length)] = shapes
    assert n == 1 and length % ROWS_STEP == 0 and length > model.max_length / 2
    model.transformer.zero_grad()
    monkeypatch.setattr(cpu_runtime, "can_pack", lambda module: False)
    expected, exact, shapes = learn(model)
    assert len(shapes) > 1
    numpy.testing.assert_allclose(found, expected, atol=2e-5)
    assert_alike(gradients, exact)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("family", PACKED)
def test_packed_predicts_what_padded_does(
    family: str,
    tiles: bool,
    precision: str,
    tmp_path: Path,
    choose_kernels: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose_kernels("tiled_attention" if tiles else "")
    model = make_model(str(build_encoder(family, tmp_path)), precision)
    module = model.shim.get_prediction_module(getattr(torch, precision))
    with watched(module) as shapes:
        found = model.predict(make_docs()).data
    [(n, length)] = shapes
    assert n == 1 and length % ROWS_STEP == 0 and length > model.max_length / 2
    assert not CPU.get_kernels(module).blocks  # each thread has its own
    monkeypatch.setattr(cpu_runtime, "can_pack", lambda module: False)
    with watched(module) as shapes:
        expected = model.predict(make_docs()).data
    assert len(shapes) > 1
    if precision == "float32":
        numpy.testing.assert_allclose(found, expected, atol=2e-5)
    else:
        assert numpy.linalg.norm(found - expected) < 2**-6 * numpy.linalg.norm(expected)


def test_more_wordpieces_than_the_encoder_has_positions(tmp_path: Path, one_thread: None) -> None:
    model = make_model(str(build_encoder("bert", tmp_path)))
    model.attrs["max_batch_items"] = 4096
    docs = [NLP(" ".join(TEXTS * 5)) for _ in range(9)]
    found, _ = model.begin_update(docs)
    numpy.testing.assert_allclose(found.data, model.predict(docs).data, atol=2e-5)
    model.attrs["max_batch_items"] = 200
    found, _ = model.begin_update(docs)
    numpy.testing.assert_allclose(found.data, model.predict(docs).data, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dropout_falls_anywhere(precision: str, tmp_path: Path, one_thread: None) -> None:
    """On average it changes nothing, also in the attention between sequences of a block."""
    model = make_model(str(build_encoder("bert", tmp_path, dropout=0.1)), precision)
    docs = make_docs()
    torch.manual_seed(0)
    passes = [model.begin_update(docs)[0].data for _ in range(200)]
    assert numpy.abs(passes[0] - passes[1]).min(axis=1).all()
    plain = model.predict(docs).data
    assert numpy.abs(numpy.mean(passes, axis=0) - plain).mean() < 0.1 * numpy.abs(plain).mean()


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - packing.FAMILIES))
def test_families_that_are_padded(family: str, tmp_path: Path) -> None:
    assert not can_pack(AutoModel.from_pretrained(build_encoder(family, tmp_path)))


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "eager"},
        {"output_attentions": True, "attn_implementation": "eager"},
        {"position_embedding_type": "relative_key", "attn_implementation": "eager"},
        {"is_decoder": True},
    ],
)
def test_settings_that_are_padded(config: dict[str, Any], tmp_path: Path) -> None:
    assert not can_pack(AutoModel.from_pretrained(build_encoder("bert", tmp_path), **config))


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_gradient_checkpointing(
    is_reentrant: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it computes again is what it has computed, with the same dropout: torch's own, of which
    another thread must take nothing meanwhile.
    """
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    model = make_model(str(build_encoder("bert", tmp_path)), **rates)
    with monkeypatch.context() as plain:
        plain.setattr(cpu_runtime, "can_pack", lambda module: False)
        plain.setattr(TrainingKernels, "replaced", {})
        plain.setattr(cpu_runtime, "WORKERS", 1)
        torch.manual_seed(0)
        _, exact, _ = learn(model)
    model.transformer.zero_grad()
    settings = {"use_reentrant": is_reentrant}
    model.transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    torch.manual_seed(0)
    _, gradients, shapes = learn(model)
    assert not can_pack(model.transformer) and len(shapes) > 1
    assert_alike(gradients, exact)


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_a_padding_token_in_a_text(family: str, tmp_path: Path) -> None:
    """RoBERTa does not count it among the positions."""
    model = make_model(str(build_encoder(family, tmp_path)))
    pad = model.tokenizer.pad_token
    docs = [NLP(f"Maria {pad} flew to {pad} Lisbon"), *make_docs()]
    assert model.tokenizer.pad_token_id in model.tokenizer(docs[0].text)["input_ids"]
    alone = model.predict(docs[:1]).data
    together = model.predict(docs).data[: len(alone)]
    numpy.testing.assert_allclose(together, alone, atol=2e-5)


def test_layout() -> None:
    ids = numpy.array([[2, 7, 3], [2, 8, 3]])
    long = numpy.array([[2, 9, 3, 0, 0], [2, 9, 9, 3, 0]])
    mask = numpy.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    segments = numpy.array([[0, 0, 0, 0, 0], [0, 0, 1, 1, 0]])
    batches = [(ids, numpy.ones_like(ids), numpy.zeros_like(ids)), (long, mask, segments)]
    inputs, blocks = pack(batches, first_position=2)
    assert inputs.keys() == {"input_ids", "token_type_ids", "position_ids"}
    assert all(x.shape == (1, ROWS_STEP) for x in inputs.values())
    assert inputs["input_ids"][0, 3:17].tolist() == [2, 8, 3, *long.ravel(), 2]
    assert inputs["position_ids"][0, :13].tolist() == [2, 3, 4, 2, 3, 4, 2, 3, 4, 5, 6, 2, 3]
    assert inputs["token_type_ids"][0].nonzero().ravel().tolist() == [13, 14]
    assert inputs["input_ids"][0, -1] != 0  # no padding at the end, of which there are warnings
    assert [(block.n, block.length) for block in blocks] == [(2, 3), (2, 5), (ROWS_STEP - 16, 1)]
    assert blocks[0].mask is None and blocks[2].mask is None
    assert blocks[1].mask is not None
    assert (blocks[1].mask[:, 0, 0] == 0).tolist() == [[False, False], [True, False]]  # last keys
