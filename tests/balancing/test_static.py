"""Weights from the config, alone and in a pipeline."""

import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import encoder_gradient, encoder_module, encoder_weights, make_examples
from spacy.language import Language
from thinc.api import warmup_linear

from spacy_mtl.balancing.static import create_static_weights_v1
from spacy_mtl.encoder.training_pass import TaskBatch
from spacy_mtl.training.adamw import create_adamw_v1

HEADS = ("tagger", "ner", "textcat")
STATIC = "spacy-mtl.StaticWeights.v1"
WARMUP = {
    "@schedules": "warmup_linear.v1",
    "initial_rate": 1.0,
    "warmup_steps": 4,
    "total_steps": 8,
}


def make_batch(*tasks: str) -> TaskBatch:
    generator = numpy.random.default_rng(0)
    gradients = {task: generator.normal(size=(5, 3)).astype("f") for task in tasks or HEADS}
    return TaskBatch(dict.fromkeys(gradients, 1.0), gradients)


def weigh(weights: dict[str, Any], *tasks: str) -> dict[str, float]:
    return create_static_weights_v1(weights).combine(make_batch(*tasks))[1]


def test_weights_are_the_given_ones_or_one() -> None:
    assert weigh({"tagger": 2, "ner": 0.5}) == {"tagger": 2.0, "ner": 0.5, "textcat": 1.0}
    assert weigh({}) == {"tagger": 1.0, "ner": 1.0, "textcat": 1.0}
    assert weigh({"tagger": 2, "ner": 0.5}, "ner") == {"ner": 0.5}


def test_the_weighted_sum() -> None:
    batch = make_batch()
    balancer = create_static_weights_v1({"tagger": 2.0, "ner": 0.0, "textcat": 0.5})
    gradient, _ = balancer.combine(batch)
    expected = 2 * batch.gradients["tagger"] + 0.5 * batch.gradients["textcat"]
    assert (gradient == expected).all()


def test_all_weights_zero() -> None:
    gradient, _ = create_static_weights_v1(dict.fromkeys(HEADS, 0)).combine(make_batch())
    assert gradient.shape == (5, 3) and not gradient.any()


def test_a_schedule_advances_with_each_update_until_its_end() -> None:
    balancer = create_static_weights_v1({"ner": iter([0.0, 0.5, 2.0]), "tagger": 3.0})
    found = []
    for _ in range(5):
        for _ in range(2):  # two batches per update
            _, weights = balancer.combine(make_batch("tagger", "ner"))
        found.append(weights)
        balancer.step()
    assert found == [{"tagger": 3.0, "ner": w} for w in [0.0, 0.5, 2.0, 2.0, 2.0]]


def test_thinc_schedule() -> None:
    balancer = create_static_weights_v1({"ner": warmup_linear(1.0, 4, 8)})
    found = []
    for _ in range(10):
        found.append(balancer.combine(make_batch("ner"))[1]["ner"])
        balancer.step()
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0])


def test_a_schedule_continues_after_loading() -> None:
    balancer = create_static_weights_v1({"ner": count(1)})
    for _ in range(3):
        balancer.step()
    restored = create_static_weights_v1({"ner": count(1)})
    restored.load_state_dict(balancer.state_dict())
    for expected in (4.0, 5.0):
        assert restored.combine(make_batch("ner"))[1] == {"ner": expected}
        restored.step()


@pytest.mark.parametrize("weight", [-1, -0.5, math.nan, math.inf, "2", None, True, [1.0], iter(())])
def test_wrong_weights(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"M058.*'tagger'"):
        create_static_weights_v1({"ner": 1.0, "tagger": weight})


def test_a_schedule_can_go_back_to_an_earlier_step() -> None:
    balancer = create_static_weights_v1({"ner": count(1)})
    for _ in range(3):
        balancer.step()
    assert balancer.weigh(make_batch("ner")) == {"ner": 4.0}
    balancer.load_state_dict({"steps": 1})
    assert balancer.weigh(make_batch("ner")) == {"ner": 2.0}


def test_a_schedule_that_goes_below_zero() -> None:
    balancer = create_static_weights_v1({"ner": iter([1.0, -1.0])})
    balancer.step()
    with pytest.raises(ValueError, match=r"M058.*'ner'\] = -1\.0"):
        balancer.weigh(TaskBatch({"ner": 1.0}, {"ner": numpy.ones((1, 1), dtype="f")}))


def test_unknown_names() -> None:
    balancer = create_static_weights_v1({"tagger": 1.0, "pos": 2.0, "ents": 1.0})
    with pytest.raises(ValueError, match=r"M020.*\['ents', 'pos'\].*\['ner', 'tagger'\]"):
        balancer.check(["tagger", "ner"])
    balancer.check(["tagger", "pos", "ents", "ner"])


