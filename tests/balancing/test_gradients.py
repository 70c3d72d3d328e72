"""Gradient methods, compared with TorchJD on a small model and with results by hand."""

import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy
import pytest
import spacy
import torch
import torchjd._mixins
from conftest import encoder_gradient, encoder_module, make_examples, make_pass
from spacy.util import registry
from torch.nn import Linear, Sequential, Tanh
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from spacy_mtl.balancing.base import CHUNK, ScalarBalancer, get_gramian, get_scale
from spacy_mtl.encoder.model.backward import LEVELS
from spacy_mtl.encoder.training_pass import TaskBatch

TASKS = ("ner", "tagger", "textcat")
METHODS = (
    *("PCGrad", "GradVac", "CAGrad", "MGDA", "IMTLG", "AlignedMTL"),
    *("NashMTL", "UPGrad", "FairGrad", "ConFIG"),
)
NEED_TORCHJD = set(METHODS) - {"GradVac", "ConFIG"}
# Without our normalization, the norm of their result does not scale with the gradients.
OF_ANOTHER_LENGTH = ("NashMTL", "FairGrad")
AGGREGATORS: dict[str, Callable[[], aggregation.Aggregator]] = {
    "PCGrad": aggregation.PCGrad,
    "GradVac": lambda: aggregation.GradVac(beta=0.01),
    "CAGrad": lambda: aggregation.CAGrad(c=0.4),
    "MGDA": aggregation.MGDA,
    "IMTLG": aggregation.IMTLG,
    "AlignedMTL": aggregation.AlignedMTL,
    "NashMTL": lambda: aggregation.FairGrad(alpha=1.0),
    "UPGrad": aggregation.UPGrad,
    "FairGrad": lambda: aggregation.FairGrad(alpha=2.0),
    "ConFIG": aggregation.ConFIG,
}
for_methods = pytest.mark.parametrize("method", METHODS)
for_levels = pytest.mark.parametrize("level", LEVELS)


def make(method: str, **settings: Any) -> ScalarBalancer:
    return registry.misc.get(f"spacy-mtl.{method}.v1")(**settings)


def make_model(seed: int, n_tasks: int = 3) -> tuple[Sequential, list[Linear], torch.Tensor]:
    """RETURNS (Tuple): An encoder, its heads and 6 inputs."""
    torch.manual_seed(seed)
    encoder = Sequential(Linear(5, 8), Tanh(), Linear(8, 4))
    heads = [Linear(4, 2) for _ in range(n_tasks)]
    return encoder, heads, torch.randn(6, 5)


def get_losses(features: torch.Tensor, heads: list[Linear], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (head(features) - 10**i * torch.randn(6, 2, generator=generator)).pow(2).mean()
        for i, head in enumerate(heads)
    ]


def make_batch(seed: int, n_tasks: int = 3) -> tuple[Sequential, TaskBatch]:
    """RETURNS (Tuple): The encoder, and the gradients of its heads after one pass."""
    encoder, heads, inputs = make_model(seed, n_tasks)
    features = encoder(inputs)
    losses = get_losses(features, heads, seed)
    slots = [torch.autograd.grad(loss, features, retain_graph=True)[0].numpy() for loss in losses]
    names = TASKS[:n_tasks]
    batch = TaskBatch(
        {name: loss.item() for name, loss in zip(names, losses, strict=True)},
        dict(zip(names, slots, strict=True)),
        make_pass(features, encoder).gradient_at,
    )
    return encoder, batch


def batch_of(*rows: list[float]) -> TaskBatch:
    """RETURNS (TaskBatch): Tasks with these gradients at one token, the same at every level."""
    gradients = {t: numpy.array([row], dtype="f") for t, row in zip(TASKS, rows, strict=False)}
    losses = dict.fromkeys(gradients, 1.0)
    return TaskBatch(losses, gradients, lambda g, level: torch.from_numpy(g).flatten())


def flat(encoder: Sequential) -> numpy.ndarray:
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]).numpy()


def relative_error(found: numpy.ndarray, expected: numpy.ndarray) -> float:
    assert numpy.linalg.norm(expected) > 0
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make TorchJD's random order of tasks the given order."""
    monkeypatch.setattr(torch, "randperm", torch.arange)


# Against TorchJD


