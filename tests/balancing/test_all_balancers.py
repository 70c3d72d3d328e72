"""Properties of all balancers."""

import json
from collections.abc import Callable
from configparser import ConfigParser
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import encoder_weights, make_examples
from spacy.util import registry

from spacy_mtl.encoder.training_pass import Balancer, TaskBatch
from spacy_mtl.training.adamw import create_adamw_v1

SETUP = ConfigParser()
SETUP.read(Path(__file__).parents[2] / "setup.cfg")
ENTRIES = SETUP["options.entry_points"]["spacy_misc"].strip().split("\n")
NAMES = [entry.split(" = ")[0] for entry in ENTRIES if "spacy_mtl.balancing" in entry]
ONE_OF_A_KIND = [
    f"spacy-mtl.{name}.v1"
    for name in (
        *("StaticWeights", "UncertaintyWeights", "RandomWeights", "DynamicWeightAverage"),
        *("GradNorm", "FAMO", "DBMTL", "PCGrad", "GradVac", "GradDrop"),
    )
]
TASKS = ("tagger", "ner", "textcat")
WEIGHTS = torch.from_numpy(numpy.random.default_rng(0).normal(size=(30, 24)).astype("f"))

for_all = pytest.mark.parametrize("name", NAMES)


def make(name: str) -> Balancer:
    """RETURNS (Balancer): One with its defaults. EarlyStopping wraps one and stops no task here."""
    create = registry.misc.get(name)
    if name == "spacy-mtl.EarlyStopping.v1":
        balancer = create(registry.misc.get("spacy-mtl.DynamicWeightAverage.v1")(), {"ner": 2})
        balancer.on_scores({})
        return balancer
    return create()


def pull(gradient: numpy.ndarray, level: str) -> torch.Tensor:
    """Backpropagate to 30 parameters, of which the 24 features are a linear function."""
    return WEIGHTS @ torch.from_numpy(gradient).flatten()


def make_batch(seed: int = 0, tasks: tuple[str, ...] = TASKS, factor: float = 1.0) -> TaskBatch:
    """RETURNS (TaskBatch): 6 tokens of width 4. A task's gradient does not depend on the others."""
    losses, gradients = {}, {}
    for task in tasks:
        generator = numpy.random.default_rng([seed, TASKS.index(task)])
        losses[task] = float(generator.uniform(0.1, 3))
        gradients[task] = factor * generator.normal(size=(6, 4)).astype("f")
    return TaskBatch(losses, gradients, pull)


def is_weighted_sum(name: str) -> bool:
    return name != "spacy-mtl.GradDrop.v1"


def strip(state: Any, task: str) -> Any:
    """RETURNS (Any): A state without the entries of a task."""
    if isinstance(state, dict):
        return {key: strip(value, task) for key, value in state.items() if key != task}
    return state


def find(state: Any, task: str) -> list[Any]:
    """RETURNS (List[Any]): The entries of a task in a state."""
    if not isinstance(state, dict):
        return []
    own = [state[task]] if task in state else []
    return own + [found for value in state.values() for found in find(value, task)]


def train(balancer: Balancer, *seeds: int) -> None:
    for seed in seeds:
        balancer.combine(make_batch(seed))
        balancer.step()


def restore(name: str, state: dict[str, Any]) -> Balancer:
    """RETURNS (Balancer): A new one with a state that has been written as JSON and read again."""
    balancer = make(name)
    balancer.load_state_dict(json.loads(json.dumps(state)))
    return balancer


def assert_same(found: Balancer, expected: Balancer) -> None:
    """Check that two balancers have the same state and give the same results from now on."""
    assert found.state_dict() == expected.state_dict()
    for seed in range(10, 13):
        gradient, weights = found.combine(make_batch(seed))
        expected_gradient, expected_weights = expected.combine(make_batch(seed))
        assert weights == expected_weights
        assert (gradient == expected_gradient).all()
        found.step()
        expected.step()


