"""What every balancer must do, whatever its method."""

import json
from collections.abc import Callable
from configparser import ConfigParser
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import encoder_weights, make_examples
from spacy.util import registry

from spacy_mtl.encoder.hub import Balancer, TaskBatch
from spacy_mtl.training.adamw import create_adamw_v1

SETUP = ConfigParser()
SETUP.read(Path(__file__).parents[2] / "setup.cfg")
ENTRIES = SETUP["options.entry_points"]["spacy_misc"].split("\n")
NAMES = [entry.split(" = ")[0] for entry in ENTRIES if "Weights.v1" in entry]
TASKS = ("tagger", "ner", "textcat")

pytestmark = pytest.mark.parametrize("name", NAMES)


def make(name: str) -> Balancer:
    """A balancer with its defaults."""
    return registry.misc.get(name)()


def make_batch(seed: int = 0, tasks: tuple[str, ...] = TASKS) -> TaskBatch:
    """What tasks want at 6 tokens of width 4, and the same for a task whoever else is there."""
    losses, gradients = {}, {}
    for task in tasks:
        generator = numpy.random.default_rng([seed, TASKS.index(task)])
        losses[task] = float(generator.uniform(0.1, 3))
        gradients[task] = generator.normal(size=(6, 4)).astype("f")
    return TaskBatch(losses, gradients)


def train(balancer: Balancer, *seeds: int) -> None:
    for seed in seeds:
        balancer.combine(make_batch(seed))
        balancer.step()


def restore(name: str, state: dict[str, Any]) -> Balancer:
    """A new balancer with a state that has been written to a file."""
    balancer = make(name)
    balancer.from_dict(json.loads(json.dumps(state)))
    return balancer


def assert_same(found: Balancer, expected: Balancer) -> None:
    """The same state, and the same answers from there on."""
    assert found.to_dict() == expected.to_dict()
    for seed in range(10, 13):
        gradient, weights = found.combine(make_batch(seed))
        expected_gradient, expected_weights = expected.combine(make_batch(seed))
        assert weights == expected_weights
        assert (gradient == expected_gradient).all()
        found.step()
        expected.step()


def assert_close(found: Any, expected: Any) -> None:
    """The same state but for the 10 digits behind the point that the file has."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    else:
        assert found == pytest.approx(expected, abs=1e-9)


def test_combines_to_the_sum_of_weights_times_gradients(name: str) -> None:
    balancer = make(name)
    for seed in range(5):
        batch = make_batch(seed)
        gradient, weights = balancer.combine(batch)
        expected = sum(weights[task] * batch.gradients[task] for task in TASKS)
        assert gradient.shape == (6, 4) and gradient.dtype == "float32"
        assert (gradient == expected).all()
        assert all(weight >= 0 for weight in weights.values())
        balancer.step()


@pytest.mark.parametrize("task", TASKS)
def test_one_task_of_weight_one_is_the_identity(name: str, task: str) -> None:
    batch = make_batch(tasks=(task,))
    gradient, weights = make(name).combine(batch)
    assert weights == {task: 1.0}
    assert (gradient == batch.gradients[task]).all()


def test_gradients_are_not_modified(name: str) -> None:
    """The diagnostics read them afterwards."""
    batch, expected = make_batch(), make_batch()
    balancer = make(name)
    gradient, _ = balancer.combine(batch)
    gradient += 1
    balancer.step()
    assert batch.losses == expected.losses
    assert all((batch.gradients[task] == expected.gradients[task]).all() for task in TASKS)


@pytest.mark.parametrize("order", list(permutations(TASKS)))
def test_the_order_of_tasks_means_nothing(name: str, order: tuple[str, ...]) -> None:
    expected, found = make(name), make(name)
    for seed in range(5):
        expected_gradient, expected_weights = expected.combine(make_batch(seed))
        gradient, weights = found.combine(make_batch(seed, order))
        assert weights == pytest.approx(expected_weights, rel=1e-6)
        numpy.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
        expected.step()
        found.step()


@pytest.mark.parametrize("absent", TASKS)
def test_an_absent_task_is_not_there(name: str, absent: str) -> None:
    """As for a balancer that has never heard of it."""
    others = tuple(task for task in TASKS if task != absent)
    balancer, without = make(name), make(name)
    train(balancer, 0, 1)
    for seed in (0, 1):
        without.combine(make_batch(seed, others))
        without.step()
    batch = make_batch(2, others)
    gradient, weights = balancer.combine(batch)
    assert list(weights) == list(others)
    expected = sum(weights[task] * batch.gradients[task] for task in others)
    assert (gradient == expected).all()
    assert weights == without.combine(batch)[1]


def test_a_batch_without_a_task_does_not_move_it(name: str) -> None:
    balancer = make(name)
    train(balancer, 0)
    _, before = balancer.combine(make_batch(1, ("ner",)))
    for seed in range(3):
        balancer.combine(make_batch(seed, ("tagger",)))
    _, after = balancer.combine(make_batch(1, ("ner",)))
    assert after == before


def test_a_gradient_of_zeros_adds_nothing(name: str) -> None:
    batch = make_batch()
    batch.gradients["ner"][:] = 0
    gradient, weights = make(name).combine(batch)
    expected = sum(weights[task] * batch.gradients[task] for task in ("tagger", "textcat"))
    assert numpy.isfinite(gradient).all() and (gradient == expected).all()


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1, 2)])
def test_state_round_trip(name: str, seeds: tuple[int, ...]) -> None:
    balancer = make(name)
    train(balancer, *seeds)
    assert_same(restore(name, balancer.to_dict()), balancer)


def test_a_saved_state_does_not_change_later(name: str) -> None:
    balancer, same = make(name), make(name)
    train(balancer, 0)
    train(same, 0)
    state = balancer.to_dict()
    other = restore(name, {})
    other.from_dict(state)
    train(other, 1)
    train(balancer, 2)
    assert_same(restore(name, state), same)


def test_an_empty_state_is_a_new_one(name: str) -> None:
    assert_same(restore(name, {}), make(name))


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
        assert_close(found.to_dict(), balancer.to_dict())
    # They go on alike: the optimizer's moments are not saved, so it begins anew for each.
    for pipeline in (nlp, from_disk, from_bytes):
        sgd = create_adamw_v1()
        for _ in range(2):
            pipeline.update(make_examples(pipeline), sgd=sgd, drop=0.0)
        pipeline.get_pipe("transformer").flush()
    expected = numpy.frombuffer(encoder_weights(nlp), dtype="f")
    for restored in (from_disk, from_bytes):
        weights = numpy.frombuffer(encoder_weights(restored), dtype="f")
        numpy.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-7)
