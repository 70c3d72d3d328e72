import io
import sys
from collections.abc import Callable
from itertools import combinations, count
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy
import pytest
import spacy
import srsly
from conftest import make_examples, make_gold
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config, registry

from spacy_mtl.training import logger as module
from spacy_mtl.training.logger import create_progress_logger_v1, get_stats, to_json

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
TASKS = ["tagger", "ner", "textcat"]
SCORES = ["tag_acc", "ents_f", "ents_p", "ents_r", "cats_score"]
WEIGHTS = {"tagger": 1.0, "ner": 2.0, "textcat": 0.5}
LOGGER = {"@loggers": "spacy-mtl.ProgressLogger.v1"}
SILENT = {"loss": None, "weight": None, "grad_norm": None, "updates": 0, "units": 0}
REPORTED = {**SILENT, "units": None}  # by a component without mtl_transformer
ONE_DOC = {"@batchers": "spacy.batch_by_sequence.v1", "size": 1, "get_length": None}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_pipeline(
    encoder: str,
    folder: Path,
    logger: dict[str, Any],
    labels: list[tuple[str, ...]] | None = None,
    **training: Any,
) -> Language:
    """Set up a training from configs/mtl_cpu.cfg: 4 docs, each a batch, and an evaluation every 4
    steps until step 8.

    labels (List[Tuple[str]]): The tasks that each doc has labels for, by default all.
    training: Settings of `[training]`.
    """
    vocab = spacy.blank("en").vocab
    golds = [make_gold(vocab, i, tasks) for i, tasks in enumerate(labels or [tuple(TASKS)] * 4)]
    DocBin(docs=golds).to_disk(folder / "corpus.spacy")
    settings = {"dropout": 0.0, "max_steps": 8, "eval_frequency": 4, "batcher": ONE_DOC}
    settings |= {"logger": logger, **training}
    overrides = {
        "paths.train": str(folder / "corpus.spacy"),
        "paths.dev": str(folder / "corpus.spacy"),
        "paths.encoder": encoder,
        "components.transformer.model.precision": "float32",
        "components.transformer.balancer": {
            "@misc": "spacy-mtl.StaticWeights.v1",
            "weights": WEIGHTS,
        },
        "training.optimizer.learn_rate.warmup_steps": 1,
        "training.optimizer.encoder_learn_rate.warmup_steps": 1,
    }
    overrides |= {f"training.{key}": value for key, value in settings.items()}
    config = load_config(CONFIG, overrides)
    config["initialize"]["components"] = {"ner": {"labels": ["ORG", "PERSON", "PLACE", "DATE"]}}
    return init_nlp(config)


def run(nlp: Language) -> list[str]:
    """Train, and return the lines that the loggers print."""
    stdout = io.StringIO()
    train(nlp, stdout=stdout, stderr=io.StringIO())
    lines = stdout.getvalue().splitlines()
    (start,) = [i for i, line in enumerate(lines) if "Initial learn rate" in line]
    return lines[start + 1 :]


def read_lines(path: Path) -> list[Any]:
    return list(srsly.read_jsonl(path))


def record_losses(nlp: Language) -> list[dict[str, list[float]]]:
    """Record the losses that each call of `nlp.update` adds, by dict of losses, and the
    words of each batch.
    """
    records: list[dict[str, list[float]]] = []
    sums: list[dict[str, float]] = []
    update = nlp.update

    def recording_update(examples, *, losses, **kwargs):
        if not sums or sums[-1] is not losses:
            sums.append(losses)
            records.append({key: [] for key in [*nlp.pipe_names, "words"]})
        before = dict(losses)
        update(examples, losses=losses, **kwargs)
        for task in losses:
            records[-1][task].append(losses[task] - before.get(task, 0.0))
        records[-1]["words"].append(sum(len(eg.predicted) for eg in examples))
        return losses

    nlp.update = recording_update  # type: ignore[method-assign]
    return records


