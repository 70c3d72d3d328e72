import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import build_encoder, encoder_module, encoder_weights, make_examples, make_gold
from spacy import blank
from spacy.cli._util import app
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config
from thinc.api import Adam
from typer.testing import CliRunner

import spacy_mtl.cli  # noqa: F401
from spacy_mtl.encoder.training_pass import Balancer
from spacy_mtl.training import affinity as module
from spacy_mtl.training.adamw import create_adamw_v1
from spacy_mtl.training.affinity import (
    find_shared_tasks,
    get_means,
    looking_ahead,
    measure_affinity,
    propose_groups,
)

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
TASKS = ["tagger", "ner", "textcat"]
RATE = 0.001
pytestmark = pytest.mark.usefixtures("no_zeros")


@pytest.fixture
def dropout_encoder(tmp_path: Path) -> str:
    return str(build_encoder("bert", tmp_path / "encoder", dropout=0.3))


def get_losses(nlp: Language, *tasks: str) -> dict[str, float]:
    """The losses of a training step without dropout, up to the encoder's gradient."""
    losses = nlp.update(make_examples(nlp, *tasks), sgd=False, drop=0.0, losses={})
    nlp.get_pipe("transformer").flush()  # type: ignore[attr-defined]
    return {task: losses[task] for task in nlp.pipe_names[1:]}


def get_gradient(nlp: Language, task: str) -> list[Any]:
    """The encoder's gradient for a batch with the labels of one task."""
    parameters = list(encoder_module(nlp).parameters())
    encoder_module(nlp).zero_grad()
    get_losses(nlp, task)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    encoder_module(nlp).zero_grad()
    return found


def look(nlp: Language, optimizer: Any, *tasks: str, drop: float = 0.0) -> Any:
    """Measure the affinities in an update, up to the encoder's backward."""
    encoder, heads = find_shared_tasks(nlp)
    examples = make_examples(nlp, *tasks)
    encoder.flush()
    with looking_ahead(encoder, heads, optimizer) as lookahead:
        lookahead.is_on, lookahead.examples = True, examples
        nlp.update(examples, sgd=False, drop=drop)  # type: ignore[arg-type]
        encoder.flush()
    return lookahead.found[-1]


@pytest.mark.parametrize("freeze", [[], ["embeddings.*", "encoder.layer.0.*"]])
@pytest.mark.parametrize("source", TASKS)
def test_against_a_step_by_hand(
    make_nlp: Callable[..., Language], source: str, freeze: list[str]
) -> None:
    nlp = make_nlp()
    found = look(nlp, create_adamw_v1(encoder_learn_rate=RATE, freeze=freeze))
    gradient = get_gradient(nlp, source)
    before = get_losses(nlp)
    moving = [
        (p, g)
        for (name, p), g in zip(encoder_module(nlp).named_parameters(), gradient, strict=True)
        if not (freeze and name.startswith(("embeddings", "encoder.layer.0")))
    ]
    with torch.no_grad():
        norm = math.sqrt(sum(float((p * p).sum()) for p, _ in moving))
        size = math.sqrt(sum(float((g * g).sum()) for _, g in moving))
        for p, g in moving:
            p -= RATE * norm / size * g
    after = get_losses(nlp)
    expected = {task: 1 - after[task] / before[task] for task in TASKS}
    assert found.keys() == set(TASKS)
    assert found[source] == pytest.approx(expected, rel=2e-3, abs=2e-6)
    assert found[source][source] > 1e-4


def get_weights(nlp: Language) -> list[bytes]:
    """The weights of the encoder and of the heads."""
    heads = [
        node.get_param(name).tobytes()
        for pipe in nlp.pipe_names[1:]
        for node in nlp.get_pipe(pipe).model.walk()  # type: ignore[attr-defined]
        for name in node.param_names
        if node.has_param(name)
    ]
    return [encoder_weights(nlp), *heads]


