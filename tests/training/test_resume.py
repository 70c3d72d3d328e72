import errno
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import STOCK_MODELS, build_encoder, make_gold
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train as train_with_spacy
from spacy.util import load_config
from thinc.api import Config

from spacy_mtl.encoder.runtime.cpu.capability import get_choice, use_choice
from spacy_mtl.encoder.runtime.cpu.kernels import TrainingKernels
from spacy_mtl.files import NEW
from spacy_mtl.training import resume
from spacy_mtl.training.loop import CHECKPOINT, train
from spacy_mtl.training.resume import (
    find_kernels,
    get_machine,
    get_random_states,
    read_checkpoint,
    set_pipe_states,
    set_random_states,
)

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
LOWER = {"@augmenters": "spacy.lower_case.v1", "level": 0.5}
KEEP = {"@schedules": "compounding.v1", "start": 1.0, "stop": 0.5, "compound": 0.95}
STATIC = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"ner": KEEP}}
STOP = {"@misc": "spacy-mtl.EarlyStopping.v1", "balancer": STATIC, "patience": {"textcat": 1}}
CLOCK = ("seconds", "words_per_second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder that has dropout, and a corpus of 24 docs."""
    folder = tmp_path_factory.mktemp("resume")
    build_encoder("bert", folder / "encoder", dropout=0.1)
    vocab = spacy.blank("en").vocab
    docs = []
    for i in range(24):
        gold = make_gold(vocab, i % 4)
        doc = Doc(vocab, words=[f"word{i}", *[token.text for token in gold[1:]]])
        doc.from_array(
            ["TAG", "ENT_IOB", "ENT_TYPE"], gold.to_array(["TAG", "ENT_IOB", "ENT_TYPE"])
        )
        doc.cats = dict(gold.cats)
        docs.append(doc)
    DocBin(docs=docs).to_disk(folder / "corpus.spacy")
    DocBin(docs=docs[:8]).to_disk(folder / "other.spacy")
    return folder


def make_config(folder: Path, **overrides: Any) -> Config:
    """A config with batches of about 4 docs, in which every feature is used within 9 steps."""
    settings = {
        "paths.train": str(folder / "corpus.spacy"),
        "paths.dev": str(folder / "other.spacy"),
        "paths.encoder": str(folder / "encoder"),
        "components.transformer.model.precision": "float32",
        "components.tagger.loss": {"@misc": "spacy-mtl.UnitLoss.v1", "keep": KEEP},
        "training.batcher.size": 60,
        "training.batcher.tokenizer": None,
        "training.optimizer.average": 0.9,
        "training.optimizer.learn_rate.warmup_steps": 4,
        "training.optimizer.encoder_learn_rate.warmup_steps": 2,
        "training.accumulate_gradient": 2,
        "training.max_steps": 9,
        "training.eval_frequency": 3,
    }
    config = load_config(CONFIG)
    for key, value in (settings | overrides).items():
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[name] = value
    return config


def init_with_loggers(config: Config) -> Language:
    config = config.copy()
    config["training"]["logger"] = {
        "@loggers": "spacy.ChainLogger.v1",
        "logger1": {"@loggers": "spacy-mtl.ProgressLogger.v1", "output_file": "log"},
        "logger2": {"@loggers": "spacy-mtl.TaskCheckpoints.v1"},
    }
    return init_nlp(config)


def run(config: Config, output: Path, *, stop: int | None = None, resumes: bool = False) -> str:
    """Train as a new process would.

    stop (Optional[int]): The step, from 0, that Ctrl-C interrupts.
    resumes (bool): Whether to resume from the checkpoint.
    RETURNS (str): The printed messages.
    """
    nlp = init_with_loggers(config)
    output.mkdir(exist_ok=True)
    past = read_checkpoint(output / CHECKPOINT, nlp) if resumes else None
    if stop:
        press_ctrl_c(nlp, stop, start=past["step"] + 1 if past else 0)
    stdout = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(output)
        try:
            train(nlp, output, past, stdout=stdout, stderr=io.StringIO())
        except KeyboardInterrupt:
            assert stop
    return stdout.getvalue()


def press_ctrl_c(nlp: Language, stop: int, start: int = 0) -> None:
    pipe: Any = nlp.get_pipe("transformer")
    finish_update, steps = pipe.finish_update, count(start)

    def finish_or_stop(sgd: Any) -> None:
        if next(steps) == stop:
            raise KeyboardInterrupt
        finish_update(sgd)

    pipe.finish_update = finish_or_stop


def get_files(folder: Path, *names: str) -> dict[str, bytes]:
    """All files of the pipelines, byte by byte."""
    found = [path for name in names or ("model-*", "pareto.json") for path in folder.glob(name)]
    paths = [path for start in found for path in [start, *start.rglob("*")]]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.is_file()}


