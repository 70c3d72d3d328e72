"""The geometric mean and dual balancing, compared with torch on small models."""

import numpy
import pytest
import torch
import torchjd.scalarization

from spacy_mtl.balancing.base import ScalarBalancer
from spacy_mtl.balancing.magnitude import create_db_mtl_v1, create_geometric_mean_v1
from spacy_mtl.encoder.training_pass import TaskBatch

TASKS = ("ner", "tagger", "textcat")


def make_step(seed: int) -> tuple[torch.Tensor, list[torch.Tensor], TaskBatch]:
    """RETURNS (Tuple): Features, three losses, and the tasks' gradients."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(5, 4, generator=generator, requires_grad=True)
    targets = [torch.randn(5, 4, generator=generator) for _ in TASKS]
    losses = [10**i * (features - target).pow(2).mean() for i, target in enumerate(targets)]
    gradients = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in losses]
    batch = TaskBatch(
        {task: loss.item() for task, loss in zip(TASKS, losses, strict=True)},
        {task: gradient.numpy() for task, gradient in zip(TASKS, gradients, strict=True)},
    )
    return features, losses, batch


def weigh(balancer: ScalarBalancer, losses: list[float]) -> list[float]:
    gradients = {task: numpy.ones((2, 2), dtype="f") for task in TASKS[: len(losses)]}
    return list(
        balancer.weigh(TaskBatch(dict(zip(TASKS, losses, strict=False)), gradients)).values()
    )


@pytest.mark.parametrize("seed", range(3))
def test_geometric_mean_equals_torchjd_times_the_number_of_tasks(seed: int) -> None:
    features, losses, batch = make_step(seed)
    found, _ = create_geometric_mean_v1().combine(batch)
    (3 * torchjd.scalarization.GeometricMean()(torch.stack(losses))).backward()
    assert features.grad is not None
    numpy.testing.assert_allclose(found, features.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_geometric_mean_by_hand() -> None:
    balancer = create_geometric_mean_v1()
    assert weigh(balancer, [1.0, 4.0]) == pytest.approx([2.0, 0.5])
    assert weigh(balancer, [3.0, 3.0, 3.0]) == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize("seed", range(3))
def test_db_mtl_adds_log_gradients_of_equal_norm(seed: int) -> None:
    features, losses, batch = make_step(seed)
    found, weights = create_db_mtl_v1(beta=0.0).combine(batch)
    units = []
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss.log(), features, retain_graph=True)
        units.append(gradient / gradient.norm())
    factor = sum(batch.norms.values()) / 3
    numpy.testing.assert_allclose(found, factor * sum(units).numpy(), rtol=1e-5, atol=1e-6)
    for task in TASKS:
        assert weights[task] * batch.norms[task] == pytest.approx(factor)


def test_db_mtl_averages_the_norms_of_log_gradients() -> None:
    balancer = create_db_mtl_v1(beta=0.75)
    batches = [make_step(seed)[2] for seed in range(3)]
    means: dict[str, float] = {}
    for batch in batches:
        weights = balancer.weigh(batch)
        for task in TASKS:
            norm = batch.norms[task] / batch.losses[task]
            means[task] = 0.75 * means.get(task, norm) + 0.25 * norm
        expected = {task: 1 / (batch.losses[task] * means[task]) for task in TASKS}
        ratio = {task: weights[task] / expected[task] for task in TASKS}
        assert list(ratio.values()) == pytest.approx([ratio["ner"]] * 3)
        total = sum(weights[task] * batch.norms[task] for task in TASKS)
        assert total == pytest.approx(sum(batch.norms.values()))
    assert balancer.state_dict() == {"norms": pytest.approx(means)}


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_beta_out_of_range(beta: float) -> None:
    with pytest.raises(ValueError, match=f"M058.*beta = {beta}.*>= 0 and < 1"):
        create_db_mtl_v1(beta)