def record_norms(nlp: Language) -> list[dict[str, float]]:
    """Record the norm of each task's gradient in each pass of the encoder."""
    records = []
    balancer = nlp.get_pipe("transformer").balancer  # type: ignore[attr-defined]
    combine = balancer.combine

    def recording_combine(batch):
        records.append({k: float(numpy.sqrt((g * g).sum())) for k, g in batch.gradients.items()})
        return combine(batch)

    balancer.combine = recording_combine
    return records


def record_cosines(nlp: Language) -> list[dict[str, float]]:
    """Record the cosine of each two tasks' gradients in each pass of the encoder, except of zero
    gradients.
    """
    records: list[dict[str, float]] = []
    balancer = nlp.get_pipe("transformer").balancer  # type: ignore[attr-defined]
    combine = balancer.combine

    def recording_combine(batch):
        rows = {k: g.astype("d").ravel() for k, g in batch.gradients.items() if g.any()}
        records.append(
            {
                f"{a}|{b}": float(
                    rows[a] @ rows[b] / numpy.sqrt(rows[a] @ rows[a] * (rows[b] @ rows[b]))
                )
                for a, b in combinations(sorted(rows), 2)
            }
        )
        return combine(batch)

    balancer.combine = recording_combine
    return records


def set_up(nlp: Language, **settings: Any) -> tuple[Callable[[Any], None], io.StringIO]:
    """The logger's `log_step` and its output."""
    stdout = io.StringIO()
    log_step, _ = create_progress_logger_v1(**settings)(nlp, stdout, io.StringIO())
    return log_step, stdout


def get_blocks(printed: list[str]) -> list[dict[str, list[str]]]:
    """Return the words of each line of a table, by evaluation and task. The first line of an
    evaluation has its epoch and step as "E" and "#" too.
    """
    blocks: list[dict[str, list[str]]] = []
    for line in printed[2:]:
        place, (task, *cells) = line[: 3 + 2 + 6].split(), line[3 + 2 + 6 :].split()
        if place:
            blocks.append(dict(zip(["E", "#"], [[part] for part in place], strict=True)))
        blocks[-1][task] = cells
    return blocks


def get_lines(stdout: io.StringIO) -> list[str]:
    return stdout.getvalue().splitlines()


def make_info(**settings: Any) -> dict[str, Any]:
    """The info of spaCy's training loop at an evaluation."""
    info = {"step": 0, "epoch": 0, "score": 0.5, "other_scores": {}, "losses": {}, "words": 10}
    return info | settings


def make_blank(*pipes: str, **training: Any) -> Language:
    nlp = spacy.blank("en")
    for pipe in pipes:
        nlp.add_pipe(pipe)
    nlp.config["training"].update(training)
    return nlp


class Run(NamedTuple):
    """A training run with the logger: its lines, its output, and values recorded independently."""

    nlp: Language
    path: Path
    lines: list[Any]
    printed: list[str]
    losses: list[dict[str, list[float]]]
    norms: list[dict[str, float]]
    cosines: list[dict[str, float]]