def get_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of the log without times."""
    rows = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def assert_same(found: Path, expected: Path) -> None:
    assert get_log(found) == get_log(expected)
    files = get_files(expected)
    assert {"model-best/meta.json", "model-last/ner/model", "model-best-ner/ner/cfg"} <= set(files)
    assert get_files(found) == files


def make_mixed(folder: Path) -> dict[str, Any]:
    files = {"one": "corpus.spacy", "other": "other.spacy"}
    corpora = {name: make_corpus(folder, file) for name, file in files.items()}
    return {
        "@readers": "spacy-mtl.MixedCorpus.v1",
        "corpora": corpora,
        "tasks": {"other": ["ner"]},
        "sampling": "uniform",
        "epochs": 0,
        "seed": 5,
    }


def make_corpus(folder: Path, file: str = "corpus.spacy") -> dict[str, Any]:
    reader = {"@readers": "spacy.Corpus.v1", "gold_preproc": False, "path": str(folder / file)}
    return {**reader, "augmenter": LOWER}


def endless_mix(folder: Path) -> Config:
    return make_config(
        folder,
        **{
            "corpora.train": make_mixed(folder),
            "training.max_epochs": -1,
            "components.transformer.balancer": {"@misc": "spacy-mtl.GradNorm.v1"},
        },
    )


def epochs(folder: Path) -> Config:
    """Seven updates in an epoch, in another order each time."""
    balancer = {"@misc": "spacy-mtl.UncertaintyWeights.v1", "learn_rate": 0.1}
    return make_config(
        folder,
        **{"corpora.train": make_corpus(folder), "components.transformer.balancer": balancer},
    )


def stopped_task(folder: Path) -> Config:
    """Early stopping stops the categories, and batch sizes are a schedule."""
    size = {"@schedules": "compounding.v1", "start": 20.0, "stop": 60.0, "compound": 1.02}
    batcher = {"@batchers": "spacy.batch_by_words.v1", "size": size, "tolerance": 0.2}
    return make_config(
        folder,
        **{
            "components.transformer.balancer": STOP,
            "training.batcher": {**batcher, "discard_oversize": False},
        },
    )


def stock_heads(folder: Path) -> Config:
    """A stream and a stock head that both draw random numbers in each step."""
    config = make_config(
        folder, **{"corpora.train": make_corpus(folder), "training.max_epochs": -1}
    )
    config["components"]["ner"] = {"factory": "ner", "model": STOCK_MODELS["ner"]}
    config["training"]["optimizer"] = {"@optimizers": "RAdam.v1", "use_averages": False}
    return config


TRAININGS = [endless_mix, epochs, stopped_task, stock_heads]
Make = Callable[[Path], Config]


@pytest.fixture(scope="module")
def get_whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], Path]:
    """A function that returns the output of an uninterrupted run. It trains once per config."""

    @cache
    def get_output(make: Make) -> Path:
        output = tmp_path_factory.mktemp(make.__name__)
        run(make(folder), output)
        return output

    return get_output


@pytest.fixture(scope="module")
def stopped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that was stopped."""
    output = tmp_path_factory.mktemp("stopped")
    run(epochs(folder), output, stop=5)
    return output


@pytest.mark.parametrize("make", TRAININGS)
def test_stopped_trainings_become_the_same(
    make: Make, folder: Path, tmp_path: Path, get_whole: Callable[[Make], Path]
) -> None:
    config, whole, parts = make(folder), get_whole(make), tmp_path / "parts"
    run(config, parts, stop=5)
    assert get_files(parts) != get_files(whole) and len(get_log(parts)) == 2
    run(config, parts, stop=8, resumes=True)
    assert len(get_log(parts)) == 3
    run(config, parts, resumes=True)
    assert [row["step"] for row in get_log(whole)] == [0, 3, 6, 9]
    assert_same(parts, whole)


def test_kernels_of_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run uses the kernels of the first run, then restores this CPU's choice."""
    own, seen = get_choice(), []
    other = replace(own, tiled_attention=not own.tiled_attention)
    config = make_config(folder, **{"training.max_steps": 3})
    use_choice(other)
    try:
        run(config, tmp_path, stop=2)
    finally:
        use_choice(None)
    embedding = TrainingKernels.embedding
    monkeypatch.setattr(
        TrainingKernels,
        "embedding",
        lambda *args, **kwargs: seen.append(get_choice()) or embedding(*args, **kwargs),
    )
    run(config, tmp_path, resumes=True)
    assert set(seen) == {other} and get_choice() == own
    plain = read_checkpoint(tmp_path / CHECKPOINT, init_nlp(config))
    assert plain["machine"]["kernels"] == asdict(other)