@for_methods
@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("seed", range(3))
def test_at_all_weights_it_equals_torchjd(method: str, seed: int) -> None:
    """TorchJD runs a backward per task. We compute weights and run one backward."""
    n_tasks = 2 if method == "GradVac" else 3  # TorchJD shuffles three tasks
    encoder, heads, inputs = make_model(seed, n_tasks)
    features = encoder(inputs)
    losses = get_losses(features, heads, seed)
    mtl_backward(losses, features=features, shared_params=encoder.parameters())
    jac_to_grad(list(encoder.parameters()), AGGREGATORS[method]())
    expected = flat(encoder)

    encoder, batch = make_batch(seed, n_tasks)
    gradient, weights = make(method, level="params", rescale=False).combine(batch)
    backprop: Any = batch.gradient_at.__self__  # type: ignore[union-attr]
    backprop(gradient)
    found = flat(encoder)
    if method in OF_ANOTHER_LENGTH:
        found *= numpy.linalg.norm(expected) / numpy.linalg.norm(found)
    assert relative_error(found, expected) < (2e-3 if method in OF_ANOTHER_LENGTH else 1e-4)
    assert weights.keys() == batch.gradients.keys()


@for_methods
@pytest.mark.usefixtures("in_order")
def test_at_features_it_equals_torchjds_aggregator(method: str) -> None:
    _, batch = make_batch(0, 2 if method == "GradVac" else 3)
    gradient, _ = make(method, level="features", rescale=False).combine(batch)
    rows = torch.stack([torch.from_numpy(g).flatten() for g in batch.gradients.values()])
    expected = AGGREGATORS[method]()(rows.double()).numpy().reshape(gradient.shape)
    if method in OF_ANOTHER_LENGTH:
        expected *= numpy.linalg.norm(gradient) / numpy.linalg.norm(expected)
    assert relative_error(gradient, expected) < (2e-3 if method in OF_ANOTHER_LENGTH else 1e-4)


def test_gradvac_over_batches_equals_torchjd() -> None:
    """With two tasks the order does not matter."""
    balancer = make("GradVac", beta=0.3, level="features", rescale=False)
    reference = aggregation.GradVacWeighting(beta=0.3)
    for seed in range(20):
        _, batch = make_batch(seed, 2)
        rows = torch.stack([torch.from_numpy(g).flatten() for g in batch.gradients.values()])
        expected = reference(rows.double() @ rows.double().T)
        assert list(balancer.weigh(batch).values()) == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("method", ["PCGrad", "GradVac"])
