"""Workflow `demo` from beginning to end, with few steps."""

import shutil
import subprocess
import sys
from pathlib import Path

import srsly

ROOT = Path(__file__).parents[1]
PROJECT = srsly.read_yaml(ROOT / "project.yml")


def test_workflows_name_commands_that_exist() -> None:
    commands = {command["name"] for command in PROJECT["commands"]}
    for workflow in PROJECT["workflows"].values():
        assert set(workflow) <= commands
    assert {"demo", "gum"} <= PROJECT["workflows"].keys()
    assert all("checksum" in asset for asset in PROJECT["assets"])


def test_sample_holds_what_the_readme_says() -> None:
    texts = "".join(
        (ROOT / "assets" / f"sample_{part}.conllu").read_text(encoding="utf8")
        for part in ("train", "dev", "test")
    )
    assert texts.count("# newdoc id") == 662
    assert len({line for line in texts.splitlines() if line.startswith("# category")}) == 6
    assert {
        line.split("NER=B-")[1].split("|")[0] for line in texts.splitlines() if "NER=B-" in line
    } == {
        "PERSON",
        "ORG",
        "PLACE",
        "DATE",
        "WORK",
    }


def test_demo(tmp_path: Path) -> None:
    for name in ("project.yml", "configs", "assets"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    command = [sys.executable, "-m", "spacy", "project", "run", "demo", "."]
    command += ["--vars.demo_steps", "4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = srsly.read_json(tmp_path / "metrics" / "sample.json")
    assert {"tag_acc", "ents_f", "cats_score"} <= scores.keys()
    assert "multi-task" in (tmp_path / "metrics" / "sample.md").read_text(encoding="utf8")
    assert "loaded from" in done.stdout and "en_mtl_sample-0.1.0" in done.stdout