def test_a_checkpoint_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, machine = get_choice(), get_machine()
    assert find_kernels(json.loads(json.dumps(machine))) == kernels
    n = machine["threads"]
    with pytest.warns(UserWarning, match=rf"W010.*: threads = {n + 1}, not {n}\."):
        assert find_kernels({**machine, "threads": n + 1}) == kernels
    monkeypatch.setattr(resume, "can_run", lambda choice, cpu: False)
    all_of_them = dict.fromkeys(machine["kernels"], True)
    with pytest.warns(UserWarning, match=r"W010.*: kernels\.\w+ = True, not False"):
        assert find_kernels({**machine, "kernels": all_of_them}) == kernels


def test_the_categories_have_stopped(folder: Path, get_whole: Callable[[Make], Path]) -> None:
    nlp = init_nlp(stopped_task(folder))
    past = read_checkpoint(get_whole(stopped_task) / CHECKPOINT, nlp)
    set_pipe_states(nlp, past["pipes"])
    tagger, ner, textcat = (nlp.get_pipe(name) for name in ("tagger", "ner", "textcat"))
    assert textcat.is_frozen and not ner.is_frozen  # type: ignore[attr-defined]
    assert tagger.cfg["loss_steps"] == 10  # type: ignore[attr-defined]


def test_trains_as_spacy_does(
    folder: Path, tmp_path: Path, get_whole: Callable[[Make], Path]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        train_with_spacy(init_with_loggers(endless_mix(folder)), tmp_path, stdout=io.StringIO())
    assert_same(get_whole(endless_mix), tmp_path)
    assert (get_whole(endless_mix) / CHECKPOINT).is_file()


def test_without_an_output(folder: Path, tmp_path: Path) -> None:
    nlp = init_nlp(make_config(folder, **{"training.max_steps": 1}))
    before = nlp.to_bytes()
    train(nlp, stdout=io.StringIO())
    assert nlp.to_bytes() != before


def test_a_finished_training(folder: Path, tmp_path: Path) -> None:
    """A run that ended at step 7 after an evaluation at step 6 repeats no update."""
    config = epochs(folder)
    for name in ("learn_rate", "encoder_learn_rate"):  # or they would know the end
        config["training"]["optimizer"][name]["total_steps"] = 9
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(config, whole)
    config["training"]["max_steps"] = 7
    run(config, parts)
    files = get_files(parts, "*")
    shutil.rmtree(parts / "model-last" / "ner")  # as a stop while it was written could
    assert "finished at step 7" in run(config, parts, resumes=True)
    assert get_files(parts, "*") == files
    config["training"]["max_steps"] = 5
    with pytest.raises(ValueError, match=r"M064.*at step 7, .* max_steps = 5\."):
        run(config, parts, resumes=True)
    assert get_files(parts, "*") == files
    config["training"]["max_steps"] = 9
    assert "Saved pipeline" in run(config, parts, resumes=True)
    assert get_log(parts) == get_log(whole)
    assert get_files(parts, "model-last") == get_files(whole, "model-last")


def test_a_kill_while_writing_loses_nothing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    get_whole: Callable[[Make], Path],
) -> None:
    config, whole, parts = epochs(folder), get_whole(epochs), tmp_path / "parts"
    save, writes = torch.save, count()

    def save_or_stop(state: Any, file: Any) -> None:
        save(state, file)
        if hasattr(file, "name") and next(writes) == 2:
            file.truncate(1000)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_or_stop)
        run(config, parts, stop=99)
    assert len(get_log(parts)) == 3
    (parts / f"{CHECKPOINT}{NEW}").write_bytes(b"half")
    # A row that was on its way to the disk as well.
    with (parts / "log").open("a") as file:
        file.write('{"step": 9, "ep')
    run(config, parts, resumes=True)
    assert_same(parts, whole)
    assert not list(parts.glob(f"*{NEW}"))


def test_a_full_disk_leaves_what_was_there(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    get_whole: Callable[[Make], Path],
) -> None:
    config, whole, parts = epochs(folder), get_whole(epochs), tmp_path / "parts"
    to_disk, writes = Language.to_disk, count()

    def fill_disk(nlp: Language, path: Path, **kwargs: Any) -> None:
        to_disk(nlp, path, **kwargs)
        if next(writes) >= 2:
            (path / "config.cfg").unlink()
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Language, "to_disk", fill_disk)
        with pytest.raises(ValueError, match=r"M091.*model-last.*No space left on device"):
            run(config, parts)
    assert next(writes) == 3  # it is not tried again at the end
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}
    assert (parts / "model-last" / "config.cfg").is_file()
    run(config, parts, resumes=True)
    assert_same(parts, whole)


