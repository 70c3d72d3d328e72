"""Softmax weights, compared with TorchJD's scalarizers and torch's differentiation."""

import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torchjd.scalarization
from conftest import make_examples

from spacy_mtl.balancing.base import ScalarBalancer
from spacy_mtl.balancing.shares import (
    create_dynamic_weight_average_v1,
    create_famo_v1,
    create_gradnorm_v1,
    create_random_weights_v1,
)
from spacy_mtl.encoder.training_pass import TaskBatch
from spacy_mtl.training.adamw import create_adamw_v1

TASKS = ("ner", "tagger", "textcat")
RNG = numpy.random.default_rng(0)
LOSSES = RNG.uniform(0.2, 3, size=(12, 3)).tolist()
NORMS = RNG.uniform(0.01, 5, size=(12, 3)).tolist()


def weigh(
    balancer: ScalarBalancer,
    losses: list[float],
    norms: list[float] | None = None,
    tasks: tuple[str, ...] = TASKS,
) -> list[float]:
    gradients = {}
    for task, norm in zip(tasks, norms or [1.0] * len(tasks), strict=True):
        gradients[task] = numpy.full((2, 2), norm / 2, dtype="f")
    weights = balancer.weigh(TaskBatch(dict(zip(tasks, losses, strict=True)), gradients))
    return [weights[task] for task in tasks]


def gradient_at(losses: list[float], scalarizer: Callable) -> torch.Tensor:
    """RETURNS: The gradient of a scalarizer with respect to each loss."""
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(scalarizer(values), values)[0]


# Random


def test_random_weights_have_a_mean_of_one_and_differ() -> None:
    balancer = create_random_weights_v1()
    found = [weigh(balancer, LOSSES[0]) for _ in range(2000)]
    assert numpy.sum(found, axis=1) == pytest.approx(numpy.full(2000, 3.0))
    assert numpy.mean(found, axis=0) == pytest.approx([1.0, 1.0, 1.0], abs=0.05)
    assert len({tuple(weights) for weights in found}) == 2000


def test_random_weights_have_the_spread_of_torchjd() -> None:
    balancer, random = create_random_weights_v1(), torchjd.scalarization.Random()
    torch.manual_seed(0)
    found = [weigh(balancer, LOSSES[0])[0] for _ in range(3000)]
    expected = [3 * gradient_at(LOSSES[0], random)[0].item() for _ in range(3000)]
    deciles = numpy.linspace(0.1, 0.9, 9)
    assert numpy.quantile(found, deciles) == pytest.approx(
        numpy.quantile(expected, deciles), abs=0.07
    )


def test_random_weights_depend_on_the_seed() -> None:
    first, same, other = (create_random_weights_v1(seed) for seed in (1, 1, 2))
    for _ in range(3):
        assert weigh(first, LOSSES[0]) == weigh(same, LOSSES[0]) != weigh(other, LOSSES[0])


# Dynamic weight average


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_dynamic_weight_average_equals_torchjd(temperature: float) -> None:
    balancer = create_dynamic_weight_average_v1(window=3, temperature=temperature)
    reference = torchjd.scalarization.DWA(temperature)
    for step, losses in enumerate(LOSSES, 1):
        found = weigh(balancer, losses)
        assert found == pytest.approx(gradient_at(losses, reference).tolist(), rel=1e-9)
        assert (found == [1.0, 1.0, 1.0]) == (step <= 6)
        balancer.step()
        if step % 3 == 0:
            reference.step()


def test_dynamic_weight_average_by_hand() -> None:
    balancer = create_dynamic_weight_average_v1(window=1, temperature=2.0)
    for losses in ([2.0, 4.0], [1.0, 4.0]):
        assert weigh(balancer, losses, tasks=("ner", "tagger")) == [1.0, 1.0]
        balancer.step()
    a, b = math.exp(0.5 / 2), math.exp(1.0 / 2)
    found = weigh(balancer, [9.0, 9.0], tasks=("ner", "tagger"))
    assert found == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])
    # Only the tasks of the batch share the weights.
    assert weigh(balancer, [9.0], tasks=("ner",)) == [1.0]


def test_dynamic_weight_average_of_a_task_that_comes_later() -> None:
    """It is treated like a task with a constant loss."""
    balancer = create_dynamic_weight_average_v1(window=1)
    for losses in ([2.0], [2.0]):
        weigh(balancer, losses, tasks=("ner",))
        balancer.step()
    assert weigh(balancer, [2.0, 7.0], tasks=("ner", "tagger")) == [1.0, 1.0]