def test_tasks_are_compared_in_random_order(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights equal TorchJD's for one of the orders, and all orders occur over batches."""
    rows = torch.tensor([[1.0, 0, 0], [-0.5, 1, 0], [-0.4, -0.6, 1]], dtype=torch.float64)
    expected = set()
    for orders in product([False, True], repeat=3):
        queue = iter(orders)

        def randperm(n: int, queue: Any = queue) -> torch.Tensor:
            order = torch.arange(n)
            return order.flip(0) if next(queue) else order

        with monkeypatch.context() as context:
            context.setattr(torch, "randperm", randperm)
            found = aggregation.PCGradWeighting()(rows @ rows.T)
        expected.add(tuple(round(w, 4) for w in found.tolist()))
    assert len(expected) > 1
    settings = {"beta": 0.0} if method == "GradVac" else {}  # this is PCGrad
    balancer = make(method, level="features", rescale=False, **settings)
    seen = set()
    for _ in range(100):
        weights = balancer.weigh(batch_of(*rows.tolist())).values()
        seen.add(tuple(round(w, 4) for w in weights))
    assert seen == expected


@pytest.mark.parametrize("method", ["PCGrad", "GradVac", "GradDrop"])
def test_the_seed_decides(method: str) -> None:
    batches = [make_batch(seed)[1] for seed in range(5)]
    runs = []
    level = {} if method == "GradDrop" else {"level": "features"}
    for seed in (1, 1, 2):
        balancer = make(method, seed=seed, **level)
        runs.append([balancer.combine(batch)[1] for batch in batches])
    assert runs[0] == runs[1] != runs[2]


# By hand


def test_two_tasks_in_conflict() -> None:
    batch = batch_of([1.0, 0.0], [-1.0, 1.0])
    # Each without its conflicting part: (0.5, 0.5) and (0, 1).
    gradient, _ = make("PCGrad", rescale=False).combine(batch)
    assert gradient == pytest.approx(numpy.array([[0.5, 1.5]]))
    # The mean with the smallest norm is orthogonal to the line between the two.
    gradient, weights = make("MGDA", rescale=False).combine(batch)
    assert gradient == pytest.approx(numpy.array([[0.2, 0.4]]), abs=1e-3)
    assert weights == pytest.approx({"ner": 0.6, "tagger": 0.4}, abs=1e-3)


def test_config_has_equal_cosines_and_the_projections_length() -> None:
    _, batch = make_batch(1)
    gradient, _ = make("ConFIG", level="features", rescale=False).combine(batch)
    unit = gradient / numpy.linalg.norm(gradient)
    products = [(unit * batch.gradients[task]).sum() for task in TASKS]
    cosines = [p / batch.norms[task] for p, task in zip(products, TASKS, strict=True)]
    assert cosines[0] > 0 and cosines == pytest.approx([cosines[0]] * 3, rel=1e-3)
    assert numpy.linalg.norm(gradient) == pytest.approx(sum(products), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fairgrad_solves_its_equation(alpha: float) -> None:
    _, batch = make_batch(2)
    weights = make("FairGrad", alpha=alpha, level="params", rescale=False).weigh(batch)
    gramian = get_gramian(batch.get_rows(TASKS, "params")).numpy()
    gramian /= gramian.diagonal().mean()
    w = numpy.array([weights[task] for task in TASKS])
    assert (w > 0).all()
    assert (gramian @ w) ** alpha * w == pytest.approx(numpy.ones(3), rel=1e-3)
    if alpha == 1:
        assert make("NashMTL", level="params", rescale=False).weigh(batch) == weights


def test_imtl_g_does_not_raise_the_loss() -> None:
    """With a small gradient between two large ones the sum of the weights is negative."""
    rows = numpy.array([[10.0, 5.0], [10.0, -5.0], [1.0, 0.0]])
    third = [[*row, 0.1 * i] for i, row in enumerate(rows.tolist())]
    batch = batch_of(*third)
    climbing, _ = make("IMTLG", rescale=False).combine(batch)
    gradient, _ = make("IMTLG").combine(batch)
    products = [[(g * batch.gradients[task]).sum() for task in TASKS] for g in (climbing, gradient)]
    assert max(products[0]) < 0 < min(products[1])
    config, _ = make("ConFIG").combine(batch)
    assert relative_error(gradient, config) < 1e-4


@for_methods
@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 2.0], [-1.0, -2.0]],
        [[1.0, 2.0], [1.0, 2.0]],
        [[1.0, 2.0], [2.0, 4.0], [-3.0, -6.0]],
        [[1.0, 0.0], [1e-5, 1e-5]],
        [[1.0, 0.0], [-1.0, 1e-6], [0.0, 1e3]],
    ],
)
def test_gradients_without_a_common_descent(method: str, rows: list[list[float]]) -> None:
    balancer = make(method)
    for _ in range(5):
        gradient, weights = balancer.combine(batch_of(*rows))
        assert numpy.isfinite(gradient).all() and numpy.isfinite(list(weights.values())).all()
        norms = [numpy.linalg.norm(row) for row in rows]
        assert numpy.linalg.norm(gradient) <= sum(norms) * (1 + 1e-5)


def test_gramian_of_rows_longer_than_a_chunk() -> None:
    rows = [torch.ones(CHUNK + 5), torch.arange(CHUNK + 5) % 2]
    expected = torch.tensor([[CHUNK + 5, CHUNK / 2 + 2], [CHUNK / 2 + 2, CHUNK / 2 + 2]])
    assert get_gramian(rows).tolist() == expected.tolist()


# Rescaling


@for_methods
@for_levels
def test_result_has_the_norm_of_the_plain_sum(method: str, level: str) -> None:
    _, batch = make_batch(3)
    if level == "last_layer":  # this model has no list of layers
        batch.gradient_at = lambda gradient, level: torch.from_numpy(gradient[0])
    weights = make(method, level=level).weigh(batch)
    rows = torch.stack(batch.get_rows(TASKS, level)).double()
    w = torch.tensor([weights[task] for task in TASKS], dtype=torch.float64)
    assert float((w @ rows).norm()) == pytest.approx(float(rows.sum(dim=0).norm()), rel=1e-5)
    plain = make(method, level=level, rescale=False).weigh(batch)
    factor = sum(weights.values()) / sum(plain.values())
    assert weights == pytest.approx({task: factor * plain[task] for task in TASKS}, rel=1e-6)


