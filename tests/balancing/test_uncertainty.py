"""Weights learned from the losses: their gradient, their fixed point, and in a pipeline."""

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
from spacy_mtl.encoder.training_pass import TaskBatch
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


def test_each_task_has_its_own_weight() -> None:
    balancer = create_uncertainty_weights_v1(learn_rate=0.1)
    train(balancer, 500, tagger=2.0, ner=0.25)
    weights = weigh(balancer, tagger=2.0, ner=0.25)
    assert weights == pytest.approx({"tagger": 0.25, "ner": 2.0}, rel=1e-6)


@pytest.mark.parametrize(
    "losses,bound", [([1.4, 0.3, 1.1, 0.9], math.inf), ([2.5, 0.3, 7.0, 0.9], 1.0)]
)
def test_steps_equal_those_of_torch(losses: list[float], bound: float) -> None:
    """Gradient descent on exp(-s) L + s / 2, here by torch's own differentiation: as it is, and
    with its clipping where losses are large.
    """
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([s], lr=0.05)
    balancer = create_uncertainty_weights_v1(learn_rate=0.05)
    for loss in losses:
        assert weigh(balancer, ner=loss)["ner"] == pytest.approx(math.exp(-s.item()), rel=1e-12)
        balancer.step()
        sgd.zero_grad()
        (torch.exp(-s) * loss + s / 2).backward()
        torch.nn.utils.clip_grad_value_([s], bound)
        sgd.step()
        assert balancer.log_variances["ner"] == pytest.approx(s.item(), rel=1e-12)


@pytest.mark.parametrize(
    "loss,step", [(0.0, 0.0), (0.25, -0.025), (0.5, 0.0), (1.25, 0.075), (1.5, 0.1), (1.75, 0.1)]
)
def test_first_step(loss: float, step: float) -> None:
    """From s = 0 the gradient is 1/2 - L, which is clipped at -1."""
    balancer = create_uncertainty_weights_v1(learn_rate=0.1)
    train(balancer, 1, ner=loss)
    assert balancer.log_variances["ner"] == pytest.approx(step, abs=1e-15)


@pytest.mark.parametrize(
    "create,target", [(create_uncertainty_weights_v1, 0.5), (create_imtl_l_v1, 1.0)]
)
def test_large_losses_do_not_diverge(create: Callable, target: float) -> None:
    """Stock heads report losses in the thousands."""
    balancer = create(learn_rate=0.1)
    weights = []
    for _ in range(400):
        weights.append(weigh(balancer, ner=5000.0)["ner"])
        balancer.step()
    steps = numpy.diff(numpy.log(weights))
    assert (steps >= -0.1 - 1e-9).all() and (steps <= 1e-9).all()
    assert steps[:70] == pytest.approx([-0.1] * 70)
    assert weights[-1] == pytest.approx(target / 5000, rel=1e-6)
    restored = create(learn_rate=0.1)
    restored.load_state_dict(balancer.state_dict())
    assert weigh(restored, ner=5000.0) == weigh(balancer, ner=5000.0)


def test_imtl_l_equals_torchjd() -> None:
    reference = torchjd.scalarization.IMTLL(2)
    sgd = torch.optim.SGD(reference.parameters(), lr=0.05)
    balancer = create_imtl_l_v1(learn_rate=0.05)
    for losses in ([2.5, 0.3], [1.1, 0.2], [0.9, 0.4]):
        values = torch.tensor(losses, requires_grad=True)
        sgd.zero_grad()
        reference(values).backward()
        torch.nn.utils.clip_grad_value_(reference.parameters(), 1.0)
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


@pytest.mark.parametrize("losses", [(1.2, 0.6), (1.0, 1.5), (2.5, 0.1)])
def test_batches_of_one_update_add_up(losses: tuple[float, ...]) -> None:
    """Gradients of accumulated batches are added, and only their sum is clipped."""
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    balancer = create_uncertainty_weights_v1(learn_rate=0.05)
    for loss in losses:
        (torch.exp(-s) * loss + s / 2).backward()
        assert weigh(balancer, ner=loss) == {"ner": 1.0}
    torch.nn.utils.clip_grad_value_([s], 1.0)
    balancer.step()
    assert s.grad is not None
    assert balancer.log_variances["ner"] == pytest.approx(-0.05 * s.grad.item(), rel=1e-12)


def test_a_step_without_batches_changes_nothing() -> None:
    balancer = create_uncertainty_weights_v1()
    train(balancer, 1, ner=2.0)
    before = balancer.state_dict()
    balancer.step()
    assert balancer.state_dict() == before


def test_a_task_without_labels_keeps_its_weight() -> None:
    balancer = create_uncertainty_weights_v1()
    train(balancer, 1, ner=2.0, tagger=1.0)
    expected = balancer.log_variances["ner"]
    train(balancer, 3, tagger=1.0)
    assert balancer.log_variances["ner"] == expected


def test_a_head_that_reports_no_loss_keeps_its_weight() -> None:
    balancer = create_uncertainty_weights_v1()
    train(balancer, 1000, a=0.0, b=0.5)
    assert weigh(balancer, a=0.0) == {"a": 1.0}


@pytest.mark.parametrize("learn_rate", [0, -0.1, float("nan")])
def test_learn_rate_must_be_positive(learn_rate: Any) -> None:
    with pytest.raises(ValueError, match=f"M058.*{learn_rate}"):
        create_uncertainty_weights_v1(learn_rate)


def test_in_a_pipeline(make_nlp: Callable) -> None:
    settings = {"@misc": "spacy-mtl.UncertaintyWeights.v1", "learn_rate": 0.1}
    nlp = make_nlp("tagger", "ner", balancer=settings)
    balancer = nlp.get_pipe("transformer").balancer
    losses: dict[str, float] = {}
    nlp.update(make_examples(nlp), sgd=create_adamw_v1(), losses=losses)
    # From s = 0 the gradient is 1/2 - L, or -1.
    expected = {task: 0.1 * min(losses[task] - 0.5, 1.0) for task in ("tagger", "ner")}
    assert balancer.log_variances == pytest.approx(expected, rel=1e-6)
    assert losses["transformer"] == pytest.approx(losses["tagger"] + losses["ner"], rel=1e-6)
    nlp.get_pipe("transformer").diagnostics.take()
    nlp.update(make_examples(nlp, "ner"), sgd=create_adamw_v1())
    nlp.get_pipe("transformer").flush()
    found = nlp.get_pipe("transformer").diagnostics.take()
    assert list(found) == ["ner"]
    assert found["ner"]["weight"] == pytest.approx(math.exp(-expected["ner"]), rel=1e-6)
    assert balancer.log_variances["tagger"] == pytest.approx(expected["tagger"], rel=1e-6)
