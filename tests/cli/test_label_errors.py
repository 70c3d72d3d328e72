"""The command `mtl errors`."""

import csv
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import make_examples
from spacy.tokens import DocBin
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.validation.suspects import find_suspects


@pytest.fixture
def files(make_nlp: Any, tmp_path: Path) -> Path:
    """RETURNS (Path): A folder with a pipeline that predicts one label for everything, and data."""
    nlp = make_nlp()
    for name in ("tagger", "ner", "textcat"):
        output = nlp.get_pipe(name).model.get_ref("output_layer")
        output.get_param("b")[:] = range(output.get_dim("nO"))
    nlp.to_disk(tmp_path / "model")
    spacy.blank("en").to_disk(tmp_path / "blank")
    golds = [eg.reference for eg in make_examples(nlp)]
    DocBin(docs=golds).to_disk(tmp_path / "gold.spacy")
    return tmp_path


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(mtl_cli, ["errors", *map(str, args)])
    return result.exit_code, result.output


def test_table(files: Path) -> None:
    path = files / "new" / "errors.csv"
    code, text = run(files / "model", files / "gold.spacy", "--limit", 5, "-o", path)
    assert code == 0, text
    expected = find_suspects(files / "model", files / "gold.spacy")
    with path.open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 < len(expected)
    for row, suspect in zip(rows, expected, strict=False):
        assert (row["task"], row["doc"], row["words"]) == (
            suspect.task,
            str(suspect.doc),
            suspect.words,
        )
        assert (row["gold"], row["predicted"]) == (suspect.gold, suspect.predicted)
        assert float(row["p"]) == pytest.approx(suspect.p_predicted, abs=1e-3)
        assert float(row["p gold"]) == pytest.approx(suspect.p_gold, abs=1e-3)
    n = sum(suspect.task == "tagger" for suspect in expected)
    assert f"{n} of tagger" in text


def test_page(files: Path) -> None:
    code, text = run(files / "model", files / "gold.spacy", "-o", files / "errors.html")
    assert code == 0, text
    page = (files / "errors.html").read_text(encoding="utf8")
    assert "Contradicted labels" in page and "<table" in page and "<svg" not in page


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["model"], "M284"),
        (["none"], "M284"),
        (["blank", "gold.spacy"], "M285"),
        (["none", "gold.spacy"], "M204"),
        (["model", "none.spacy"], "M205"),
        (["model", "gold.spacy", "-o", "errors.txt"], "M286"),
    ],
)
def test_errors(files: Path, args: list[str], code: str) -> None:
    paths = [arg if arg.startswith("-") else files / arg for arg in args]
    exit_code, text = run(*paths)
    assert exit_code == 1 and f"[{code}]" in text


def test_a_page_needs_matplotlib(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy_mtl.validation.page", None)
    code, text = run(files / "model", files / "gold.spacy", "-o", files / "errors.html")
    assert code == 1 and "M237" in text
