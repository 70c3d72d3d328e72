import io
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import make_gold
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config, registry

from spacy_mtl.balancing.early_stopping import create_early_stopping_v1
from spacy_mtl.balancing.static import create_static_weights_v1
from spacy_mtl.training.checkpoints import create_task_checkpoints_v1
from spacy_mtl.training.logger import create_progress_logger_v1
from spacy_mtl.training.scoreboard import (
    ScoreBoard,
    check_score_weights,
    find_keys,
    find_score_keys,
)

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
TASKS = ["tagger", "ner", "textcat"]
KEYS = {"tagger": "tag_acc", "ner": "ents_f", "textcat": "cats_score"}


@pytest.fixture
def nlp() -> Language:
    nlp = spacy.blank("en")
    for task in TASKS:
        nlp.add_pipe(f"mtl_{task}", name=task)
    return nlp


def test_scores_of_the_tasks(nlp: Language) -> None:
    board = ScoreBoard(nlp, find_keys(nlp, {"ner": "ents_r"}))
    assert board.keys == {**KEYS, "ner": "ents_r"}
    scores = {"tag_acc": numpy.float32(0.5), "ents_f": 0.1, "ents_r": 0.25, "cats_score": None}
    expected = {"tagger": 0.5, "ner": 0.25}
    assert board.publish(scores) == nlp.meta["task_scores"] == expected
    assert json.loads(json.dumps(nlp.meta))["task_scores"] == expected
    assert board.publish({}) == nlp.meta["task_scores"] == {}


def test_saved_with_the_pipeline(nlp: Language, tmp_path: Path) -> None:
    ScoreBoard(nlp, find_keys(nlp, {})).publish({"tag_acc": 0.5})
    nlp.remove_pipe("ner")
    nlp.remove_pipe("textcat")
    nlp.get_pipe("tagger").add_label("X")  # type: ignore[attr-defined]
    nlp.to_disk(tmp_path, exclude=["tagger"])
    assert json.loads((tmp_path / "meta.json").read_text())["task_scores"] == {"tagger": 0.5}


def test_the_last_logger_is_listened_to(nlp: Language) -> None:
    """Its keys decide, and each evaluation counts once."""
    balancer = create_early_stopping_v1(create_static_weights_v1(), {"ner": 2})
    nlp.add_pipe("mtl_transformer", first=True).balancer = balancer  # type: ignore[attr-defined]
    progress = create_progress_logger_v1(console_output=False)(nlp, io.StringIO(), io.StringIO())
    follow = create_task_checkpoints_v1({"ner": "ents_r"})(nlp, io.StringIO(), io.StringIO())
    stopped = []
    for step, (f, r) in enumerate([(0.1, 0.5), (0.2, 0.5), (0.3, 0.4)]):
        info = {"step": step, "epoch": 0, "score": 0.0, "losses": {}, "words": 1}
        info["other_scores"] = {"ents_f": f, "ents_r": r}
        for log_step, _ in (progress, follow):
            log_step(info)
        stopped.append(list(balancer.stopped))
        assert nlp.meta["task_scores"] == {"ner": r}
    assert stopped == [[], [], ["ner"]]
    assert nlp.get_pipe("ner").is_frozen  # type: ignore[attr-defined]


def make_training(encoder: str, folder: Path, logger: str) -> Language:
    """A training run with dynamic sampling of two corpora: one has tags, one has entities."""
    vocab = spacy.blank("en").vocab
    path = str(folder / "corpus.spacy")
    DocBin(docs=[make_gold(vocab, i) for i in range(4)]).to_disk(path)
    reader = {"@readers": "spacy.Corpus.v1", "path": path, "gold_preproc": False}
    overrides = {
        "paths.dev": path,
        "paths.encoder": encoder,
        "components.transformer.model.precision": "float32",
        "training.max_epochs": -1,
        "training.max_steps": 6,
        "training.eval_frequency": 2,
        "training.logger": {"@loggers": logger},
        "training.batcher": {"@batchers": "spacy.batch_by_sequence.v1", "size": 50},
    }
    config = load_config(CONFIG, overrides)
    config["corpora"]["train"] = {
        "@readers": "spacy-mtl.MixedCorpus.v1",
        "sampling": "dynamic",
        "epochs": 0,
        "tasks": {"tags": ["tagger"], "ents": ["ner"]},
        "corpora": {"tags": reader, "ents": reader},
    }
    labels = {"tagger": ["NNP", "."], "ner": ["PERSON"], "textcat": ["travel", "food"]}
    config["initialize"]["components"] = {task: {"labels": own} for task, own in labels.items()}
    return init_nlp(config)


def record_batches(nlp: Language) -> list[list[Example]]:
    batches: list[list[Example]] = []

    def update(examples: list[Example], *, losses: dict[str, float], **_: Any) -> None:
        batches.append(examples)
        losses.update(dict.fromkeys(nlp.pipe_names, 0.0))

    nlp.update = update  # type: ignore[assignment, method-assign]
    return batches


