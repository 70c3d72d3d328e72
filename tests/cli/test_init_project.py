"""`spacy mtl init project`: from own files to an installed wheel."""

import re
from pathlib import Path
from typing import Any

import pytest
import srsly
import weasel.cli.run
from conftest import run_spacy
from test_project import PROJECT, read_sample, run_command
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli


def init_project(*args: object) -> Any:
    return CliRunner().invoke(mtl_cli, ["init", "project", *map(str, args)])


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A file of 40 documents, in a folder with a space in its name."""
    path = tmp_path / "my files" / "sample.conllu"
    path.parent.mkdir()
    path.write_text("# newdoc id".join(read_sample("train").split("# newdoc id")[:41]), "utf8")
    return path


def test_all_commands_work(
    sample: Path, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my-project"
    options = ["--tasks", "tagger,ner,textcat", "--train", sample, "--encoder", encoder]
    result = init_project(folder, *options, "--convert", "--category category")
    assert result.exit_code == 0, result.output
    assert (folder / "assets" / "train" / "sample.conllu").exists()
    assert "every tenth document" in (folder / "README.md").read_text(encoding="utf8")
    config = folder / "configs" / "config.cfg"
    text = config.read_text(encoding="utf8")
    config.write_text(re.sub("(?m)^(max_steps|eval_frequency) = .*", r"\1 = 2", text), "utf8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(weasel.cli.run, "run_command", run_command)
    output = run_spacy("project", "run", "all", ".")
    assert "loaded from" in output and "en_my_project-0.1.0" in output
    assert {"tag_acc", "ents_f", "cats_score"} <= srsly.read_json("metrics/scores.json").keys()
    assert "tag_acc" in Path("metrics/report.md").read_text(encoding="utf8")


def test_project_has_the_shape_of_the_repositorys(sample: Path, tmp_path: Path) -> None:
    """The commands of workflow `demo`, in the same order, with the same keys."""
    assert init_project(tmp_path / "new", "--tasks", "ner", "--train", sample).exit_code == 0
    project = srsly.read_yaml(tmp_path / "new" / "project.yml")
    ours = {command["name"]: command for command in PROJECT["commands"]}
    demo = PROJECT["workflows"]["demo"]
    assert project["workflows"]["all"] == [name.removesuffix("-sample") for name in demo]
    assert project["directories"] == PROJECT["directories"]
    for command, name in zip(project["commands"], demo, strict=True):
        assert command.keys() == ours[name].keys()
        tool, expected = (c["script"][0].split()[:3] for c in (command, ours[name]))
        assert tool == expected


def test_several_corpora(sample: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.conllu"
    other.write_text("", "utf8")
    corpora = [f"a={sample}:tagger", f"b={sample},{other},{other}:ner"]
    result = init_project(tmp_path / "new", "--corpora", *corpora)
    assert result.exit_code == 0, result.output
    project = srsly.read_yaml(tmp_path / "new" / "project.yml")
    commands = {command["name"]: command for command in project["commands"]}
    converts = commands["convert"]["script"]
    assert len(converts) == 4
    assert "corpus/a_train.spacy --dev corpus/a_dev.spacy" in converts[0]
    assert commands["evaluate"]["outputs"] == ["metrics/a.json", "metrics/b.json"]
    assert "corpus/b_test.spacy" in commands["evaluate"]["script"][1]
    assert all((tmp_path / "new" / path).exists() for path in commands["convert"]["deps"])
    config = (tmp_path / "new" / "configs" / "config.cfg").read_text(encoding="utf8")
    assert 'b_dev = "corpus/b_dev.spacy"' in config


def test_wrong_arguments(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    cases = [
        (["new", "--tasks", "ner"], "M260"),
        (["new", "--tasks", "ner", "--train", tmp_path / "gone"], "M101"),
        (["new", "--tasks", "ner", "--train", sample, "--train", sample], "M259"),
        (["new", "--tasks", "nothing", "--train", sample], "M250"),
        (["new", "--corpora", "a=x:ner", "--dev", sample], "M255"),
        (["new", "--corpora", "a=:ner"], "M260"),
        (["full", "--tasks", "ner", "--train", sample], "M256"),
    ]
    offenders = []
    for (folder, *args), code in cases:
        result = init_project(tmp_path / str(folder), *args)
        if result.exit_code != 1 or code not in result.output:
            offenders.append((args, result.output, result.exception))
    assert offenders == []


def test_options_of_convert_for_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,mood\n" + "so,x,good\n" * 20, "utf8")
    (tmp_path / "b.jsonl").write_text('{"text": "so", "entities": []}\n' * 20, "utf8")
    corpora = [f"moods={tmp_path / 'a.csv'}:textcat", f"names={tmp_path / 'b.jsonl'}:ner"]
    options = ["--corpora", *corpora, "--convert", "moods=--category mood", "--convert", "-w 9"]
    result = init_project(tmp_path / "new", *options)
    assert result.exit_code == 0, result.output
    project = srsly.read_yaml(tmp_path / "new" / "project.yml")
    assert project["vars"]["convert_moods"] == "--category mood -w 9"
    assert project["vars"]["convert_names"] == "-w 9"
    assert "${vars.convert_moods}" in project["commands"][0]["script"][0]
    wrong = init_project(tmp_path / "other", "--corpora", *corpora, "--convert", "mood=-w 9")
    assert wrong.exit_code == 1 and "M261" in wrong.output and "'moods'" in wrong.output
