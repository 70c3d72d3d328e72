"""Weights learnt from the losses: their gradient, their fixed point, and in a pipeline."""

import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torchjd.scalarization
from conftest import make_examples

from spacy_mtl.balancing.uncertainty import (
    UncertaintyWeights,
    create_imtl_l_v1,
    create_uncertainty_weights_v1,
)
from spacy_mtl.encoder.hub import TaskBatch
from spacy_mtl.training.adamw import create_adamw_v1


def weigh(balancer: UncertaintyWeights, **losses: float) -> dict[str, float]:
    gradients = {task: numpy.ones((2, 2), dtype="f") for task in losses}
    return balancer.combine(TaskBatch(losses, gradients))[1]


def train(balancer: UncertaintyWeights, n: int, **losses: float) -> None:
    for _ in range(n):
        weigh(balancer, **losses)
        balancer.step()


def test_all_weights_begin_at_one() -> None:
    balancer = create_uncertainty_weights_v1()
    assert weigh(balancer, tagger=3.0, ner=0.1) == {"tagger": 1.0, "ner": 1.0}


@pytest.mark.parametrize("loss", [0.01, 0.5, 1.0, 7.0, 120.0])
def test_fixed_point_is_one_over_twice_the_loss(loss: float) -> None:
    balancer = create_uncertainty_weights_v1(learn_rate=0.02)
    train(balancer, 2000, ner=loss)
    assert weigh(balancer, ner=loss)["ner"] == pytest.approx(1 / (2 * loss), rel=1e-6)


def test_each_task_has_its_own() -> None:
    balancer = create_uncertainty_weights_v1(learn_rate=0.1)
    train(balancer, 500, tagger=2.0, ner=0.25)
    weights = weigh(balancer, tagger=2.0, ner=0.25)
    assert weights == pytest.approx({"tagger": 0.25, "ner": 2.0}, rel=1e-6)


def test_steps_are_those_of_torch() -> None:
    """Gradient descent on exp(-s) L + s / 2, here by torch's own differentiation."""
    losses = [2.5, 0.3, 1.1, 0.9]
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([s], lr=0.05)
    balancer = create_uncertainty_weights_v1(learn_rate=0.05)
    for loss in losses:
        assert weigh(balancer, ner=loss)["ner"] == pytest.approx(math.exp(-s.item()), rel=1e-12)
        balancer.step()
        sgd.zero_grad()
        (torch.exp(-s) * loss + s / 2).backward()
        sgd.step()
        assert balancer.log_variances["ner"] == pytest.approx(s.item(), rel=1e-12)


def test_imtl_l_is_torchjds() -> None:
    reference = torchjd.scalarization.IMTLL(2)
    sgd = torch.optim.SGD(reference.parameters(), lr=0.05)
    balancer = create_imtl_l_v1(learn_rate=0.05)
    for losses in ([2.5, 0.3], [1.1, 0.2], [0.9, 0.4]):
        values = torch.tensor(losses, requires_grad=True)
        sgd.zero_grad()
        reference(values).backward()
        assert values.grad is not None
        found = weigh(balancer, tagger=losses[0], ner=losses[1])
        assert list(found.values()) == pytest.approx(values.grad.tolist(), rel=1e-6)
        sgd.step()
        balancer.step()


def test_imtl_l_brings_losses_to_one() -> None:
    balancer = create_imtl_l_v1(learn_rate=0.1)
    train(balancer, 500, tagger=2.0, ner=0.25)
    weights = weigh(balancer, tagger=2.0, ner=0.25)
    assert weights == pytest.approx({"tagger": 0.5, "ner": 4.0}, rel=1e-6)


def test_batches_of_one_update_add_up() -> None:
    """As the gradients of accumulated batches do."""
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for loss in (2.5, 0.3):
        (torch.exp(-s) * loss + s / 2).backward()
    balancer = create_uncertainty_weights_v1(learn_rate=0.05)
    for loss in (2.5, 0.3):
        assert weigh(balancer, ner=loss) == {"ner": 1.0}
    balancer.step()
    assert s.grad is not None
    assert balancer.log_variances["ner"] == pytest.approx(-0.05 * s.grad.item(), rel=1e-12)


def test_a_step_without_batches_changes_nothing() -> None:
    balancer = create_uncertainty_weights_v1()
    train(balancer, 1, ner=2.0)
    before = balancer.to_dict()
    balancer.step()
    assert balancer.to_dict() == before


def test_a_silent_task_keeps_its_weight() -> None:
    balancer = create_uncertainty_weights_v1()
    train(balancer, 1, ner=2.0, tagger=1.0)
    expected = balancer.log_variances["ner"]
    train(balancer, 3, tagger=1.0)
    assert balancer.log_variances["ner"] == expected


@pytest.mark.parametrize("learn_rate", [0, -0.1, float("nan")])
def test_learn_rate_must_be_positive(learn_rate: Any) -> None:
    with pytest.raises(ValueError, match=f"M022.*{learn_rate}"):
        create_uncertainty_weights_v1(learn_rate)


def test_in_a_pipeline(make_nlp: Callable) -> None:
    settings = {"@misc": "spacy-mtl.UncertaintyWeights.v1", "learn_rate": 0.1}
    nlp = make_nlp("tagger", "ner", balancer=settings)
    balancer = nlp.get_pipe("transformer").balancer
    losses: dict[str, float] = {}
    nlp.update(make_examples(nlp), sgd=create_adamw_v1(), losses=losses)
    # From s = 0 the gradient is 1/2 - L.
    expected = {task: 0.1 * (losses[task] - 0.5) for task in ("tagger", "ner")}
    assert balancer.log_variances == pytest.approx(expected, rel=1e-6)
    assert losses["transformer"] == pytest.approx(losses["tagger"] + losses["ner"], rel=1e-6)
    nlp.get_pipe("transformer").diagnostics.take()
    nlp.update(make_examples(nlp, "ner"), sgd=create_adamw_v1())
    nlp.get_pipe("transformer").flush()
    found = nlp.get_pipe("transformer").diagnostics.take()
    assert list(found) == ["ner"]
    assert found["ner"]["weight"] == pytest.approx(math.exp(-expected["ner"]), rel=1e-6)
    assert balancer.log_variances["tagger"] == pytest.approx(expected["tagger"], rel=1e-6)