def set_scores(nlp: Language, *scores: dict[str, float]) -> None:
    """Replace the results of the next evaluations."""
    found: Iterator[dict[str, float]] = iter(scores)
    nlp.evaluate = lambda examples: next(found)  # type: ignore[assignment, method-assign]


def count_tagged(batches: list[list[Example]]) -> list[int]:
    counts = []
    for batch in batches:
        kinds = Counter(eg.reference.has_annotation("TAG") for eg in batch)
        assert kinds.total() == 50
        counts.append(kinds[True])
    return counts


@pytest.mark.parametrize("logger", ["spacy-mtl.ProgressLogger.v1", "spacy-mtl.TaskCheckpoints.v1"])
def test_a_training_draws_by_its_scores(encoder: str, tmp_path: Path, logger: str) -> None:
    """Each evaluation, after the steps 0, 2, 4 and 6, counts for all later batches."""
    nlp = make_training(encoder, tmp_path, logger)
    batches = record_batches(nlp)
    shares = [(1.0, 0.5), (0.6, 0.6), (0.8, 1.0), (0.5, 0.5)]
    set_scores(nlp, *({"tag_acc": tags, "ents_f": ents} for tags, ents in shares))
    train(nlp, stdout=io.StringIO(), stderr=io.StringIO())
    counts = count_tagged(batches)
    # of 50, in proportion to 1:1, 0.01:0.5, 0.4:0.4 and 0.2:0.01
    expected = [25, 1, 1, 25, 25, 47.6, 47.6]
    assert len(counts) == 7
    for found, mean in zip(counts, expected, strict=True):
        assert abs(found - mean) <= 4 * (mean * (50 - mean) / 50) ** 0.5


def test_a_warning_without_a_logger_that_tells(encoder: str, tmp_path: Path) -> None:
    nlp = make_training(encoder, tmp_path, "spacy.ConsoleLogger.v3")
    batches = record_batches(nlp)
    set_scores(nlp, *[{"tag_acc": 0.99, "ents_f": 0.0}] * 4)
    with pytest.warns(UserWarning, match=r"W004.*sampling = 'dynamic' stays uniform") as warned:
        train(nlp, stdout=io.StringIO(), stderr=io.StringIO())
    assert len(warned) == 1
    assert all(10 < n < 40 for n in count_tagged(batches))


def test_what_was_evaluated_before_is_no_reason_to_warn(encoder: str, tmp_path: Path) -> None:
    nlp = make_training(encoder, tmp_path, "spacy.ConsoleLogger.v3")
    nlp.meta["performance"] = {"tag_acc": 0.9}
    reader = registry.resolve(nlp.config.interpolate()["corpora"])["train"]
    assert len(list(islice(reader(nlp), 20))) == 20


def test_two_tasks_with_one_score() -> None:
    """spaCy keeps the score of the last head, so neither has a score of its own."""
    nlp = spacy.blank("en")
    for name in ("topic", "mood"):
        nlp.add_pipe("mtl_textcat", name=name)
    nlp.add_pipe("mtl_tagger", name="tagger")
    with pytest.warns(UserWarning, match=r"W005.*\['topic', 'mood'\] is 'cats_score'"):
        assert find_keys(nlp, {}) == {"tagger": "tag_acc"}
    nlp.config["training"]["score_weights"] = {"mood_score": 1.0}
    found = find_keys(nlp, {"mood": "mood_score"})
    assert found == {"topic": "cats_score", "mood": "mood_score", "tagger": "tag_acc"}


def test_a_score_that_no_head_gives(nlp: Language) -> None:
    """A weight of null is allowed. Frozen heads give scores too."""
    weights = nlp.config["training"]["score_weights"]
    nlp.config["training"]["score_weights"] = {**weights, "dep_las": None, "speed": 0.0}
    nlp.config["training"]["frozen_components"] = ["ner"]
    with nlp.select_pipes(disable=["ner"]):
        ScoreBoard(nlp, {})
    nlp.config["training"]["score_weights"] = {**weights, "ents_f1": 0.5, "dep_las": 0.0}
    with pytest.raises(ValueError, match=r"M257.*'ents_f1', 'dep_las'.*'ents_f'.*'tag_acc'"):
        ScoreBoard(nlp, {})


def test_a_scorer_that_needs_examples(nlp: Language) -> None:
    """Nothing is known about the scores then, so nothing is checked."""
    nlp.get_pipe("ner").scorer = lambda examples, **kwargs: {"x": 1 / len(examples)}  # type: ignore[attr-defined]
    nlp.config["training"]["score_weights"] = {"x": 1.0}
    assert find_score_keys(nlp) == set()
    check_score_weights(nlp)


def test_scores_of_several_heads_of_a_kind(make_nlp: Any) -> None:
    nlp = make_nlp("people=mtl_ner", "ner")
    assert {"ents_f", "people_ents_f", "ner_ents_f"} <= find_score_keys(nlp)
    nlp.config["training"]["score_weights"] = {"people_ents_f": 1.0}
    check_score_weights(nlp)