@pytest.fixture(scope="module")
def logged(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    path = folder / "logs" / "deep" / "run.jsonl"
    nlp = make_pipeline(encoder, folder, {**LOGGER, "output_file": str(path)})
    losses, norms, cosines = record_losses(nlp), record_norms(nlp), record_cosines(nlp)
    printed = run(nlp)
    return Run(nlp, path, read_lines(path), printed, losses, norms, cosines)


def test_lines(logged):
    keys = ["step", "epoch", "score", "scores", "tasks", "cosines", "words", "seconds"]
    assert [list(line) for line in logged.lines] == [[*keys, "words_per_second"]] * 3
    assert [(line["step"], line["epoch"]) for line in logged.lines] == [(0, 0), (4, 1), (8, 2)]
    for line in logged.lines:
        assert list(line["scores"]) == SCORES
        assert list(line["tasks"]) == TASKS
        assert {tuple(stats) for stats in line["tasks"].values()} == {module.STATS}


def test_lines_have_the_losses_of_update(logged):
    passes = [logged.norms[:1], logged.norms[1:5], logged.norms[5:]]
    for line, losses, norms, n in zip(logged.lines, logged.losses, passes, [1, 4, 4], strict=True):
        assert len(norms) == n
        for task, stats in line["tasks"].items():
            assert len(losses[task]) == n
            assert stats == {
                "loss": pytest.approx(numpy.mean(losses[task]), rel=1e-5),
                "weight": WEIGHTS[task],
                "grad_norm": pytest.approx(numpy.mean([norm[task] for norm in norms]), rel=1e-4),
                "updates": n,
                "units": n if task == "textcat" else sum(losses["words"]),
            }


def test_lines_have_the_cosines(logged):
    """Output layers start with zeros, so that the encoder's first gradient is 0."""
    assert logged.lines[0]["cosines"] == {}
    for line, records in zip(
        logged.lines[1:], [logged.cosines[1:5], logged.cosines[5:]], strict=True
    ):
        assert line["cosines"].keys() == {"ner|tagger", "ner|textcat", "tagger|textcat"}
        for pair, cosine in line["cosines"].items():
            mean = numpy.mean([record[pair] for record in records if pair in record])
            assert cosine == pytest.approx(mean, abs=1e-5)
            assert 1e-4 < abs(cosine) < 1


def test_lines_have_words_per_second(logged):
    words = numpy.cumsum([sum(record["words"]) for record in logged.losses])
    assert [line["words"] for line in logged.lines] == list(words)
    assert logged.lines[0]["words_per_second"] is None
    for before, line in zip(logged.lines, logged.lines[1:], strict=False):
        speed = (line["words"] - before["words"]) / (line["seconds"] - before["seconds"])
        assert line["words_per_second"] == pytest.approx(speed, rel=1e-5)


def test_lines_have_the_scores_of_evaluate(logged):
    expected = logged.nlp.evaluate(make_examples(logged.nlp))
    line = logged.lines[-1]
    assert line["scores"] == pytest.approx({key: expected[key] for key in SCORES})
    score = 0.33 * expected["tag_acc"] + 0.34 * expected["ents_f"] + 0.33 * expected["cats_score"]
    assert line["score"] == pytest.approx(score)


def test_table(logged):
    header, *_ = logged.printed
    assert header.split() == ["E", "#", "Task", "Loss", "Weight", "Grad", "Units", "Scores"]
    assert max(map(len, logged.printed)) <= 100
    for block, line in zip(get_blocks(logged.printed), logged.lines, strict=True):
        assert (block["E"], block["#"]) == ([str(line["epoch"])], [str(line["step"])])
        scores = {key: f"{100 * score:.2f}" for key, score in line["scores"].items()}
        for task, keys in (("tagger", SCORES[:1]), ("ner", SCORES[1:4]), ("textcat", SCORES[4:])):
            stats = line["tasks"][task]
            cells = [f"{stats['loss']:.4f}"]
            cells += [f"{stats['weight']:.3g}", f"{stats['grad_norm']:.3g}"]
            cells += [f"{stats['units'] / (4 if line['step'] else 1):.1f}"]
            assert block[task] == cells + [part for key in keys for part in (key, scores[key])]
        speed = line["words_per_second"]
        expected = ["score", f"{100 * line['score']:.2f}"]
        expected += [] if speed is None else [f"{speed:.0f}", "words/s"]
        assert block["all"][: len(expected)] == expected
        assert (block["all"][-1] == "left") is (line["step"] > 0)
    assert get_blocks(logged.printed)[-1]["all"][-2:] == ["00:00", "left"]


@pytest.mark.filterwarnings("ignore:.*W005")
def test_table_of_many_tasks():
    """Each task has a line, and scores that do not fit continue on the next line."""
    tasks = [f"head_{i}" for i in range(8)]
    nlp = spacy.blank("en")
    for task in tasks:
        nlp.add_pipe("tagger", name=task)
    nlp.add_pipe("ner", name="a_head_with_a_name")
    log_step, stdout = set_up(nlp)
    log_step(make_info(other_scores={"ents_f": 1.0, "ents_p": 1.0, "ents_r": 1.0}))
    lines = get_lines(stdout)
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[3:10]] == tasks[1:]
    assert [line.split() for line in lines[11:13]] == [
        ["ents_r", "100.00"],
        ["all", "score", "50.00"],
    ]


