"""The process of a trial."""

import sys
import time
from pathlib import Path

import pytest
from thinc.api import Config

from spacy_mtl.files import locking
from spacy_mtl.search import trial
from spacy_mtl.search.trial import TrialProcess, main

SCRIPT = """
import os, sys
print(sys.argv[1:], os.environ["COLOR"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialProcess:
    command = [sys.executable, "-c", SCRIPT]
    monkeypatch.setattr(trial, "get_command", lambda folder: [*command, str(folder)])
    config = Config({"training": {"logger": {"@loggers": "own.v1"}}})
    return TrialProcess(tmp_path / "a" / "0", config, ["--gpu-id", "0"], {"COLOR": "blue"})


def test_a_process_and_its_files(process: TrialProcess) -> None:
    folder = process.folder
    config = Config().from_disk(folder / "config.cfg")
    assert config["training"]["logger"]["output_file"] == str(folder / "log.jsonl")
    assert process.read_evaluations() == []
    lines = ('{"step": 0, "score": null, "scores": {}}', '{"step": 2, "score": 0.5, "scores": {}}')
    (folder / "log.jsonl").write_text("\n".join([*lines, '{"step": 4, "sc']))
    assert [(e.step, e.score) for e in process.read_evaluations()] == [(2, 0.5)]
    while not (folder / "output.txt").read_text():
        time.sleep(0.01)
    assert process.get_exit_code() is None
    process.stop()
    process.stop()
    assert process.get_exit_code() == -9
    first, second = process.describe_failure().splitlines()
    assert "killed by signal 9" in first and "memory" in first
    assert second == f"['{folder}', '--gpu-id', '0'] blue"


def test_the_command_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "exit_with_parent", lambda: None)
    monkeypatch.setattr(trial, "WAIT", 0.0)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("spacy.cli._util.setup_cli", lambda: None)
    main(tmp_path, ["--gpu-id", "0"])
    assert sys.argv[1:4] == ["mtl", "train", str(tmp_path / "config.cfg")]
    assert sys.argv[4:] == ["-o", str(tmp_path), "--resume", "--gpu-id", "0"]
    with locking(tmp_path):
        with pytest.raises(ValueError, match="M274"):
            main(tmp_path, [])
