import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import make_gold
from spacy.tokens import Doc, DocBin
from spacy.util import load_config
from spacy.vocab import Vocab

from spacy_mtl.corpora.documents import get_document, set_document
from spacy_mtl.validation.cv import INTERRUPTED, CrossValidation, Fold, Processes
from spacy_mtl.validation.names import CONFIG

MTL = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
# Four texts stand for all documents.
pytestmark = pytest.mark.filterwarnings("ignore:.W132:UserWarning")


def make_docs(n: int = 24) -> list[Doc]:
    """Make docs of which two in a row are of one document."""
    docs = [make_gold(Vocab(), i % 4, ("tagger", "ner", "textcat")) for i in range(n)]
    for i, doc in enumerate(docs):
        set_document(doc, f"d{i // 2}")
    return docs


def make_cv(output: Path, **settings: Any) -> CrossValidation:
    config = load_config(MTL, interpolate=False)
    return CrossValidation(config, make_docs(), output, **{"k": 3, **settings})


def read_parts(cv: CrossValidation, fold: Fold) -> dict[str, list[Doc]]:
    cv.prepare(fold)
    folder = cv.get_folder(fold).parent
    return {
        part: list(DocBin().from_disk(folder / f"{part}.spacy").get_docs(Vocab()))
        for part in ("train", "dev", "test")
    }


def test_no_document_is_in_two_parts(tmp_path: Path) -> None:
    cv = make_cv(tmp_path, repeats=2)
    tested = []
    for fold in cv.list_folds():
        parts = read_parts(cv, fold)
        ids = {part: {get_document(doc) for doc in docs} for part, docs in parts.items()}
        assert all(ids.values())
        assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 12
        assert sum(map(len, parts.values())) == 24
        tested += ids["test"]
    assert sorted(tested) == sorted([f"d{i}" for i in range(12)] * 2)
    assert cv.folds[0].tolist() != cv.folds[1].tolist()


def test_each_doc_by_itself(tmp_path: Path) -> None:
    cv = make_cv(tmp_path, group_by="none")
    parts = read_parts(cv, Fold(0, 0))
    ids = {part: {get_document(doc) for doc in docs} for part, docs in parts.items()}
    assert ids["train"] & ids["test"]


def test_command_and_config(tmp_path: Path) -> None:
    cv = make_cv(tmp_path, is_single=True, options=["--gpu-id", "-1"])
    command = cv.prepare(Fold(0, 1))
    folder = tmp_path / "folds" / "1-2" / "multi"
    assert command == [
        *(sys.executable, "-m", "spacy", "mtl", "train", str(folder / CONFIG)),
        *("--output", str(folder), "--resume", "--gpu-id", "-1"),
    ]
    config = load_config(folder / CONFIG, interpolate=False)
    assert config["paths"]["train"] == str(folder.parent / "train.spacy")
    assert config["corpora"]["dev"]["path"] == "${paths.dev}"
    assert config["components"] == cv.config["components"]


def test_single_tasks(tmp_path: Path) -> None:
    cv = make_cv(tmp_path, is_single=True)
    cv.config["components"]["transformer"]["balancer"] = {
        "@misc": "spacy-mtl.StaticWeights.v1",
        "weights": {"tagger": 1.0, "ner": 2.0},
    }
    names = ["multi", "tagger", "ner", "textcat"]
    assert [fold.model for fold in cv.list_folds()] == names * 3
    cv.prepare(Fold(0, 0, "ner"))
    config = load_config(tmp_path / "folds" / "1-1" / "ner" / CONFIG)
    assert config["nlp"]["pipeline"] == ["transformer", "ner"]
    assert [*config["components"]] == ["transformer", "ner"]
    assert "weights" not in config["components"]["transformer"]["balancer"]
    weights = config["training"]["score_weights"]
    assert "ents_f" in weights and not {"tag_acc", "cats_score"} & weights.keys()
    assert [fold.model for fold in make_cv(tmp_path / "two").list_folds()] == ["multi"] * 3