# GradNorm


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_is_gradient_descent_on_its_loss(alpha: float) -> None:
    balancer = create_gradnorm_v1(learn_rate=0.1, alpha=alpha)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    first = torch.tensor(LOSSES[0], dtype=torch.float64)
    for losses, norms in zip(LOSSES, NORMS, strict=True):
        weights = 3 * torch.softmax(logits, 0)
        assert weigh(balancer, losses, norms) == pytest.approx(weights.tolist(), rel=1e-6)
        scaled = weights * torch.tensor(norms, dtype=torch.float64)
        rates = torch.tensor(losses, dtype=torch.float64) / first
        mean = scaled.mean().detach()
        target = mean * (rates / rates.mean()) ** alpha
        (gradient,) = torch.autograd.grad((scaled - target).abs().sum() / mean, logits)
        logits = (logits - 0.1 * gradient).detach().requires_grad_()
        balancer.step()


def test_gradnorm_makes_norms_equal() -> None:
    balancer = create_gradnorm_v1(learn_rate=0.002, alpha=0.0)
    norms = [0.5, 1.0, 4.0]
    for _ in range(3000):
        weights = weigh(balancer, LOSSES[0], norms)
        balancer.step()
    scaled = numpy.array(weights) * norms
    assert scaled == pytest.approx(numpy.full(3, scaled.mean()), rel=0.02)


def test_gradnorm_favours_slow_tasks() -> None:
    balancer = create_gradnorm_v1(learn_rate=0.002)
    for step in range(3000):
        losses = [1.0, 1.0, 1.0] if step == 0 else [0.5, 0.5, 1.0]
        weights = weigh(balancer, losses, [1.0, 1.0, 1.0])
        balancer.step()
    assert weights[0] == pytest.approx(weights[1])
    assert 2 < weights[2] / weights[0] < 2**1.5


# FAMO


def test_famo_begins_with_torchjds_weights() -> None:
    balancer = create_famo_v1()
    for losses in LOSSES[:3]:
        expected = 3 * gradient_at(losses, torchjd.scalarization.FAMO(3))
        assert weigh(balancer, losses) == pytest.approx(expected.tolist(), rel=1e-6)


def test_famo_is_gradient_descent_on_the_falls_of_the_losses() -> None:
    balancer = create_famo_v1(learn_rate=0.5, decay=0.01)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    before = None
    for values in LOSSES:
        losses = torch.tensor(values, dtype=torch.float64)
        shares = torch.softmax(logits, 0)
        expected = 3 * shares / losses / (shares / losses).sum()
        assert weigh(balancer, values) == pytest.approx(expected.tolist(), rel=1e-6)
        if before is not None:
            fall = before.log() - losses.log()
            (gradient,) = torch.autograd.grad(shares, logits, fall)
            logits = (logits - 0.5 * (gradient + 0.01 * logits)).detach().requires_grad_()
        before = losses
        balancer.step()


def test_famo_favours_the_loss_that_falls_less() -> None:
    balancer = create_famo_v1()
    for step in range(20):
        weigh(balancer, [0.8**step, 0.95**step], tasks=("ner", "tagger"))
        balancer.step()
    equal = weigh(balancer, [1.0, 1.0], tasks=("ner", "tagger"))
    assert equal[0] < 0.5 and equal[1] > 1.5


# All


@pytest.mark.parametrize(
    ("create", "settings", "name"),
    [
        (create_dynamic_weight_average_v1, {"window": 0}, "window = 0.*>= 1"),
        (create_dynamic_weight_average_v1, {"temperature": 0.0}, "temperature = 0.0.*>= 0.001"),
        (create_gradnorm_v1, {"learn_rate": -1.0}, r"learn_rate = -1\.0.*> 0"),
        (create_famo_v1, {"learn_rate": float("nan")}, "learn_rate = nan"),
        (create_famo_v1, {"decay": -0.1}, r"decay = -0\.1.*>= 0"),
    ],
)
def test_settings_out_of_range(create: Callable, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"M058.*{name}"):
        create(**settings)


@pytest.mark.parametrize("name", ["GradNorm", "FAMO"])
def test_in_a_pipeline(make_nlp: Callable, name: str) -> None:
    nlp = make_nlp("tagger", "ner", balancer={"@misc": f"spacy-mtl.{name}.v1"})
    sgd = create_adamw_v1(learn_rate=0.01)
    for _ in range(5):
        nlp.update(make_examples(nlp), sgd=sgd)
    encoder = nlp.get_pipe("transformer")
    encoder.flush()
    assert sum(encoder.balancer.logits.values()) == pytest.approx(0.0, abs=1e-3)
    assert encoder.balancer.logits["tagger"] != 0
    means = encoder.diagnostics.take()
    assert means["tagger"]["weight"] + means["ner"]["weight"] == pytest.approx(2.0)
