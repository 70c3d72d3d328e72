"""`spacy mtl tune` with trials that take no time."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_trial
import pytest
import spacy
from spacy.util import load_config
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.files import locking
from spacy_mtl.search.run import Search

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
SPACE = """[dropout]
type = "float"
path = "training.dropout"
low = 0.0
high = 0.5

[balancer]
type = "block"
path = "components.transformer.balancer"

[balancer.choices]

[balancer.choices.learned]
@misc = "spacy-mtl.UncertaintyWeights.v1"

[balancer.choices.fixed]
@misc = "spacy-mtl.StaticWeights.v1"
"""


@pytest.fixture
def tune(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs the command in an empty folder, and returns the exit code and the
    output on one line.
    """
    command = [sys.executable, "-I", fake_trial.__file__]
    monkeypatch.setattr(
        "spacy_mtl.search.trial.get_command", lambda folder: [*command, str(folder)]
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.cfg").write_text(SPACE)

    def run(*args: str, space: str = "space.cfg") -> tuple[int, str]:
        options = ["-o", "out", "--paths.encoder", encoder, *args]
        result = CliRunner().invoke(mtl_cli, ["tune", str(CONFIG), space, *options])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(result.output.split())

    return run


def read_table() -> list[dict[str, str]]:
    return [*csv.DictReader(Path("out/trials.csv").read_text().splitlines())]


def test_search_and_continue(tune: Callable) -> None:
    code, output = tune("--trials", "2", "--paths.train", "train.spacy")
    assert code == 0, output
    assert "Trial 0: complete, score 90.00" in output and "1 of 2 left, about" in output
    assert "weighted score" in output and "Saved the best config: out/best.cfg" in output
    table = read_table()
    assert [row["state"] for row in table] == ["complete", "complete"]
    best = load_config("out/best.cfg")
    dropout, name = max((float(row["score"]), row["dropout"], row["balancer"]) for row in table)[1:]
    assert best["training"]["dropout"] == float(dropout)
    assert best["training"]["logger"] == load_config(CONFIG)["training"]["logger"]
    assert best["paths"]["train"] == "train.spacy"
    kinds = {"learned": "UncertaintyWeights", "fixed": "StaticWeights"}
    assert kinds[name] in best["components"]["transformer"]["balancer"]["@misc"]
    spacy.util.load_model_from_config(best)
    page = Path("out/index.html").read_text()
    assert "Search with 2 of 2 trials" in page and "balancer" in page
    # the same command has nothing left to do; a higher number of trials goes on
    code, output = tune("--trials", "2", "--paths.train", "train.spacy")
    assert code == 0 and "Trial" not in output and len(read_table()) == 2
    code, output = tune("--trials", "3", "--paths.train", "train.spacy")
    assert code == 0 and output.count("Trial ") == 1 and len(read_table()) == 3
    code, output = tune("--trials", "3")
    assert code == 1 and "M266" in output and 'paths.train = null, not "train.spacy"' in output


def test_metrics(tune: Callable) -> None:
    code, output = tune("-n", "1", "--metric", "ner, cats_macro_f")
    assert code == 0, output
    weights = load_config("out/best.cfg")["training"]["score_weights"]
    assert {key: z for key, z in weights.items() if z} == {"ents_f": 0.5, "cats_macro_f": 0.5}
    assert weights["tag_acc"] == 0.0 and weights["ents_per_type"] is None
    assert {"score of ner", "score of cats_macro_f"} < read_table()[0].keys()
    code, output = tune("-n", "1", "--metric", "ner,nothing")
    assert code == 1 and "M269" in output and "'nothing'" in output and "'ents_f'" in output


def test_pareto(tune: Callable) -> None:
    code, output = tune("-n", "2", "--pareto", "-o", "front", "--workers", "2")
    assert code == 0 and "Saved the best config" in output
    code, output = tune("--pareto", "--metric", "ner")
    assert code == 1 and "M275" in output and "'ner'" in output


def test_a_database_of_several_machines(tune: Callable, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    assert tune("-n", "1", "--storage", url, "-o", "a/tuning")[0] == 0
    code, output = tune("-n", "2", "--storage", url, "-o", "b/tuning")
    assert code == 0 and "Trial 1" in output and "Trial 0" not in output
    code, output = tune("-n", "2", "--storage", "nosql://x")
    assert code == 1 and "M267" in output


def test_ctrl_c_and_timeout(tune: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Search, one: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Search, "advance", stop)
        code, output = tune("-n", "2")
    assert code == 130 and "Stopped by Ctrl-C. The same command continues" in output
    assert Path("out/trials.csv").exists() and not Path("out/best.cfg").exists()
    code, output = tune("-n", "2", "--timeout", "0.001")
    assert code == 0 and "Stopped by timeout" in output
    code, output = tune("-n", "2")
    assert code == 0 and len(read_table()) == 2


def test_wrong_input(tune: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.cfg").write_text("")
    code, output = tune(space="empty.cfg")
    assert code == 1 and "M262" in output
    (tmp_path / "out").mkdir()
    with locking(tmp_path / "out"):
        code, output = tune()
    assert code == 1 and "M274" in output
    monkeypatch.setattr(
        "spacy_mtl.search.trial.get_command", lambda folder: [sys.executable, "missing.py"]
    )
    code, output = tune("-n", "2")
    assert code == 1 and "M268" in output and "Every trial failed (2)" in output
    assert "can't open file" in output


@pytest.mark.parametrize("package", ["optuna", "matplotlib"])
def test_without_its_packages(
    tune: Callable, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("search.page", "report.page", "report.figures", "report.plots"):
        monkeypatch.delitem(sys.modules, f"spacy_mtl.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    code, output = tune()
    assert code == 1 and "M265" in output and "optuna<6,>=5" in output and "matplotlib" in output