def test_lines_are_appended(logged):
    log_step, _ = set_up(logged.nlp, output_file=str(logged.path))
    log_step(make_info(step=100))
    assert [line["step"] for line in read_lines(logged.path)] == [0, 4, 8, 100]
    assert logged.path.read_text().count("\n") == 4


def test_quiet(encoder, tmp_path):
    path = tmp_path / "run.jsonl"
    logger = {**LOGGER, "console_output": False, "output_file": str(path)}
    assert run(make_pipeline(encoder, tmp_path, logger)) == []
    assert [line["step"] for line in read_lines(path)] == [0, 4, 8]


def test_silent_tasks_and_missing_scores(encoder, tmp_path):
    """Two docs have tags, all have a category, none has entities."""
    path = tmp_path / "run.jsonl"
    labels = [("tagger", "textcat")] * 2 + [("textcat",)] * 2
    nlp = make_pipeline(encoder, tmp_path, {**LOGGER, "output_file": str(path)}, labels)
    losses = record_losses(nlp)
    rows = get_blocks(run(nlp))
    for line, record, row in zip(read_lines(path), losses, rows, strict=True):
        spoken = [loss for loss in record["tagger"] if loss]
        mean = pytest.approx(numpy.mean(spoken), rel=1e-5) if spoken else None
        assert line["tasks"]["ner"] == SILENT
        assert line["tasks"]["tagger"]["loss"] == mean
        assert line["tasks"]["tagger"]["updates"] == len(spoken)
        assert line["tasks"]["textcat"]["updates"] == len(record["textcat"])
        assert [line["scores"][key] is None for key in SCORES] == [False, True, True, True, False]
        assert row["ner"] == [*"---", "0.0", "ents_f", "-", "ents_p", "-", "ents_r", "-"]
    assert sum(line["tasks"]["tagger"]["updates"] for line in read_lines(path)) in (4, 5)
    assert [line["cosines"].keys() for line in read_lines(path)[1:]] == [{"tagger|textcat"}] * 2


def test_accumulated_gradients(encoder, tmp_path):
    path = tmp_path / "run.jsonl"
    logger = {**LOGGER, "output_file": str(path)}
    batcher = {**ONE_DOC, "size": 4}
    nlp = make_pipeline(encoder, tmp_path, logger, batcher=batcher, accumulate_gradient=2)
    losses = record_losses(nlp)
    run(nlp)
    for line, record, n in zip(read_lines(path), losses, [2, 8, 8], strict=True):
        for task in TASKS:
            assert line["tasks"][task]["loss"] == pytest.approx(numpy.mean(record[task]), rel=1e-5)
            assert line["tasks"][task]["updates"] == len(record[task]) == n


def test_frozen_head(encoder, tmp_path):
    path = tmp_path / "run.jsonl"
    nlp = make_pipeline(encoder, tmp_path, {**LOGGER, "output_file": str(path)})
    nlp.config["training"]["frozen_components"] = ["ner"]
    assert "ner" not in get_blocks(run(nlp))[0]
    assert [list(line["tasks"]) for line in read_lines(path)] == [["tagger", "textcat"]] * 3


