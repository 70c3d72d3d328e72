"""The workflow `demo`, from the sample to the installed wheel, with few docs and steps."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import srsly
import weasel.cli.run
from conftest import run_spacy

ROOT = Path(__file__).parents[1]
PROJECT = srsly.read_yaml(ROOT / "project.yml")
PARTS = ("train", "dev", "test")


def read_sample(part: str) -> str:
    return (ROOT / "assets" / f"sample_{part}.conllu").read_text(encoding="utf8")


def test_workflows_name_commands_that_exist() -> None:
    commands = {command["name"] for command in PROJECT["commands"]}
    for workflow in PROJECT["workflows"].values():
        assert set(workflow) <= commands
    assert {"demo", "gum"} <= PROJECT["workflows"].keys()
    assert all("checksum" in asset for asset in PROJECT["assets"])


def test_the_readme_describes_the_sample() -> None:
    texts = "".join(map(read_sample, PARTS))
    assert texts.count("# newdoc id") == 662
    assert len({line for line in texts.splitlines() if line.startswith("# category")}) == 6
    assert {
        line.split("NER=B-")[1].split("|")[0] for line in texts.splitlines() if "NER=B-" in line
    } == {"PERSON", "ORG", "PLACE", "DATE", "WORK"}


def run_command(command: list[str], capture: bool) -> None:
    """Run a command of the project: in this process if it is one of `python -m spacy`."""
    if command[:3] == [sys.executable, "-m", "spacy"]:
        print(run_spacy(*command[3:]))
    else:
        print(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("project.yml", "configs", "assets"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    for part in PARTS:
        docs = read_sample(part).split("# newdoc id")[:61]
        path = tmp_path / "assets" / f"sample_{part}.conllu"
        path.write_text("# newdoc id".join(docs), encoding="utf8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weasel.cli.run, "run_command", run_command)
    output = run_spacy("project", "run", "demo", ".", "--vars.demo_steps", "2")
    scores = srsly.read_json(tmp_path / "metrics" / "sample.json")
    assert {"tag_acc", "ents_f", "cats_score"} <= scores.keys()
    assert "multi-task" in (tmp_path / "metrics" / "sample.md").read_text(encoding="utf8")
    assert "loaded from" in output and "en_mtl_sample-0.1.0" in output
