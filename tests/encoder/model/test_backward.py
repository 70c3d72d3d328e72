"""Gradients at each level against plain backwards, one for each task."""

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import TEXTS, encoder_module, make_examples, make_pass

from spacy_mtl.encoder.model.backward import get_weights
from spacy_mtl.encoder.model.transformer import build_shared_transformer_v1
from spacy_mtl.encoder.runtime.cpu.gradients import MEMORY, keep_memory, to_dense
from spacy_mtl.encoder.stock_names import configure_strided_spans

LAYERS = {
    "albert": "albert_layer_groups.0",
    "distilbert": "transformer.layer.1",
    "modernbert": "layers.1",
}
DOCS = [spacy.blank("en")(text) for text in TEXTS]


def begin(name: str) -> tuple[Any, Any]:
    """An encoder that has read the docs, and the pass."""
    model = build_shared_transformer_v1(name, configure_strided_spans(64, 48), {}, {})
    model.initialize()
    _, backprop = model.begin_update(DOCS)
    return model, backprop


def make_gradients(n: int = 3) -> list[numpy.ndarray]:
    n_tokens = sum(map(len, DOCS))
    return [
        numpy.random.default_rng(seed).normal(size=(n_tokens, 32)).astype("f") for seed in range(n)
    ]


def backward(model: Any, gradient: numpy.ndarray) -> dict[str, torch.Tensor]:
    """All weights' gradients, of a pass of its own."""
    model.transformer.zero_grad()
    _, backprop = model.begin_update(DOCS)
    backprop(gradient)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.transformer.named_parameters()
    }


def test_pull_is_the_gradient_of_the_levels_weights(any_encoder: str) -> None:
    model, backprop = begin(any_encoder)
    family = model.transformer.config.model_type
    prefix = LAYERS.get(family, "encoder.layer.1") + "."
    prefix = "encoder." + prefix if family == "albert" else prefix
    for gradient in make_gradients():
        expected = backward(model, gradient)
        last = [g.flatten() for name, g in expected.items() if name.startswith(prefix)]
        every = [g.flatten() for g in expected.values()]
        assert last and any(g.any() for g in last)
        for level, parts in (("last_layer", last), ("params", every)):
            found = backprop.gradient_at(gradient, level)
            torch.testing.assert_close(found, torch.cat(parts), rtol=1e-4, atol=1e-5)
        assert backprop.gradient_at(gradient, "features").tolist() == gradient.ravel().tolist()


def test_gramian_at_each_level_is_autograds(encoder: str) -> None:
    model, backprop = begin(encoder)
    gradients = make_gradients()
    expected = [backward(model, gradient) for gradient in gradients]
    for level, prefix in (("last_layer", "encoder.layer.1."), ("params", "")):
        rows = torch.stack([backprop.gradient_at(gradient, level) for gradient in gradients])
        reference = torch.stack(
            [
                torch.cat([g.flatten() for name, g in found.items() if name.startswith(prefix)])
                for found in expected
            ]
        )
        torch.testing.assert_close(rows @ rows.T, reference @ reference.T, rtol=1e-4, atol=1e-4)


def test_pull_leaves_the_weights_alone_and_the_backward_whole(encoder: str) -> None:
    model, backprop = begin(encoder)
    (gradient,) = make_gradients(1)
    for level in ("features", "last_layer", "params"):
        backprop.gradient_at(gradient, level)
    assert all(p.grad is None for p in model.transformer.parameters())
    assert backprop(gradient) == []
    found = [p.grad for p in model.transformer.parameters() if p.grad is not None]
    expected = backward(model, gradient).values()
    torch.testing.assert_close(
        torch.cat([g.flatten() for g in found]),
        torch.cat([g.flatten() for g in expected if g.any()]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_frozen_weights_are_left_out(encoder: str) -> None:
    model, _ = begin(encoder)
    layer = model.transformer.encoder.layer[1]
    for parameter in layer.attention.parameters():
        parameter.requires_grad = False
    found = get_weights(model.transformer, "last_layer")
    assert sum(p.numel() for p in found) == sum(
        p.numel() for name, p in layer.named_parameters() if not name.startswith("attention.")
    )
    layer.requires_grad_(False)
    with pytest.raises(ValueError, match=r"M025.*BertModel.*'last_layer'"):
        get_weights(model.transformer, "last_layer")
    assert get_weights(model.transformer, "params")


def test_an_encoder_without_layers() -> None:
    module = torch.nn.Linear(3, 2)
    backprop = make_pass(module(torch.ones(4, 3)), module)
    gradient = numpy.ones((4, 2), dtype="f")
    with pytest.raises(ValueError, match=r"M025.*Linear.*'last_layer'"):
        backprop.gradient_at(gradient, "last_layer")
    assert backprop.gradient_at(gradient, "params").tolist() == [4.0] * 8
    module.requires_grad_(False)
    with pytest.raises(ValueError, match=r"M025.*Linear.*'params'"):
        get_weights(module, "params")


def test_a_pipeline_whose_last_layer_is_frozen(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger", "ner", balancer={"@misc": "spacy-mtl.MGDA.v1"})
    nlp.update(make_examples(nlp), sgd=nlp.create_optimizer())  # heads begin with zeros
    encoder_module(nlp).encoder.layer[1].requires_grad_(False)  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match=r"M025.*'last_layer'"):
        nlp.update(make_examples(nlp), sgd=nlp.create_optimizer())
        nlp.get_pipe("transformer").flush()


def test_memory_of_a_gradient_is_used_again_after_an_update() -> None:
    """Not before: who holds a gradient keeps it."""
    embedding = torch.nn.Embedding(100, 4)
    weight, ids = embedding.weight, torch.tensor([3, 7])

    def learn() -> torch.Tensor:
        weight.grad = None
        torch.nn.functional.embedding(ids, weight, sparse=True).sum().backward()
        assert weight.grad is not None and weight.grad.is_sparse
        weight.grad = to_dense(weight.grad, weight)
        return weight.grad

    first, second = learn(), learn()
    assert first.data_ptr() != second.data_ptr()
    keep_memory(embedding)
    ids = torch.tensor([5, 9])
    third = learn()
    assert third.data_ptr() == second.data_ptr()
    assert third.sum(1).nonzero().flatten().tolist() == [5, 9]
    assert first.sum(1).nonzero().flatten().tolist() == [3, 7]
    other = torch.nn.Linear(2, 2)
    other.weight.grad = torch.ones(2, 2)
    keep_memory(other)
    assert other.weight not in MEMORY