def test_settings_are_compared(tmp_path: Path) -> None:
    make_cv(tmp_path)
    make_cv(tmp_path, repeats=3, is_single=True)
    with pytest.raises(ValueError, match=r"M280.* another number of folds"):
        make_cv(tmp_path, k=4)
    with pytest.raises(ValueError, match=r"M280.* another --group-by"):
        make_cv(tmp_path, group_by="none")
    config = load_config(MTL, interpolate=False, overrides={"training.dropout": 0.2})
    with pytest.raises(ValueError, match=r"M280.* another config"):
        CrossValidation(config, make_docs(), tmp_path, 3)
    config = load_config(MTL, interpolate=False)
    with pytest.raises(ValueError, match=r"M280.* another data"):
        CrossValidation(config, make_docs(20), tmp_path, 3)


def test_settings_do_not_depend_on_the_process(tmp_path: Path) -> None:
    """Nor on the order in which strings were added to the vocab."""
    make_cv(tmp_path)
    docs = make_docs()
    vocab = Vocab(strings=["first", *reversed([*docs[0].vocab.strings])])
    bytes_data = DocBin(docs=docs, store_user_data=True).to_bytes()
    again = [*DocBin().from_bytes(bytes_data).get_docs(vocab)]
    CrossValidation(load_config(MTL, interpolate=False), again, tmp_path, 3)
    set_document(again[0], "other")
    with pytest.raises(ValueError, match=r"M280.* another data"):
        CrossValidation(load_config(MTL, interpolate=False), again, tmp_path, 3)


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"M276.*12 documents.* 13 folds"):
        make_cv(tmp_path / "a", k=13)
    assert make_cv(tmp_path / "a").k == 3  # the wrong number was not kept
    with pytest.raises(ValueError, match=r"M277.*'heads'.*'tags', 'ents', 'cats'"):
        make_cv(tmp_path / "b", stratify="heads")
    config = load_config(MTL, interpolate=False)
    config["paths"] = {"encoder": "minilm"}
    with pytest.raises(ValueError, match=r"M282"):
        CrossValidation(config, make_docs(), tmp_path / "c")


def test_stratify_one_task(tmp_path: Path) -> None:
    cv = make_cv(tmp_path, stratify="cats")
    assert [*cv.layers] == ["cats"]


def test_process(tmp_path: Path) -> None:
    processes = Processes(3)
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS']); sys.exit(4)"
    assert processes.run([sys.executable, "-c", code], tmp_path / "log") == 4
    assert (tmp_path / "log").read_text().strip().isdigit()
    assert not processes.running


def start(processes: Processes, command: list[str], log: Path) -> tuple[Thread, list[int]]:
    """RETURNS: The thread of a process that has begun, and the place for its exit code."""
    codes: list[int] = []
    thread = Thread(target=lambda: codes.append(processes.run(command, log)))
    thread.start()
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    return thread, codes


# Background jobs of a shell ignore SIGINT, and so do their children unless they say otherwise.
CODE = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
print(1, flush=True)
time.sleep(60)
"""
SLEEP = [sys.executable, "-S", "-c", CODE]


def test_processes_are_interrupted(tmp_path: Path) -> None:
    """Also one that begins after the stop."""
    processes = Processes(1)
    thread, codes = start(processes, SLEEP, tmp_path / "log")
    processes.stop()
    thread.join(30)
    assert len(codes) == 1 and codes[0]
    assert processes.run(SLEEP, tmp_path / "other")


def test_a_surviving_process_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacy_mtl.validation.cv.WAIT", 0.01)
    survivor, later, log = Processes(1), Processes(1), tmp_path / "log"
    thread, _ = start(survivor, SLEEP, log)
    codes: list[int] = []
    waiting = Thread(target=lambda: codes.append(later.run([sys.executable, "-S", "-c", ""], log)))
    waiting.start()
    waiting.join(0.2)
    assert not codes and not later.running
    survivor.stop()
    waiting.join(30)
    thread.join(30)
    assert codes == [0]


def test_waiting_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacy_mtl.validation.cv.WAIT", 0.01)
    survivor, later, log = Processes(1), Processes(1), tmp_path / "log"
    thread, _ = start(survivor, SLEEP, log)
    later.stop()
    assert later.run(SLEEP, log) == INTERRUPTED
    survivor.stop()
    thread.join(30)


def test_tasks_and_their_scores(tmp_path: Path) -> None:
    scores = {name: task.score for name, task in make_cv(tmp_path).tasks.items()}
    assert scores == {"tagger": "tag_acc", "ner": "ents_f", "textcat": "cats_score"}
