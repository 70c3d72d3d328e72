from pathlib import Path

import pytest
import spacy
import srsly
from conftest import make_examples
from spacy.cli._util import app
from spacy.cli.evaluate import evaluate
from spacy.tokens import DocBin
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.cli.report import report
from spacy_mtl.report.table import make_table


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two files of scores, with the same name."""
    runs = {"one": {"tag_acc": 0.5, "speed": 100.0}, "two": {"tag_acc": 0.625, "speed": 50.0}}
    for name, scores in runs.items():
        (tmp_path / name).mkdir()
        srsly.write_json(tmp_path / name / "metrics.json", scores)
    return [tmp_path / name / "metrics.json" for name in runs]


def invoke(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["mtl", "report", *map(str, args)])
    return result.exit_code, result.output


def get_cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_command(paths, tmp_path):
    output = tmp_path / "deep" / "er" / "scores.md"
    code, printed = invoke(*paths, "--names", "single, multi", "--output", output)
    assert code == 0
    assert get_cells(printed)[2:] == [
        ["single", "50.00", "-", "-", "-", "-", "**100**"],
        ["multi", "**62.50**", "-", "-", "-", "-", "50"],
    ]
    assert output.read_text(encoding="utf8") == printed


def test_command_without_options(paths):
    code, printed = invoke(paths[0])
    assert code == 0
    assert get_cells(printed)[2:] == [["metrics", "50.00", "-", "-", "-", "-", "100"]]


def test_names_of_files(paths, tmp_path):
    assert [row[0] for row in get_cells(report(paths))[2:]] == [str(path) for path in paths]
    other = paths[0].rename(tmp_path / "other.json")
    assert [row[0] for row in get_cells(report([other, paths[1]]))[2:]] == ["other", "metrics"]


def test_what_spacy_evaluate_writes(make_nlp, tmp_path):
    nlp = make_nlp()
    DocBin(docs=[eg.reference for eg in make_examples(nlp)]).to_disk(tmp_path / "dev.spacy")
    nlp.to_disk(tmp_path / "model")
    path = tmp_path / "metrics.json"
    scores = evaluate(str(tmp_path / "model"), tmp_path / "dev.spacy", output=path)
    assert report([path], ["mtl"]) == make_table(["mtl"], [scores])
    header, _, row = get_cells(report([path]))
    expected = [scores[key] for key in ("tag_acc", "ents_f", "ents_p", "ents_r", "cats_score")]
    assert row[1:-1] == [f"{100 * score:.2f}" for score in expected]
    assert header[5] == "cats_score (macro F)"
    assert float(row[-1]) == pytest.approx(scores["speed"], abs=0.51)


def test_scores_without_labels(make_nlp, tmp_path):
    """The dev set has tags only."""
    nlp = make_nlp()
    scores = nlp.evaluate(make_examples(nlp, "tagger"))
    path = tmp_path / "metrics.json"
    srsly.write_json(path, scores)
    (row,) = get_cells(report([path]))[2:]
    assert row[1] == f"{100 * scores['tag_acc']:.2f}"
    assert row[2:6] == ["-"] * 4


@pytest.mark.parametrize("names", ["single", "a,b,c", ""])
def test_wrong_number_of_names(paths, names, tmp_path):
    output = tmp_path / "scores.md"
    code, printed = invoke(*paths, "--names", names, "--output", output)
    assert code == 1
    assert "M203" in printed
    assert not output.exists()


@pytest.mark.parametrize(("text", "message"), [(None, "M201"), ("{", "M202")])
def test_bad_file(paths, text, message, tmp_path):
    path = tmp_path / "bad.json"
    if text:
        path.write_text(text)
    code, printed = invoke(*paths, path)
    assert code == 1
    assert message in printed


def test_no_file():
    assert invoke()[0] == 2


def test_command_is_registered():
    assert "report" in [command.name for command in mtl_cli.registered_commands]
    assert spacy.util.registry.has("cli", "mtl")