def assert_close(found: Any, expected: Any) -> None:
    """Check that two states are equal to the 10 decimals of the file."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    else:
        assert found == pytest.approx(expected, abs=1e-9)


def test_all_methods_are_tested() -> None:
    assert len(NAMES) == 21 and set(ONE_OF_A_KIND) < set(NAMES)


@for_all
def test_state_follows_the_names_of_tasks(name: str) -> None:
    """The state of a removed task is deleted."""
    balancer = make(name)
    train(balancer, 0, 1)
    if name == "spacy-mtl.EarlyStopping.v1":
        for _ in range(3):
            balancer.on_scores({"ner": 0.5})  # type: ignore[attr-defined]
    before = balancer.state_dict()
    balancer.rename({"ner": "entities", "tagger": "tagger"})
    after = balancer.state_dict()
    assert "ner" not in json.dumps(after).replace("balancer", "") and not find(after, "textcat")
    text = json.dumps(strip(before, "textcat")).replace('"ner"', '"entities"')
    assert json.loads(json.dumps(after)) == json.loads(text)


@for_all
def test_combines_to_the_sum_of_weights_times_gradients(name: str) -> None:
    balancer = make(name)
    for seed in range(5):
        batch = make_batch(seed)
        gradient, weights = balancer.combine(batch)
        assert gradient.shape == (6, 4) and gradient.dtype == "float32"
        assert numpy.isfinite(gradient).all() and gradient.any()
        if is_weighted_sum(name):
            expected = sum(weights[task] * batch.gradients[task] for task in TASKS)
            assert (gradient == expected).all()
        balancer.step()


@for_all
@pytest.mark.parametrize("task", TASKS)
def test_one_task_of_weight_one_is_the_identity(name: str, task: str) -> None:
    batch = make_batch(tasks=(task,))
    gradient, weights = make(name).combine(batch)
    assert weights == pytest.approx({task: 1.0}, rel=1e-6)
    numpy.testing.assert_allclose(gradient, batch.gradients[task], rtol=1e-6)


@for_all
def test_gradients_are_not_modified(name: str) -> None:
    """The diagnostics read the gradients after the balancer."""
    batch, expected = make_batch(), make_batch()
    balancer = make(name)
    gradient, _ = balancer.combine(batch)
    gradient += 1
    balancer.step()
    assert batch.losses == expected.losses
    assert all((batch.gradients[task] == expected.gradients[task]).all() for task in TASKS)


@for_all
@pytest.mark.parametrize("order", list(permutations(TASKS))[1:])
def test_the_order_of_tasks_does_not_matter(name: str, order: tuple[str, ...]) -> None:
    expected, found = make(name), make(name)
    for seed in range(3):
        expected_gradient, expected_weights = expected.combine(make_batch(seed))
        gradient, weights = found.combine(make_batch(seed, order))
        assert weights == pytest.approx(expected_weights, rel=1e-5)
        numpy.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
        expected.step()
        found.step()


@for_all
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_gradients_of_another_scale_get_the_same_weights(name: str, factor: float) -> None:
    balancer, scaled = make(name), make(name)
    for seed in range(3):
        expected, expected_weights = balancer.combine(make_batch(seed))
        gradient, weights = scaled.combine(make_batch(seed, factor=factor))
        assert weights == pytest.approx(expected_weights, rel=1e-4)
        numpy.testing.assert_allclose(gradient / factor, expected, rtol=1e-3, atol=1e-4)
        balancer.step()
        scaled.step()


@for_all
@pytest.mark.parametrize("absent", TASKS)
def test_an_absent_task_does_not_affect_the_others(name: str, absent: str) -> None:
    """The state of an absent task does not change the weights of the others."""
    others = tuple(task for task in TASKS if task != absent)
    balancer = make(name)
    train(balancer, 0, 1)
    without = restore(name, strip(balancer.state_dict(), absent))
    batch = make_batch(2, others)
    gradient, weights = balancer.combine(batch)
    assert weights.keys() == set(others)
    assert weights == without.combine(batch)[1]
    if is_weighted_sum(name):
        expected = sum(weights[task] * batch.gradients[task] for task in others)
        assert (gradient == expected).all()


@for_all
def test_a_batch_without_a_task_does_not_change_its_state(name: str) -> None:
    balancer = make(name)
    train(balancer, 0, 1)
    before = find(balancer.state_dict(), "ner")
    for seed in range(3):
        balancer.combine(make_batch(seed, ("tagger", "textcat")))
        balancer.step()
    assert find(balancer.state_dict(), "ner") == before


@for_all
def test_a_gradient_of_zeros_adds_nothing(name: str) -> None:
    batch = make_batch()
    batch.gradients["ner"][:] = 0
    gradient, weights = make(name).combine(batch)
    assert numpy.isfinite(gradient).all()
    assert all(map(numpy.isfinite, weights.values()))
    if is_weighted_sum(name):
        expected = sum(weights[task] * batch.gradients[task] for task in ("tagger", "textcat"))
        assert (gradient == expected).all()


@for_all
def test_all_gradients_are_zero(name: str) -> None:
    """This is the first batch of heads whose weights are initialized with zeros."""
    gradient, weights = make(name).combine(make_batch(factor=0.0))
    assert not gradient.any()
    assert all(map(numpy.isfinite, weights.values()))


@for_all
def test_losses_of_zero(name: str) -> None:
    balancer = make(name)
    for seed in range(3):
        batch = make_batch(seed)
        batch.losses.update(dict.fromkeys(TASKS, 0.0))
        gradient, weights = balancer.combine(batch)
        assert numpy.isfinite(gradient).all()
        assert all(map(numpy.isfinite, weights.values()))
        balancer.step()


@for_all
def test_torchs_random_state_is_unchanged(name: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make(name).combine(make_batch())
    assert torch.rand(3).tolist() == expected.tolist()


@for_all
@pytest.mark.parametrize("seeds", [(), (0,), (0, 1, 2)])
def test_state_round_trip(name: str, seeds: tuple[int, ...]) -> None:
    balancer = make(name)
    train(balancer, *seeds)
    assert_same(restore(name, balancer.state_dict()), balancer)


@for_all
def test_a_saved_state_does_not_change_later(name: str) -> None:
    balancer, same = make(name), make(name)
    train(balancer, 0)
    train(same, 0)
    state = balancer.state_dict()
    other = restore(name, {})
    other.load_state_dict(state)
    train(other, 1)
    train(balancer, 2)
    assert_same(restore(name, state), same)


@for_all
def test_an_empty_state_resets_a_balancer(name: str) -> None:
    assert_same(restore(name, {}), make(name))


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_saved_with_the_pipeline(make_nlp: Callable, name: str, tmp_path: Path) -> None:
    nlp = make_nlp(*TASKS, balancer={"@misc": name})
    sgd = create_adamw_v1()
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=sgd)
    nlp.to_disk(tmp_path)
    from_disk = spacy.load(tmp_path)
    from_bytes = spacy.blank("en", config=nlp.config).from_bytes(nlp.to_bytes())
    balancer = nlp.get_pipe("transformer").balancer
    for restored in (from_disk, from_bytes):
        found = restored.get_pipe("transformer").balancer
        assert found is not balancer
        assert_close(found.state_dict(), balancer.state_dict())
    # All continue with the same results. The optimizer's moments are not saved, so each is new.
    for pipeline in (nlp, from_disk, from_bytes):
        sgd = create_adamw_v1()
        for _ in range(2):
            pipeline.update(make_examples(pipeline), sgd=sgd, drop=0.0)
        pipeline.get_pipe("transformer").flush()
    expected = numpy.frombuffer(encoder_weights(nlp), dtype="f")
    for restored in (from_disk, from_bytes):
        weights = numpy.frombuffer(encoder_weights(restored), dtype="f")
        numpy.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-7)