def test_scale_of_gradients_that_cancel() -> None:
    gramian = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    assert get_scale(gramian, torch.ones(2, dtype=torch.float64)) == 1.0
    assert get_scale(torch.eye(2).double(), torch.zeros(2).double()) == 1.0
    assert get_scale(torch.eye(2).double(), torch.tensor([0.5, 0.5]).double()) == 2.0
    assert get_scale(torch.eye(2).double(), torch.tensor([-0.5, -0.5]).double()) == -2.0


# Prior weights


ALL_METHODS = (*METHODS, "GradDrop")
GIVEN = {"ner": 3.0, "textcat": 0.2}
# Methods whose direction does not depend on the norms of the gradients.
BLIND_TO_LENGTH = {"IMTLG", "NashMTL", "ConFIG"}


def at_params(method: str) -> dict[str, Any]:
    return {} if method == "GradDrop" else {"level": "params"}


def scale(batch: TaskBatch, factors: dict[str, float]) -> TaskBatch:
    """RETURNS (TaskBatch): The batch after its losses are multiplied by factors."""
    losses = {task: factors.get(task, 1.0) * loss for task, loss in batch.losses.items()}
    gradients = {task: factors.get(task, 1.0) * g for task, g in batch.gradients.items()}
    return TaskBatch(losses, gradients, batch.gradient_at)


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("rescale", [False, True])
def test_weights_are_factors_of_the_losses(method: str, rescale: bool) -> None:
    settings = {"rescale": rescale, **at_params(method)}
    given, plain = make(method, weights=GIVEN, **settings), make(method, **settings)
    for seed in range(3):
        _, batch = make_batch(seed)
        gradient, weights = given.combine(batch)
        expected, inner = plain.combine(scale(batch, GIVEN))
        assert relative_error(gradient, expected) < 1e-5
        assert weights == pytest.approx({t: GIVEN.get(t, 1.0) * inner[t] for t in TASKS}, rel=1e-4)
        given.step()
        plain.step()


@pytest.mark.parametrize("method", ALL_METHODS)
def test_weights_change_the_direction(method: str) -> None:
    _, batch = make_batch(0)
    settings = {"rescale": False, **at_params(method)}
    found, _ = make(method, weights=GIVEN, **settings).combine(batch)
    plain, _ = make(method, **settings).combine(batch)
    cosine = (found * plain).sum() / (numpy.linalg.norm(found) * numpy.linalg.norm(plain))
    assert (cosine > 0.9999) == (method in BLIND_TO_LENGTH)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_weight_of_zero_leaves_a_task_out(method: str) -> None:
    _, batch = make_batch(0)
    found = make(method, weights={"ner": 0.0}, **at_params(method)).combine(batch)
    if method != "GradDrop":  # draws for all tasks
        others = make(method, **at_params(method)).combine(batch.select(["tagger", "textcat"]))
        numpy.testing.assert_array_equal(found[0], others[0])
        assert found[1] == {**others[1], "ner": 0.0}
    assert found[1]["ner"] == 0.0
    alone = make(method, weights={"ner": 0.5}).combine(batch.select(["ner"]))
    numpy.testing.assert_array_equal(alone[0], 0.5 * batch.gradients["ner"])
    assert alone[1] == {"ner": 0.5}


@pytest.mark.parametrize("method", ALL_METHODS)
def test_wrong_weights(method: str) -> None:
    with pytest.raises(ValueError, match=r"M058.*'ner'\] = -1"):
        make(method, weights={"ner": -1})
    with pytest.raises(ValueError, match=r"M020.*\['parser'\].*\['ner', 'tagger', 'textcat'\]"):
        make(method, weights={"parser": 2.0}).check(TASKS)
    make(method, weights=GIVEN).check(TASKS)


@pytest.mark.parametrize("method", ["MGDA", "GradDrop"])
def test_weights_by_a_schedule(method: str) -> None:
    def make_scheduled() -> ScalarBalancer:
        return make(method, weights={"ner": iter([1.0, 2.0, 4.0])})

    balancer, batch = make_scheduled(), make_batch(0)[1].select(["ner"])
    found = []
    for _ in range(4):
        found.append(balancer.combine(batch)[1]["ner"])
        balancer.step()
    assert found == [1.0, 2.0, 4.0, 4.0]
    restored = make_scheduled()
    restored.load_state_dict({**balancer.state_dict(), "prior": {"steps": 1}})
    assert restored.combine(batch)[1]["ner"] == 2.0