def test_disabled_head(encoder, tmp_path):
    path = tmp_path / "run.jsonl"
    nlp = make_pipeline(encoder, tmp_path, {**LOGGER, "output_file": str(path)})
    nlp.disable_pipe("textcat")
    with pytest.raises(ValueError, match=r"M257.*'cats_score'.*'ents_f'"):
        run(nlp)
    nlp.config["training"]["score_weights"]["cats_score"] = None
    rows = get_blocks(run(nlp))
    for line, row in zip(read_lines(path), rows, strict=True):
        assert list(line["tasks"]) == list(row)[2:-1] == ["tagger", "ner"]
        assert "cats_score" not in line["scores"]


def test_frozen_encoder(encoder, tmp_path):
    """Heads of a frozen encoder learn. Their losses are the reported ones."""
    path = tmp_path / "run.jsonl"
    nlp = make_pipeline(encoder, tmp_path, {**LOGGER, "output_file": str(path)})
    nlp.config["training"].update(
        {"frozen_components": ["transformer"], "annotating_components": ["transformer"]}
    )
    losses = record_losses(nlp)
    run(nlp)
    for line, record, n in zip(read_lines(path), losses, [1, 4, 4], strict=True):
        for task in TASKS:
            mean = pytest.approx(sum(record[task]) / n, rel=1e-5)
            assert line["tasks"][task] == {**REPORTED, "loss": mean, "updates": n}


def test_pipeline_without_shared_encoder(tmp_path):
    nlp = make_blank("tok2vec", "tagger", "doc_cleaner")
    path = tmp_path / "run.jsonl"
    log_step, stdout = set_up(nlp, output_file=str(path))
    info = make_info(losses={"tok2vec": 9.0, "tagger": numpy.float32(3.0)})
    for step in (None, None, info):
        log_step(step)
    expected = {"tagger": {**REPORTED, "loss": 1.0, "updates": 3}}
    assert [line["tasks"] for line in read_lines(path)] == [expected]
    assert info["tasks"] == expected
    assert info["cosines"] == read_lines(path)[0]["cosines"] == {}
    assert (info["tasks.tagger.loss"], info["tasks.tagger.updates"]) == (1.0, 3)
    assert "tasks.tagger.weight" not in info
    (block,) = get_blocks(get_lines(stdout))
    assert block["tagger"] == ["1.0000", *"---", "tag_acc", "-", "pos_acc", "-"]
    assert block["all"] == ["score", "50.00"]


def test_speed_and_time_left(monkeypatch, tmp_path):
    times = iter([100.0, 102.0, 110.0, 120.0])
    monkeypatch.setattr(module, "perf_counter", lambda: next(times))
    path = tmp_path / "run.jsonl"
    log_step, stdout = set_up(make_blank("tagger", max_steps=90), output_file=str(path))
    log_step(make_info(step=0, words=50))
    for _ in range(39):
        log_step(None)
    log_step(make_info(step=40, words=850))
    for _ in range(9):
        log_step(None)
    log_step(make_info(step=50, words=1000))
    lines = read_lines(path)
    assert [line["seconds"] for line in lines] == [2.0, 10.0, 20.0]
    assert [line["words"] for line in lines] == [50, 850, 1000]
    assert [line["words_per_second"] for line in lines] == [None, 100.0, 15.0]
    ends = [" ".join(block["all"][2:]) for block in get_blocks(get_lines(stdout))]
    assert ends == ["", "100 words/s 00:10 left", "15 words/s 00:40 left"]


def test_time_left_is_not_known_without_max_steps():
    log_step, stdout = set_up(make_blank("tagger", max_steps=0))
    log_step(make_info())
    log_step(make_info(step=1))
    assert ["left" in block["all"] for block in get_blocks(get_lines(stdout))] == [False, False]


def test_settings_by_reference():
    nlp = make_blank("tagger", max_steps="${system.seed}")
    nlp.config["system"]["seed"] = 7
    log_step, stdout = set_up(nlp)
    log_step(make_info())
    log_step(make_info(step=7))
    assert get_blocks(get_lines(stdout))[1]["all"][-2:] == ["00:00", "left"]