def test_nothing_is_changed(make_nlp: Callable[..., Language], dropout_encoder: str) -> None:
    """Weights, random numbers and the update are the same with a measurement and without."""
    results = []
    for is_on in (True, False):
        nlp = make_nlp(name=dropout_encoder)
        before = get_weights(nlp)
        if is_on:
            look(nlp, create_adamw_v1(encoder_learn_rate=RATE), drop=0.2)
        else:
            nlp.update(make_examples(nlp), sgd=False, drop=0.2)  # type: ignore[arg-type]
            nlp.get_pipe("transformer").flush()  # type: ignore[attr-defined]
        assert get_weights(nlp) == before
        states = [random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()]
        optimizer = create_adamw_v1()
        for _, pipe in nlp.pipeline:
            pipe.finish_update(optimizer)  # type: ignore[attr-defined]
        assert all(a != b for a, b in zip(get_weights(nlp)[:2], before, strict=False))
        diagnostics = nlp.get_pipe("transformer").diagnostics.take()  # type: ignore[attr-defined]
        results.append((states, get_weights(nlp), diagnostics))
    assert results[0] == results[1]


def test_weights_come_back_after_an_error(
    make_nlp: Callable[..., Language], monkeypatch: pytest.MonkeyPatch
) -> None:
    nlp = make_nlp()
    before = encoder_weights(nlp)
    real, calls = module.get_losses, []

    def fail_later(*args: Any) -> Any:
        calls.append(encoder_weights(nlp))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return real(*args)

    monkeypatch.setattr(module, "get_losses", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        look(nlp, create_adamw_v1(encoder_learn_rate=RATE))
    assert calls[0] == before != calls[1]
    assert encoder_weights(nlp) == before


def test_tasks_without_labels_are_left_out(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp()
    found = look(nlp, Adam(RATE), "tagger", "textcat")
    assert {source: set(row) for source, row in found.items()} == {
        "tagger": {"tagger", "textcat"},
        "textcat": {"tagger", "textcat"},
    }


def test_the_balancer_does_its_work_meanwhile(make_nlp: Callable[..., Language]) -> None:
    encoder, heads = find_shared_tasks(make_nlp())
    balancer, state = encoder.balancer, encoder.balancer.state_dict()
    with looking_ahead(encoder, heads, Adam(RATE)) as lookahead:
        assert isinstance(lookahead, Balancer) and encoder.balancer is lookahead
        lookahead.step()
        assert lookahead.state_dict() == balancer.state_dict() != state
        lookahead.load_state_dict(state)
        assert balancer.state_dict() == state
    assert encoder.balancer is balancer


# In a training run


def make_config(encoder: str, folder: Path, **training: Any) -> dict[str, Any]:
    vocab = blank("en").vocab
    DocBin(docs=[make_gold(vocab, i) for i in range(4)]).to_disk(folder / "corpus.spacy")
    overrides = {
        "paths.train": str(folder / "corpus.spacy"),
        "paths.dev": str(folder / "corpus.spacy"),
        "paths.encoder": encoder,
        "components.transformer.model.precision": "float32",
        "training.optimizer.learn_rate.warmup_steps": 1,
        "training.optimizer.encoder_learn_rate.warmup_steps": 1,
        "training.optimizer.learn_rate.total_steps": 4,
        "training.optimizer.encoder_learn_rate.total_steps": 4,
    }
    return overrides | {f"training.{key}": value for key, value in training.items()}


def test_training_goes_as_it_would(encoder: str, tmp_path: Path) -> None:
    """Measuring trains with the config's balancer and optimizer, to the same weights."""
    overrides = make_config(encoder, tmp_path, max_steps=4, accumulate_gradient=2)
    nlp, same = (init_nlp(load_config(CONFIG, overrides)) for _ in range(2))
    affinity = measure_affinity(nlp, every=2)
    assert nlp.get_pipe("transformer").balancer.log_variances  # type: ignore[attr-defined]
    assert list(affinity) == TASKS and all(list(row) == TASKS for row in affinity.values())
    assert all(affinity[task][task] > 0 for task in TASKS)
    same.config["training"]["max_steps"] = 3  # spaCy makes one more
    same.config["training"]["logger"] = {"@loggers": "spacy.ConsoleLogger.v3"}
    train(same)
    assert encoder_weights(nlp) == encoder_weights(same)


def test_command(encoder: str, tmp_path: Path) -> None:
    overrides = make_config(encoder, tmp_path, max_steps=2)
    options = [item for key, value in overrides.items() for item in (f"--{key}", str(value))]
    file = tmp_path / "out" / "affinity.json"
    command = ["mtl", "affinity", str(CONFIG), *options, "-o", str(file), "--every", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert list(found["affinity"]) == TASKS
    assert f"{100 * found['affinity']['ner']['tagger']:+.3f}" in done.output
    assert [len(g["groups"]) for g in found["groupings"]] == [1, 2, 3]
    assert found["groupings"][2]["affinity"] == 0
    assert "Best: " in done.output
    done = CliRunner().invoke(app, [*command[:-1], "3"])
    assert done.exit_code == 1 and "M242" in done.output


def test_no_end(encoder: str, tmp_path: Path) -> None:
    nlp = init_nlp(load_config(CONFIG, make_config(encoder, tmp_path, max_steps=0)))
    with pytest.raises(ValueError, match="M241"):
        measure_affinity(nlp)


def test_too_few_tasks(make_nlp: Callable[..., Language]) -> None:
    with pytest.raises(ValueError, match=r"M240.*'tagger'"):
        find_shared_tasks(make_nlp("tagger", initialize=False))
    with pytest.raises(ValueError, match="M240"):
        find_shared_tasks(make_nlp("tagger", "ner", initialize=False), frozen=["ner"])
    assert list(find_shared_tasks(make_nlp("ner", "tagger", initialize=False))[1]) == [
        "ner",
        "tagger",
    ]


# Means and groups


def test_means() -> None:
    found = [{"a": {"a": 0.5, "b": 0.1}, "b": {"b": 0.2}}, {"a": {"a": 0.3, "b": 0.3}}]
    means = get_means(["a", "b"], found)
    assert means["a"] == pytest.approx({"a": 0.4, "b": 0.2})
    assert means["b"]["b"] == 0.2 and math.isnan(means["b"]["a"])


def test_groups_by_hand() -> None:
    """a and b help each other, c hurts both and gains nothing."""
    affinity = {
        "a": {"a": 1.0, "b": 0.2, "c": 0.0},
        "b": {"a": 0.4, "b": 1.0, "c": 0.0},
        "c": {"a": -0.4, "b": -0.1, "c": 1.0},
    }
    found = propose_groups(affinity)
    assert [g.groups for g in found] == [
        [["a", "b", "c"]],
        [["a", "b"], ["c"]],
        [["a"], ["b"], ["c"]],
    ]
    # a gains (0.4 - 0.4) / 2, b (0.2 - 0.1) / 2, c 0; then a 0.4, b 0.2, c 0
    assert [g.affinity for g in found] == pytest.approx([0.05 / 3, 0.2, 0])


def test_unknown_affinity_counts_nothing() -> None:
    nan = math.nan
    found = propose_groups({"a": {"a": nan, "b": nan}, "b": {"a": 0.4, "b": nan}})
    assert [g.affinity for g in found] == pytest.approx([0.2, 0])


def test_all_splits_are_tried_of_up_to_8() -> None:
    tasks = [*"abcdefgh"]
    pairs = [{"a", "h"}, {"b", "g"}, {"c", "f"}, {"d", "e"}]
    affinity = {i: {j: 1.0 if {i, j} in pairs else -0.1 for j in tasks} for i in tasks}
    assert len(list(module.split(tasks))) == 4140
    found = propose_groups(affinity)
    assert len(found) == 8
    assert {frozenset(group) for group in found[3].groups} == {frozenset(pair) for pair in pairs}
    assert found[3].affinity == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"M243\] 9 tasks"):
        propose_groups({t: dict.fromkeys("abcdefghi", 0.0) for t in "abcdefghi"})
