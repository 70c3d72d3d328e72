import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import encoder_weights, make_examples, make_gold
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Corpus
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config

from spacy_mtl.encoder.training_pass import PassResult
from spacy_mtl.training.checkpoints import create_task_checkpoints_v1, find_best, find_front

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
TASKS = ["tagger", "ner", "textcat"]
KEYS = {"tagger": "tag_acc", "ner": "ents_f", "textcat": "cats_score"}
FOLLOW = {"@loggers": "spacy-mtl.TaskCheckpoints.v1"}
PROGRESS = {"@loggers": "spacy-mtl.ProgressLogger.v1"}
STOP = {"@misc": "spacy-mtl.EarlyStopping.v1", "balancer": {"@misc": "spacy-mtl.StaticWeights.v1"}}


def make_pipeline(
    encoder: str, folder: Path, balancer: dict[str, Any] | None = None, **training: Any
) -> Language:
    """A training of 4 docs, evaluated in each step of 8, with the loggers chained."""
    vocab = spacy.blank("en").vocab
    (folder / "out").mkdir()
    DocBin(docs=[make_gold(vocab, i) for i in range(4)]).to_disk(folder / "corpus.spacy")
    chain = {"@loggers": "spacy.ChainLogger.v1", "logger1": {"@loggers": "spacy.ConsoleLogger.v3"}}
    settings = {"max_steps": 7, "eval_frequency": 1, "logger": {**chain, "logger2": FOLLOW}}
    overrides = {
        "paths.train": str(folder / "corpus.spacy"),
        "paths.dev": str(folder / "corpus.spacy"),
        "paths.encoder": encoder,
        "components.transformer.model.precision": "float32",
        "training.optimizer.learn_rate.warmup_steps": 1,
        "training.optimizer.encoder_learn_rate.warmup_steps": 1,
    }
    overrides |= {f"training.{key}": value for key, value in (settings | training).items()}
    config = load_config(CONFIG, overrides)
    if balancer:
        config["components"]["transformer"]["balancer"] = balancer
    return init_nlp(config)


def make_logger(nlp: Language, **scores: str) -> Callable[..., None]:
    return create_task_checkpoints_v1(scores)(nlp, io.StringIO(), io.StringIO())[0]


def make_info(step: int, **scores: float | None) -> dict[str, Any]:
    return {"step": step, "other_scores": {KEYS[task]: value for task, value in scores.items()}}


def get_head(nlp: Language, name: str) -> Any:
    return nlp.get_pipe(name)


def test_checkpoints_of_a_training(encoder: str, tmp_path: Path) -> None:
    nlp = make_pipeline(encoder, tmp_path)
    output = tmp_path / "out"
    train(nlp, output, stdout=io.StringIO(), stderr=io.StringIO())
    names = {"model-best", "model-last", *(f"model-best-{task}" for task in TASKS)}
    assert {path.name for path in output.iterdir()} == {*names, "pareto.json"}
    found = json.loads((output / "pareto.json").read_text())
    assert found["keys"] == KEYS and set(found["best"]) == set(TASKS)
    for task, key in KEYS.items():
        folder = output / f"model-best-{task}"
        score = spacy.load(folder).evaluate(list(Corpus(tmp_path / "corpus.spacy")(nlp)))[key]
        meta = json.loads((folder / "meta.json").read_text())
        assert meta["performance"][key] == pytest.approx(score)
        assert max(e["scores"][task] for e in found["front"]) == pytest.approx(score)
    # the tags are learnt first, and are kept from then on
    assert found["best"]["tagger"] > 0