# In a pipeline


def gradient_of(nlp: Language, *tasks: str) -> numpy.ndarray:
    """RETURNS: The encoder's gradient for a batch with labels of some tasks."""
    encoder_module(nlp).zero_grad()
    nlp.update(make_examples(nlp, *tasks), sgd=False, drop=0.0)
    nlp.get_pipe("transformer").flush()
    return encoder_gradient(nlp)


def relative_error(found: numpy.ndarray, expected: numpy.ndarray) -> float:
    assert numpy.linalg.norm(expected) > 0
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


@pytest.mark.usefixtures("no_zeros")
@pytest.mark.parametrize("order", [HEADS, HEADS[::-1]])
def test_encoder_gradient(make_nlp: Callable, order: tuple[str, ...]) -> None:
    weights = {"tagger": 2, "ner": 0, "textcat": 0.5}
    nlp = make_nlp(*order, balancer={"@misc": STATIC, "weights": weights})
    plain = make_nlp(*order)
    assert encoder_weights(nlp) == encoder_weights(plain)
    alone = {head: gradient_of(plain, head) for head in HEADS}
    assert all(gradient.any() for gradient in alone.values())
    found = gradient_of(nlp)
    assert relative_error(found, 2 * alone["tagger"] + 0.5 * alone["textcat"]) < 1e-6
    assert relative_error(gradient_of(plain), sum(alone.values())) < 1e-6
    assert not gradient_of(nlp, "ner").any()


@pytest.mark.usefixtures("no_zeros")
def test_a_head_of_weight_zero_still_learns(make_nlp: Callable) -> None:
    """The head reads the encoder and does not change it."""
    nlp = make_nlp("tagger", "ner", balancer={"@misc": STATIC, "weights": {"ner": 0}})
    other = make_nlp("tagger", "ner")
    before = nlp.get_pipe("ner").to_bytes()
    nlp.update(make_examples(nlp), sgd=create_adamw_v1(), drop=0.0)
    other.update(make_examples(other, "tagger"), sgd=create_adamw_v1(), drop=0.0)
    other.get_pipe("transformer").flush()
    assert nlp.get_pipe("ner").to_bytes() != before
    assert encoder_weights(nlp) == encoder_weights(other)


def loop(nlp: Language, *batches: list[Any]) -> None:
    """Update the weights once from several batches, like spaCy's training loop."""
    sgd = create_adamw_v1()
    for batch in batches:
        nlp.update(batch, sgd=False)
    for _, pipe in nlp.pipeline:
        pipe.finish_update(sgd)


def test_schedule_in_a_pipeline(make_nlp: Callable) -> None:
    nlp = make_nlp("ner", balancer={"@misc": STATIC, "weights": {"ner": WARMUP}})
    encoder, examples = nlp.get_pipe("transformer"), make_examples(nlp)
    found = []
    for batches in ([examples], [examples[:2], examples[2:]], [examples], [examples]):
        loop(nlp, *batches)
        found.append(encoder.diagnostics.take()["ner"]["weight"])
    assert found == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("way", ["disk", "bytes"])
def test_schedule_continues_after_loading(make_nlp: Callable, way: str, tmp_path: Path) -> None:
    nlp = make_nlp("ner", balancer={"@misc": STATIC, "weights": {"ner": WARMUP}})
    for _ in range(3):
        loop(nlp, make_examples(nlp))
    if way == "disk":
        nlp.to_disk(tmp_path)
        loaded = spacy.load(tmp_path)
    else:
        loaded = spacy.blank("en", config=nlp.config).from_bytes(nlp.to_bytes())
    loop(loaded, make_examples(loaded))
    assert loaded.get_pipe("transformer").diagnostics.take()["ner"]["weight"] == 0.75


def test_unknown_task_at_initialize(make_nlp: Callable) -> None:
    balancer = {"@misc": STATIC, "weights": {"tagger": 1.0, "parser": 2.0}}
    with pytest.raises(ValueError, match=r"M020.*\['parser'\].*\['ner', 'tagger'\]"):
        make_nlp("tagger", "ner", balancer=balancer)


@pytest.mark.parametrize("weight", [-1.0, "much"])
def test_wrong_weight_in_the_config(make_nlp: Callable, weight: Any) -> None:
    balancer = {"@misc": STATIC, "weights": {"tagger": weight}}
    with pytest.raises(ValueError, match=r"M058.*'tagger'"):
        make_nlp("tagger", balancer=balancer, initialize=False)