# GradDrop


def test_graddrop_equals_torchjd_for_the_same_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, batch = make_batch(0)
    shape = batch.gradients["ner"].shape
    lots = numpy.random.default_rng([7, 1]).random(shape, dtype="f")
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.from_numpy(lots).flatten())
    rows = torch.stack([torch.from_numpy(g).flatten() for g in batch.gradients.values()])
    expected = aggregation.GradDrop()(rows).numpy().reshape(shape)
    gradient, _ = make("GradDrop", rescale=False, seed=7).combine(batch)
    numpy.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_graddrop_keeps_signs_with_probabilities_of_their_sums() -> None:
    batch = batch_of([3.0] * 20000 + [1.0, 0.0], [-1.0] * 20000 + [2.0, 0.0])
    gradient, weights = make("GradDrop", rescale=False).combine(batch)
    assert set(gradient[0, :20000].tolist()) == {3.0, -1.0}
    share = (gradient[0, :20000] == 3.0).mean()
    assert share == pytest.approx(0.75, abs=0.01)
    assert gradient[0, 20000:].tolist() == [3.0, 0.0]
    assert weights == pytest.approx({"ner": share, "tagger": 1 - share}, abs=1e-3)


def test_graddrop_rescaled() -> None:
    _, batch = make_batch(0)
    gradient, weights = make("GradDrop").combine(batch)
    plain, shares = make("GradDrop", rescale=False).combine(batch)
    norm = numpy.linalg.norm(sum(batch.gradients.values()))
    assert numpy.linalg.norm(gradient) == pytest.approx(norm, rel=1e-5)
    scale = norm / numpy.linalg.norm(plain)
    assert weights == pytest.approx({task: scale * shares[task] for task in TASKS}, rel=1e-5)


def test_graddrop_does_not_change_docs_of_one_task() -> None:
    batch = batch_of([1.0, -2.0, 0.0, 0.0], [0.0, 0.0, -3.0, 4.0])
    gradient, weights = make("GradDrop").combine(batch)
    assert gradient.tolist() == [[1.0, -2.0, -3.0, 4.0]]
    assert weights == {"ner": 1.0, "tagger": 1.0}


# In a pipeline


@pytest.mark.parametrize("level", ["last_layer", "params"])
def test_encoder_gradient(make_nlp: Callable, level: str) -> None:
    """It is the weighted sum of the single tasks' gradients. At `params` it has the plain norm."""
    balancer = {"@misc": "spacy-mtl.MGDA.v1", "level": level}
    nlp, plain = make_nlp(balancer=balancer), make_nlp()
    for pipeline in (nlp, plain):
        train_heads(pipeline)
    alone = {}
    for task in TASKS:
        encoder_module(plain).zero_grad()
        plain.update(make_examples(plain, task), sgd=False, drop=0.0)
        plain.get_pipe("transformer").flush()
        alone[task] = encoder_gradient(plain)
    nlp.update(make_examples(nlp), sgd=False, drop=0.0)
    nlp.get_pipe("transformer").flush()
    means = nlp.get_pipe("transformer").diagnostics.take()
    expected = sum(means[task]["weight"] * alone[task] for task in TASKS)
    found = encoder_gradient(nlp)
    assert relative_error(found, expected) < 1e-4
    assert means["ner"]["weight"] != pytest.approx(means["tagger"]["weight"])
    norm, plain_norm = numpy.linalg.norm(found), numpy.linalg.norm(sum(alone.values()))
    assert (norm == pytest.approx(plain_norm, rel=1e-4)) == (level == "params")


def train_heads(nlp: Any) -> None:
    """Update the heads a few times, because their weights are initialized with zeros."""
    sgd = registry.optimizers.get("Adam.v1")(learn_rate=0.01)
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=False, drop=0.0)
        nlp.get_pipe("transformer").flush()
        encoder_module(nlp).zero_grad()
        for task in nlp.pipe_names[1:]:
            nlp.get_pipe(task).finish_update(sgd)
    nlp.get_pipe("transformer").diagnostics.take()


