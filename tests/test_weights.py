"""One view of thinc's arrays and torch's tensors."""

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from spacy.language import Language
from thinc.api import Linear, Model, PyTorchWrapper, chain

from spacy_mtl.weights import ModelWeights


def make_model() -> Model[Any, Any]:
    """RETURNS: A torch layer and a thinc layer with gradients."""
    torch.manual_seed(0)
    model: Model[Any, Any] = chain(PyTorchWrapper(torch.nn.Linear(3, 4)), Linear(2, 4))
    model.initialize()
    X = numpy.random.default_rng(0).normal(size=(6, 3)).astype("f")
    Y, backprop = model.begin_update(X)
    backprop(Y - 1)
    model.layers[0].shims[0]._model.bias.grad += 1  # the output layer starts at zero
    return model


def get_tensors(weights: ModelWeights) -> list[torch.Tensor]:
    arrays, tensors = weights.get_gradients()
    return [*map(torch.from_numpy, arrays), *tensors]


def test_names_are_those_of_another_process(make_nlp: Callable[..., Language]) -> None:
    first, second = (ModelWeights.of_pipeline(make_nlp()) for _ in range(2))
    values = first.get_values()
    assert values.keys() == second.get_values().keys()
    assert list(first.get_keys().values()) == list(second.get_keys().values())
    assert not first.get_keys().keys() & second.get_keys().keys()
    named = {name for name in values if not name.endswith((" scale", " growth"))}
    assert named <= set(first.get_keys().values())


def test_values_share_memory_with_the_model() -> None:
    model = make_model()
    values = ModelWeights({"head": model}).get_values()
    assert values["head/2/W"].shape == (2, 4) and values["head/1/0/weight"].shape == (4, 3)
    for value in values.values():
        value.fill_(7)
    assert (model.layers[1].get_param("W") == 7).all()
    assert (model.layers[0].shims[0]._model.bias == 7).all()


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_clipping_takes_arrays_and_tensors_together(limit: float) -> None:
    weights, parameters = ModelWeights({"": make_model()}), []
    for gradient in get_tensors(weights):
        parameters.append(torch.nn.Parameter(torch.zeros_like(gradient)))
        parameters[-1].grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    assert len(parameters) == 4 and weights.get_norm() == pytest.approx(float(norm))
    weights.clip(limit)
    for gradient, parameter in zip(get_tensors(weights), parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_broken_gradient_removes_all(i: int, value: float) -> None:
    weights = ModelWeights({"": make_model()})
    assert not weights.drop_broken_gradients() and weights.get_norm() > 0
    get_tensors(weights)[i][0] = value
    assert weights.drop_broken_gradients()
    assert weights.get_norm() == 0 and weights.get_gradients()[1] == []