@pytest.mark.parametrize(
    ("scores", "cells", "line"),
    [
        ({"tag_acc": 0.5, "speed": 1234.4}, ["50.00", "1234"], [0.5, 1234.4]),
        ({"tag_acc": None, "ents_f": 1.0}, ["-", "-"], [None, None]),
        ({"tag_acc": numpy.float32(0.25)}, ["25.00", "-"], [0.25, None]),
        ({}, ["-", "-"], [None, None]),
    ],
)
def test_scores(scores, cells, line, tmp_path):
    nlp = make_blank("tagger")
    nlp.config["training"]["score_weights"] = {"tag_acc": 1.0, "speed": 0.0, "cats_score": None}
    path = tmp_path / "run.jsonl"
    log_step, stdout = set_up(nlp, output_file=str(path))
    log_step(make_info(other_scores=scores))
    (block,) = get_blocks(get_lines(stdout))
    assert block["tagger"][5:6] + block["all"][-1:] == cells
    expected = dict(zip(["tag_acc", "speed"], line, strict=True))
    assert read_lines(path)[0]["scores"] == expected | {"pos_acc": None}


def test_updates_before_the_training_do_not_count(make_nlp):
    nlp = make_nlp()
    sgd = nlp.create_optimizer()
    nlp.update(make_examples(nlp), sgd=sgd)
    log_step, _ = set_up(nlp)
    info = make_info(losses=nlp.update(make_examples(nlp), sgd=sgd))
    log_step(info)
    assert [info["tasks"][task]["updates"] for task in TASKS] == [1, 1, 1]


def test_cosines_before_the_training_do_not_count(make_nlp):
    nlp = make_nlp()
    sgd = nlp.create_optimizer()
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=sgd)
    log_step, _ = set_up(nlp)
    info = make_info(losses=nlp.update(make_examples(nlp, "ner"), sgd=sgd))
    log_step(info)
    assert info["cosines"] == {}
    info = make_info(losses=nlp.update(make_examples(nlp, "ner", "tagger"), sgd=sgd))
    nlp.get_pipe("transformer").flush()  # type: ignore[attr-defined]
    log_step(info)
    assert list(info["cosines"]) == ["ner|tagger"]


def test_diverged_training_is_logged(tmp_path):
    path = tmp_path / "run.jsonl"
    log_step, stdout = set_up(make_blank("tagger"), output_file=str(path))
    log_step(make_info(losses={"tagger": float("nan")}))
    assert get_blocks(get_lines(stdout))[0]["tagger"][0] == "nan"
    assert read_lines(path)[0]["tasks"]["tagger"] == {**REPORTED, "updates": 1}


def test_to_json():
    data = {"a": {"b": float("inf"), "c": 1.5}, "d": None, "e": "nan", "f": float("nan")}
    assert to_json(data) == {"a": {"b": None, "c": 1.5}, "d": None, "e": "nan", "f": None}


def test_get_stats():
    means = {"a": {"updates": 2, "loss": 0.5, "weight": 3.0, "grad_norm": 0.1, "units": 9}}
    assert get_stats(["a", "b", "c", "d"], means, {"a": 1.0, "b": 8.0, "c": 0.0}, 4) == {
        "a": {"loss": 0.5, "weight": 3.0, "grad_norm": 0.1, "updates": 2, "units": 9},
        "b": {**REPORTED, "loss": 2.0, "updates": 4},
        "c": SILENT,
        "d": SILENT,
    }


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        ("eval", ["Epoch 3:   0%", "0/5", "2/5"]),
        ("train", ["Epoch 3:  20%", "20/100", "22/100"]),
    ],
)
def test_progress_bar(kind, drawn, monkeypatch):
    """The bar is drawn at each step if the clock advances fast enough."""
    ticks = count(step=0.2)
    monkeypatch.setattr("tqdm.std.time", lambda: next(ticks))
    nlp = make_blank("tagger", max_steps=100, eval_frequency=5)
    stderr = Terminal()
    log_step, finalize = create_progress_logger_v1(kind)(nlp, io.StringIO(), stderr)
    log_step(None)
    assert stderr.getvalue() == ""
    log_step(make_info(step=20, epoch=3))
    log_step(None)
    log_step(None)
    finalize()
    assert all(part in stderr.getvalue() for part in drawn)
    assert stderr.getvalue().endswith(" \r")


