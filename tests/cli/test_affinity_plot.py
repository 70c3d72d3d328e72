"""`spacy mtl affinity --plot`: the matrix as a picture."""

import json
import math
import sys
from pathlib import Path

import pytest
from conftest import make_gold
from spacy import blank
from spacy.cli._util import app
from spacy.tokens import DocBin
from typer.testing import CliRunner

import spacy_mtl.cli  # noqa: F401
from spacy_mtl.cli.affinity import import_save_heatmap, make_matrix, print_affinity

CONFIG = str(Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg")


def test_plot_of_a_training(encoder: str, tmp_path: Path) -> None:
    """The plot has the numbers of the JSON file as text."""
    vocab = blank("en").vocab
    corpus = tmp_path / "corpus.spacy"
    DocBin(docs=[make_gold(vocab, i) for i in range(4)]).to_disk(corpus)
    output, plot = tmp_path / "affinity.json", tmp_path / "new" / "affinity.svg"
    options = ["--paths.train", corpus, "--paths.dev", corpus, "--paths.encoder", encoder]
    options += ["--components.transformer.model.precision", "float32"]
    options += ["--training.optimizer.learn_rate.warmup_steps", 1]  # heads start at zero
    options += ["--steps", 3, "--every", 1, "--output", output, "--plot", plot]
    done = CliRunner().invoke(app, ["mtl", "affinity", CONFIG, *map(str, options)])
    assert done.exit_code == 0, done.output
    affinity = json.loads(output.read_text())["affinity"]
    svg = plot.read_text()
    assert all(f"<!-- {task} -->" in svg for task in affinity)
    known = [z for row in affinity.values() for z in row.values() if z is not None]
    assert len(known) == 9 and all(f"<!-- {100 * z:+.3f} -->" in svg for z in known)


def test_matrix_by_hand() -> None:
    """Colours are limited to the largest effect on another task. Unknown values have none."""
    affinity = {"a": {"a": 0.02, "b": -0.005}, "b": {"a": 0.001, "b": math.nan}}
    matrix = make_matrix(affinity)
    colors, texts = matrix.values, matrix.texts
    assert colors[0].tolist() == [0.5, -0.5] and colors[1][0] == pytest.approx(0.1)
    assert math.isnan(colors[1][1])
    assert texts[0] == ["+2.000", "-0.500"] and texts[1][0] == "+0.100"
    assert matrix.rows == matrix.columns == ["a", "b"]
    assert matrix.labels == ("loss of", "a step for")


@pytest.mark.parametrize("suffix,start", [("png", b"\x89PNG"), ("PDF", b"%PDF")])
def test_kinds_of_files(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"plot.{suffix}"
    affinity = {"a": {"a": 0.02, "b": math.nan}, "b": {"a": math.nan, "b": 0.01}}
    import_save_heatmap(path)(path, make_matrix(affinity))
    assert path.read_bytes().startswith(start)


def test_what_cannot_be_plotted_stops_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(plot: str) -> str:
        command = ["mtl", "affinity", CONFIG, "--plot", str(tmp_path / plot)]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1
        return done.output

    assert "M090" in fail("affinity.doc") and "M090" in fail("affinity")
    monkeypatch.delitem(sys.modules, "spacy_mtl.report.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    printed = fail("affinity.png")
    assert "M089" in printed and "matplotlib>=" in printed


def test_tasks_that_no_step_had(capsys: pytest.CaptureFixture) -> None:
    print_affinity({"a": {"a": 0.1, "b": math.nan}, "b": {"a": math.nan, "b": math.nan}})
    assert "No step had labels for 'b':" in capsys.readouterr().out
    print_affinity({"a": {"a": 0.1}})
    assert "No step" not in capsys.readouterr().out