def test_a_copy_for_each_new_best(tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    for name in TASKS[:2]:
        nlp.add_pipe(f"mtl_{name}", name=name)
    log_step = make_logger(nlp)
    (tmp_path / "model-best-ner").mkdir()
    (tmp_path / "model-best-ner" / "of_another_training").touch()
    last = tmp_path / "model-last"
    last.mkdir()
    scores = [(0.1, 0.5), (0.3, 0.4), (0.2, 0.5), (0.2, None)]
    for step, (tags, ents) in enumerate(scores):
        (last / "step").write_text(str(step))
        log_step(make_info(step, tagger=tags, ner=ents) | {"output_path": str(last)})
        log_step(None)
    assert (tmp_path / "model-best-tagger" / "step").read_text() == "1"
    assert (tmp_path / "model-best-ner" / "step").read_text() == "0"
    assert [path.name for path in (tmp_path / "model-best-ner").iterdir()] == ["step"]
    assert json.loads((tmp_path / "pareto.json").read_text()) == {
        "keys": {"tagger": "tag_acc", "ner": "ents_f"},
        "best": {"tagger": 1, "ner": 0},
        "front": [
            {"step": 1, "scores": {"tagger": 0.3, "ner": 0.4}},
            {"step": 2, "scores": {"tagger": 0.2, "ner": 0.5}},
        ],
    }


def test_without_an_output_nothing_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    nlp = spacy.blank("en")
    nlp.add_pipe("mtl_tagger", name="tagger")
    make_logger(nlp)(make_info(0, tagger=0.5))
    assert not list(tmp_path.iterdir())


def test_front() -> None:
    points = [(1, 1), (2, 1), (1, 2), (2, 1), (0, 3), (0, 0)]
    evaluations = [{"step": i, "scores": {"a": a, "b": b}} for i, (a, b) in enumerate(points)]
    assert [e["step"] for e in find_front(evaluations)] == [1, 2, 4]
    assert find_best(evaluations) == {"a": 1, "b": 4}
    only_a = {"step": 6, "scores": {"a": 9}}
    assert [e["step"] for e in find_front([*evaluations, only_a])] == [1, 2, 4, 6]
    assert find_front([]) == []


def test_another_score() -> None:
    nlp = spacy.blank("en")
    for name in TASKS:
        nlp.add_pipe(f"mtl_{name}", name=name)
    for scores in ({"parser": "tag_acc"}, {"ner": "ents_x"}):
        with pytest.raises(ValueError, match=r"M043.*\['tagger', 'ner', 'textcat'\]"):
            make_logger(nlp, **scores)
    make_logger(nlp, ner="ents_r")


# Early stopping


@pytest.mark.parametrize("loggers", [[FOLLOW], [PROGRESS], [PROGRESS, FOLLOW]])
def test_a_stopped_task_is_frozen(
    encoder: str, tmp_path: Path, loggers: list[dict[str, Any]]
) -> None:
    """Scores stay 0 at a learning rate of 0: all tasks except the tagger stop. Loggers in
    a chain count each evaluation once.
    """
    balancer = {**STOP, "patience": {"ner": 2, "textcat": 3}}
    chain = {f"logger{i}": logger for i, logger in enumerate(loggers, 1)}
    training = {
        "optimizer.learn_rate.initial_rate": 0.0,
        "max_steps": 4,
        "logger": {"@loggers": "spacy.ChainLogger.v1", **chain},
    }
    nlp = make_pipeline(encoder, tmp_path, balancer, **training)
    updates: dict[str, list[float]] = {task: [] for task in TASKS}
    take = get_head(nlp, "transformer").diagnostics.add

    def record(result: PassResult) -> None:
        for task in TASKS:
            updates[task].append(result.weights.get(task, -1.0))
        take(result)

    get_head(nlp, "transformer").diagnostics.add = record
    train(nlp, tmp_path / "out", stdout=io.StringIO(), stderr=io.StringIO())
    # the evaluation after the first update is the first best
    assert updates == {
        "tagger": [1.0] * 5,
        "ner": [1.0] * 3 + [-1.0] * 2,
        "textcat": [1.0] * 4 + [-1.0],
    }
    assert [get_head(nlp, task).is_frozen for task in TASKS] == [False, True, True]
    loaded = spacy.load(tmp_path / "out" / "model-last")
    state = get_head(loaded, "transformer").balancer.state_dict()
    assert state["stopped"] == ["ner", "textcat"] and state["balancer"] == {"steps": 5}
    # and stays so in a training that goes on with it
    assert not get_head(loaded, "ner").is_frozen
    make_logger(loaded)
    assert [get_head(loaded, task).is_frozen for task in TASKS] == [False, True, True]


def test_a_warning_without_a_logger_that_tells(encoder: str, tmp_path: Path) -> None:
    console = {"@loggers": "spacy.ConsoleLogger.v3"}
    nlp = make_pipeline(encoder, tmp_path, {**STOP, "patience": {"ner": 1}}, logger=console)
    nlp.config["training"]["max_steps"] = 2
    with pytest.warns(UserWarning, match=r"W004.*EarlyStopping.v1 stops no task") as found:
        train(nlp, stdout=io.StringIO(), stderr=io.StringIO())
    assert len(found) == 1
    assert get_head(nlp, "transformer").balancer.stopped == []


def test_a_frozen_head_learns_nothing(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("tagger", "ner")
    optimizer = nlp.create_optimizer()
    for _ in range(2):
        nlp.update(make_examples(nlp), sgd=optimizer)
    get_head(nlp, "ner").is_frozen = True
    before = get_head(nlp, "ner").model.to_bytes(), encoder_weights(nlp)
    losses = nlp.update(make_examples(nlp), sgd=optimizer, losses={})
    get_head(nlp, "transformer").flush()
    assert get_head(nlp, "ner").model.to_bytes() == before[0]
    assert encoder_weights(nlp) != before[1]
    assert losses["ner"] == 0.0 < losses["tagger"]