def test_progress_bar_of_a_training_without_end():
    nlp = make_blank("tagger", max_steps=0)
    stderr = Terminal()
    log_step, finalize = create_progress_logger_v1("train")(nlp, io.StringIO(), stderr)
    log_step(make_info(step=20, epoch=3))
    finalize()
    assert "Epoch 3: 20it" in stderr.getvalue()


@pytest.mark.parametrize(
    ("settings", "stderr"),
    [
        ({"progress_bar": None}, Terminal()),
        ({"console_output": False}, Terminal()),
        ({}, io.StringIO()),
    ],
)
def test_no_progress_bar(settings, stderr):
    setup = create_progress_logger_v1(**settings)
    log_step, finalize = setup(make_blank(), io.StringIO(), stderr)
    log_step(make_info())
    log_step(None)
    finalize()
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("kind", ["step", "", "Eval"])
def test_unknown_progress_bar(kind):
    with pytest.raises(ValueError, match=r"M058.*progress_bar"):
        create_progress_logger_v1(kind)


def test_chained_lookup_logger(encoder, tmp_path):
    path = tmp_path / "run.jsonl"
    chain = {
        "@loggers": "spacy.ChainLogger.v1",
        "logger1": {**LOGGER, "output_file": str(path), "console_output": False},
        "logger2": {"@loggers": "spacy.LookupLogger.v1", "patterns": [r"^tasks\.ner", "^words$"]},
        "logger3": {"@loggers": "spacy.ConsoleLogger.v1", "progress_bar": False},
    }
    printed = run(make_pipeline(encoder, tmp_path, chain))
    found = [tuple(line.split(" -> ")) for line in printed if " -> " in line]
    expected = []
    for line in read_lines(path):
        expected.append(("words", line["words"]))
        expected += [(f"tasks.ner.{key}", value) for key, value in line["tasks"]["ner"].items()]
    assert len(expected) == 3 * (1 + len(module.STATS))
    assert [(key, float(value)) for key, value in found] == [
        (key, pytest.approx(value, rel=1e-5)) for key, value in expected
    ]


def test_chained_tracker(encoder, tmp_path, monkeypatch):
    """Trackers take single numbers only. For `ner` only the counts are known."""
    mlflow = MagicMock()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    tracker = {"@loggers": "spacy.MLflowLogger.v2", "log_custom_stats": [r"^tasks\."]}
    chain = {"@loggers": "spacy.ChainLogger.v1", "logger1": LOGGER, "logger2": tracker}
    run(make_pipeline(encoder, tmp_path, chain, [("tagger", "textcat")] * 4))
    logged = [call.args[0] for call in mlflow.log_metrics.call_args_list]
    custom = [stats for stats in logged if "tasks.ner.updates" in stats]
    keys = [f"tasks.{task}.{key}" for task in ("tagger", "textcat") for key in module.STATS]
    silent = ["tasks.ner.updates", "tasks.ner.units"]
    assert [list(stats) for stats in custom] == [[*keys[:5], *silent, *keys[5:]]] * 3
    for stats, n in zip(custom, [1, 4, 4], strict=True):
        assert all(type(value) in (int, float) for value in stats.values())
        assert stats["tasks.textcat.weight"] == WEIGHTS["textcat"]
        assert (stats["tasks.tagger.updates"], stats["tasks.ner.updates"]) == (n, 0)


def test_registered():
    assert registry.loggers.get("spacy-mtl.ProgressLogger.v1") is create_progress_logger_v1