def test_tasks_on_different_docs_conflict_only_at_the_weights(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger", "ner")
    sgd = registry.optimizers.get("Adam.v1")(learn_rate=0.01)
    nlp.update(make_examples(nlp), sgd=sgd)
    seen: list[TaskBatch] = []
    encoder = nlp.get_pipe("transformer")
    combine = encoder.balancer.combine
    found: dict[str, torch.Tensor] = {}

    def spy(batch: TaskBatch) -> Any:
        for level in LEVELS:
            found[level] = get_gramian(batch.get_rows(("ner", "tagger"), level))
        seen.append(batch)
        return combine(batch)

    encoder.flush()
    encoder.balancer.combine = spy
    tagged, named = make_examples(nlp, "tagger"), make_examples(nlp, "ner")
    nlp.update([tagged[0], tagged[1], named[2], named[3]], sgd=False)
    encoder.flush()
    assert len(seen) == 1
    assert found["features"][0, 1] == 0
    for level in ("last_layer", "params"):
        products = found[level]
        cosine = products[0, 1] / (products[0, 0] * products[1, 1]).sqrt()
        assert abs(float(cosine)) > 1e-3


# Missing parts


@for_methods
@pytest.mark.parametrize("low", [("tagger",), ("tagger", "ner")])
def test_heads_that_read_lower_layers_only(
    make_nlp: Callable, method: str, low: tuple[str, ...]
) -> None:
    """Such heads have no gradient in the last layer and keep their weight."""
    listener = {"@architectures": "spacy-mtl.TaskListener.v1", "layers": [0, 1]}
    config = {name: {"model": {"tok2vec": listener}} for name in low}
    balancer = {"@misc": f"spacy-mtl.{method}.v1", "weights": {"tagger": 2.0}}
    nlp = make_nlp("tagger", "ner", config=config, balancer=balancer)
    train_heads(nlp)
    nlp.update(make_examples(nlp), sgd=False)
    nlp.get_pipe("transformer").flush()
    assert numpy.isfinite(encoder_gradient(nlp)).all()
    found = nlp.get_pipe("transformer").diagnostics.take()
    assert {name: mean["weight"] for name, mean in found.items()} == {"tagger": 2.0, "ner": 1.0}


def test_cagrad_continues_when_a_task_has_almost_converged() -> None:
    """It follows the gradient of the other task, like algorithm 1 of the paper."""
    for size in (1e-4, 1e-6):
        batch = batch_of([1.0, 0.0], [0.0, size])
        weights = make("CAGrad", level="features", rescale=False).weigh(batch)
        assert weights["ner"] == pytest.approx(0.5, rel=0.01)


@for_methods
def test_unknown_level(method: str) -> None:
    with pytest.raises(ValueError, match=r"M058.*'weights'.*'features', 'last_layer', 'params'"):
        make(method, level="weights")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("CAGrad", {"c": -0.1}),
        ("FairGrad", {"alpha": 0.0}),
        ("GradVac", {"beta": 1.5}),
        ("PCGrad", {"seed": -1}),
        ("GradVac", {"beta": float("nan")}),
    ],
)
def test_settings_out_of_range(method: str, settings: dict[str, float]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"M058.*{name} = {value}"):
        make(method, **settings)


@for_methods
def test_without_torchjd(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    balancer = make(method)
    if method in NEED_TORCHJD:
        with pytest.raises(ValueError, match=r'(?s)M023.*torchjd.*pip install "torchjd'):
            balancer.check(TASKS)
    else:
        balancer.check(TASKS)


@pytest.mark.parametrize(
    ("method", "package"), [("CAGrad", "cvxpy"), ("UPGrad", "quadprog"), ("NashMTL", "scipy")]
)
def test_without_a_solver(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = torchjd._mixins.find_spec
    monkeypatch.setattr(
        torchjd._mixins, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(ValueError, match=rf'(?s)M023.*{package}.*pip install "torchjd'):
        make(method).check(TASKS)
    make("MGDA").check(TASKS)


def test_only_training_needs_torchjd(
    make_nlp: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    nlp = make_nlp("tagger", balancer={"@misc": "spacy-mtl.UPGrad.v1"})
    nlp.to_disk(tmp_path)
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    loaded = spacy.load(tmp_path)
    assert [t.tag_ for t in loaded("We ate soup .")] == [t.tag_ for t in nlp("We ate soup .")]
    with pytest.raises(ValueError, match="M023"):
        loaded.update(make_examples(loaded), sgd=False)
    with pytest.raises(ValueError, match="M023"):
        make_nlp("tagger", balancer={"@misc": "spacy-mtl.UPGrad.v1"})
