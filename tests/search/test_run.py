"""Trials side by side: crashes, pruning, stops and kills."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_gold, run_spacy
from spacy.tokens import DocBin
from spacy.util import load_config
from spacy.vocab import Vocab

from spacy_mtl.files import locking
from spacy_mtl.search.run import Running, Search, owning
from spacy_mtl.search.study import find_resumed, get_outcomes

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
GOOD = {"dropout": 0.0, "mode": "works"}


def works(dropout: float) -> dict[str, Any]:
    return {"dropout": dropout, "mode": "works"}


def get_starts(folder: Path) -> dict[str, list[str]]:
    """RETURNS (Dict[str, List[str]]): How each trial was started, by folder."""
    paths = sorted(folder.glob("trials/*/starts.txt"))
    return {path.parent.name: path.read_text().split() for path in paths}


def test_a_crash_is_one_failed_trial(make_plan: Callable, open_plan: Callable) -> None:
    """The first trials run at the same time; the scores are those of the best evaluation."""
    plan = make_plan(trials=4, workers=2)
    study = open_plan(plan, works(0.5), {**GOOD, "mode": "crashes"}, {**GOOD, "mode": "killed"})
    lines: list[str] = []
    study.enqueue_trial(works(0.25))
    assert Search(study, plan, lines.append).run() is None
    outcomes = get_outcomes(study)
    assert [o.state for o in outcomes] == ["complete", "failed", "failed", "complete"]
    assert outcomes[0].score == 0.5
    assert (outcomes[3].score, outcomes[3].step) == (0.75, 4)
    assert outcomes[3].scores == {"first": 0.75, "second": 1.0}
    assert "exit code 1" in outcomes[1].error and "this trial crashes" in outcomes[1].error
    assert "signal 9" in outcomes[2].error and "memory" in outcomes[2].error
    assert any("best 75.00 (trial 3)" in line for line in lines)
    assert any("crashes" in line and "left, about" in line for line in lines)
    # of the pipelines only those that may be chosen stay
    kept = [path.parent.name for path in sorted(plan.folder.glob("trials/*/model-*"))]
    assert kept == ["3"]
    assert list(plan.folder.glob("trials/*/checkpoint")) == []


def test_the_first_trial_is_the_config_itself(make_plan: Callable, open_plan: Callable) -> None:
    plan = make_plan(trials=1)
    study = open_plan(plan)
    Search(study, plan, print).run()
    assert [dict(o.params) for o in get_outcomes(study)] == [works(0.25)]


def test_a_bad_trial_is_pruned_while_it_runs(make_plan: Callable, open_plan: Callable) -> None:
    plan = make_plan(trials=6)
    bad = {"dropout": 0.9, "mode": "hangs"}
    study = open_plan(plan, *map(works, (0.1, 0.2, 0.3, 0.2, 0.1)), bad)
    Search(study, plan, print).run()
    last = get_outcomes(study)[-1]
    assert (last.state, last.step) == ("pruned", 2)
    assert not (plan.get_trial_folder("5") / "checkpoint").exists()


def test_with_several_objectives_nothing_is_pruned(
    make_plan: Callable, open_plan: Callable
) -> None:
    plan = make_plan(trials=6, is_pareto=True)
    study = open_plan(plan, *map(works, (0.1, 0.2, 0.3, 0.2, 0.1, 0.9)))
    Search(study, plan, print).run()
    assert {o.state for o in get_outcomes(study)} == {"complete"}
    assert sorted(study.best_trials[0].values) == [0.9, 1.0]


def test_if_all_trials_fail(make_plan: Callable, open_plan: Callable) -> None:
    """A few trials are enough to see that the space breaks all."""
    plan = make_plan(trials=20)
    study = open_plan(plan, *[{**GOOD, "mode": "crashes"}] * 4)
    with pytest.raises(
        ValueError, match=r"M268.*Every trial failed \(3\)(.|\n)*this trial crashes"
    ):
        Search(study, plan, print).run()
    with pytest.raises(ValueError, match=r"M268"):
        Search(study, plan, print).run()
    assert len(get_outcomes(study)) == 3


def test_a_stop_is_continued(make_plan: Callable, open_plan: Callable) -> None:
    """Trials that ran at Ctrl-C or at the timeout go on from their checkpoints."""
    plan = make_plan(trials=3, workers=2)
    study = open_plan(plan, works(0.5), {"dropout": 0.25, "mode": "hangs"})

    def stop(line: str) -> None:
        while not (plan.get_trial_folder("1") / "checkpoint").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    assert Search(study, plan, stop).run() == "Ctrl-C"
    assert [o.number for o in get_outcomes(study)] == [0]
    study = open_plan(plan)
    study.enqueue_trial({"dropout": 0.1, "mode": "hangs"})
    plan.timeout = 0.6
    assert Search(study, plan, print).run() == "timeout"
    plan.timeout = None
    lines: list[str] = []
    assert Search(open_plan(plan), plan, lines.append).run() is None
    outcomes = get_outcomes(study)
    assert [(o.folder, o.state, o.params["dropout"]) for o in outcomes[:2]] == [
        ("0", "complete", 0.5),
        ("1", "complete", 0.25),
    ]
    assert len(outcomes) == 3
    starts = get_starts(plan.folder)
    assert starts["0"] == ["new"] and starts["1"] == ["new", "resumed"]


def test_trials_of_a_killed_search(make_plan: Callable, open_plan: Callable) -> None:
    """In a study of several folders only their own trials are dead."""
    plan = make_plan(trials=3, is_shared=True)
    study = open_plan(plan)
    search = Search(study, plan, print)
    own, other = study.ask(), study.ask()
    for trial, owner in ((own, search.owner), (other, "other")):
        trial.set_user_attr("owner", owner)
        plan.space.suggest(trial, plan.config)
    own_params = dict(own.params)
    folder = plan.get_trial_folder(str(own.number))
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_text("")
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "trials", 2)
        Search(study, plan, lines.append).run()
    assert lines[0].endswith("continued: 1")
    assert find_resumed(study) == {own.number}
    assert [(o.folder, dict(o.params)) for o in get_outcomes(study)] == [("0", own_params)]
    assert study.trials[other.number].state.name == "RUNNING"
    assert get_starts(plan.folder) == {"0": ["resumed"]}


def test_a_folder_of_another_study_is_not_continued(
    make_plan: Callable, open_plan: Callable
) -> None:
    plan = make_plan(trials=1)
    folder = plan.get_trial_folder("0")
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_text("")
    Search(open_plan(plan), plan, print).run()
    assert get_starts(plan.folder) == {"0": ["new"]}


def test_one_search_per_folder(tmp_path: Path) -> None:
    with owning(tmp_path / "new" / "out"):
        with pytest.raises(ValueError, match=r"M274.*Another process searches in .*out"):
            with owning(tmp_path / "new" / "out"):
                pass


def test_kill_the_search_and_a_trial(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really trained: nothing is lost, and nothing runs twice."""
    corpus, space, out = tmp_path / "c.spacy", tmp_path / "space.cfg", tmp_path / "out"
    DocBin(docs=[make_gold(Vocab(), i) for i in range(4)]).to_disk(corpus)
    space.write_text('[dropout]\ntype = "float"\npath = "training.dropout"\nlow = 0\nhigh = 0.5\n')
    settings: dict[str, Any] = {
        **{"output": out, "paths.train": corpus, "paths.dev": corpus, "paths.encoder": encoder},
        **{"training.max_steps": 4, "training.eval_frequency": 2, "training.batcher.size": 20},
        "components.transformer.model.precision": "float32",
    }
    command = ["mtl", "tune", str(CONFIG), str(space), "-n", "2"]
    command += [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
    first, second = (out / "trials" / name for name in "02")  # trial 1 continues trial 0
    search = subprocess.Popen([sys.executable, "-m", "spacy", *command], stdout=subprocess.DEVNULL)
    while not (first / "checkpoint").exists():
        assert search.poll() is None
        time.sleep(0.05)
    search.kill()
    search.wait()
    with locking(first, 20) as has_ended:
        assert has_ended  # the trial, too

    advance = Search.advance

    def kill_second(self: Search, one: Running) -> None:
        if one.process.folder == second:
            os.kill(one.process.process.pid, signal.SIGKILL)
        advance(self, one)

    monkeypatch.setattr(Search, "advance", kill_second)
    output = run_spacy(*command)
    assert "Stopped trials that are continued: 1" in output
    assert "Trial 2: failed (killed by signal 9" in output
    _, *rows = csv.reader((out / "trials.csv").read_text().splitlines())
    assert [row[:2] for row in rows] == [["1", "complete"], ["2", "failed"]]
    lines = (first / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 2, 4]
    log = " ".join((first / "output.txt").read_text().split())
    assert log.count("a new run starts") == 1 and log.count("Resuming after step") == 1
    # the first trial has the values of the config
    assert load_config(out / "best.cfg")["training"]["dropout"] == 0.1