def test_a_new_training_forgets_the_last(folder: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    assert (tmp_path / CHECKPOINT).is_file()
    nlp = init_nlp(epochs(folder))
    nlp.update = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TypeError):
        train(nlp, tmp_path, stdout=io.StringIO())
    assert not (tmp_path / CHECKPOINT).is_file()


def test_a_log_of_another_training_stays(folder: Path, tmp_path: Path) -> None:
    config = epochs(folder)
    (tmp_path / "log").write_text('{"step": 99}\n')
    run(config, tmp_path, stop=2)
    run(config, tmp_path, resumes=True)
    assert [row["step"] for row in get_log(tmp_path)] == [99, 0, 3, 6, 9]
    (tmp_path / "log").unlink()  # what it has logged is in the checkpoint too
    run(config, tmp_path, resumes=True)
    assert [row["step"] for row in get_log(tmp_path)] == [0, 3, 6, 9]


def test_another_config(folder: Path, stopped: Path) -> None:
    config = epochs(folder)
    config["training"]["dropout"] = 0.5
    config["components"]["textcat"]["model"]["pooling"] = "max"
    message = r'M060(.|\n)*\ntraining.dropout = 0.5, not 0.1\n.*pooling = "max", not "mean"\n'
    with pytest.raises(ValueError, match=message):
        run(config, stopped, resumes=True)


def test_what_may_change(folder: Path, stopped: Path) -> None:
    config = epochs(folder)
    config["training"] |= {"max_steps": 99, "patience": 7, "max_epochs": 4}
    config["training"]["logger"] = {"@loggers": "spacy.ConsoleLogger.v3"}
    assert read_checkpoint(stopped / CHECKPOINT, init_nlp(config))["step"] == 3
    config["training"]["max_epochs"] = -1  # another stream
    config["initialize"]["components"] = {}
    with pytest.raises(ValueError, match=r"M060(.|\n)*training.max_epochs < 0 = true, not false"):
        read_checkpoint(stopped / CHECKPOINT, init_nlp(config))


@pytest.mark.parametrize("length", [0, 1000, -1000])
def test_a_checkpoint_that_is_cut_off(
    folder: Path, stopped: Path, tmp_path: Path, length: int
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes((stopped / CHECKPOINT).read_bytes()[:length])
    with pytest.raises(ValueError, match="M061"):
        read_checkpoint(path, spacy.blank("en"))


def test_a_checkpoint_with_a_wrong_bit(stopped: Path, tmp_path: Path) -> None:
    content = bytearray((stopped / CHECKPOINT).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match=r"M061.*wrong checksum"):
        read_checkpoint(tmp_path / CHECKPOINT, spacy.blank("en"))


def test_a_checkpoint_of_an_older_format(stopped: Path, tmp_path: Path) -> None:
    content = torch.load(stopped / CHECKPOINT, weights_only=True)
    content["plain"] = content["plain"].replace('"format": 2', '"format": 1', 1)
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"M061.*format 1"):
        read_checkpoint(tmp_path / CHECKPOINT, spacy.blank("en"))


@pytest.mark.parametrize("content", [{}, {"plain": "{}"}, {"plain": '{"format": 99}'}, [1]])
def test_no_checkpoint_at_all(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="M061"):
        read_checkpoint(tmp_path / CHECKPOINT, spacy.blank("en"))


def test_nothing_is_run_that_stands_in_the_file(tmp_path: Path) -> None:
    torch.save({"plain": run}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="M061"):
        read_checkpoint(tmp_path / CHECKPOINT, spacy.blank("en"))


@pytest.mark.parametrize("n, reason", [(20, "words until step 0, not"), (24, "other sizes")])
def test_other_corpora(folder: Path, tmp_path: Path, n: int, reason: str) -> None:
    """Corpora of the same name with fewer docs, or with a new tag, are refused."""
    path, output = tmp_path / "corpus.spacy", tmp_path / "out"
    path.write_bytes((folder / "corpus.spacy").read_bytes())
    config = make_config(folder, **{"paths.train": str(path)})
    run(config, output, stop=2)
    files = get_files(output)
    docs = list(DocBin().from_disk(path).get_docs(spacy.blank("en").vocab))
    if n == len(docs):
        docs[-1][0].tag_ = "NEW"
    DocBin(docs=docs[:n]).to_disk(path)
    with pytest.raises(ValueError, match=f"M062.*{reason}"):
        run(config, output, resumes=True)
    assert get_files(output) == files


def test_random_states() -> None:
    states = json.loads(json.dumps(get_random_states()))

    def draw() -> list[Any]:
        normal = [random.gauss(0, 1), numpy.random.normal(), float(torch.randn(()))]
        return [*normal, random.random(), numpy.random.random(), torch.rand(3).tolist()]

    first = draw()
    assert draw() != first
    set_random_states(states)
    assert draw() == first
