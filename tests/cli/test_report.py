import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import spacy
import srsly
from conftest import make_examples, make_gold
from spacy.cli._util import app
from spacy.cli.evaluate import evaluate
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.cli.report import report
from spacy_mtl.report.markdown import to_markdown
from spacy_mtl.report.records import (
    Confusion,
    CorpusSize,
    Difference,
    Excerpt,
    LabelScore,
    Mark,
    Report,
    RunSummary,
    SettingSummary,
    TaskCalibration,
    Transfer,
)
from spacy_mtl.report.tables import make_claims, make_table, make_tables
from spacy_mtl.training.calibration import Bin

CONFIGS = Path(__file__).parents[2] / "configs"
PIPELINES = {"multi": ["tagger", "ner", "textcat"], "tagger": ["tagger"], "textcat": ["textcat"]}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """RETURNS: Two score files with the same name."""
    runs = {"one": {"tag_acc": 0.5, "speed": 100.0}, "two": {"tag_acc": 0.625, "speed": 50.0}}
    for name, scores in runs.items():
        (tmp_path / name).mkdir()
        srsly.write_json(tmp_path / name / "metrics.json", scores)
    return [tmp_path / name / "metrics.json" for name in runs]


@pytest.fixture(scope="module")
def trained(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RETURNS: A folder with runs of 4 steps: all tasks with two seeds, and two tasks alone."""
    folder = tmp_path_factory.mktemp("trained")
    vocab = spacy.blank("en").vocab
    DocBin(docs=[make_gold(vocab, i) for i in range(4)]).to_disk(folder / "corpus.spacy")
    for name, seed in (("multi", 0), ("multi", 1), ("tagger", 0), ("tagger", 1), ("textcat", 0)):
        out = folder / f"{name}-{seed}"
        overrides: dict[str, Any] = {
            **dict.fromkeys(["paths.train", "paths.dev"], str(folder / "corpus.spacy")),
            "paths.encoder": encoder,
            "system.seed": seed,
            "nlp.pipeline": ["transformer", *PIPELINES[name]],
            "components.transformer.model.precision": "float32",
            "training.max_steps": 4,
            "training.eval_frequency": 2,
            "training.optimizer.learn_rate.warmup_steps": 1,
            "training.optimizer.encoder_learn_rate.warmup_steps": 1,
            "training.logger.output_file": str(out / "log.jsonl"),
            "training.logger.console_output": False,
        }
        path = CONFIGS / ("mtl_cpu.cfg" if name == "multi" else "single_task.cfg")
        with (folder / "printed.txt").open("a") as file:
            train(init_nlp(load_config(path, overrides)), out, stdout=file, stderr=file)
    return folder


def invoke(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["mtl", "report", *map(str, args)])
    return result.exit_code, result.output


def get_cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def get_scores(*args: Any) -> list[list[str]]:
    """RETURNS: The cells of the table in a report of score files."""
    return get_cells(to_markdown(make_tables(report(*args))))


def test_command(paths, tmp_path):
    output = tmp_path / "deep" / "er" / "scores.md"
    code, printed = invoke(*paths, "--names", "single, multi", "--output", output)
    assert code == 0
    assert get_cells(printed)[2:] == [
        ["single", "50.00", "**100**"],
        ["multi", "**62.50**", "50"],
    ]
    assert output.read_text(encoding="utf8") == printed
    assert len(printed.splitlines()) == 4


def test_command_without_options(paths):
    code, printed = invoke(paths[0])
    assert code == 0
    assert get_cells(printed)[2:] == [["metrics", "50.00", "100"]]


def test_names_of_files(paths, tmp_path):
    assert [row[0] for row in get_scores(paths)[2:]] == [str(path) for path in paths]
    other = paths[0].rename(tmp_path / "other.json")
    assert [row[0] for row in get_scores([other, paths[1]])[2:]] == ["other", "metrics"]


def test_files_of_spacy_evaluate(make_nlp, tmp_path):
    nlp = make_nlp()
    DocBin(docs=[eg.reference for eg in make_examples(nlp)]).to_disk(tmp_path / "dev.spacy")
    nlp.to_disk(tmp_path / "model")
    path = tmp_path / "metrics.json"
    scores = evaluate(str(tmp_path / "model"), tmp_path / "dev.spacy", output=path)
    header, _, row = get_scores([path], ["mtl"])
    names = ("tag_acc", "ents_f", "ents_p", "ents_r")
    assert header == ["run", *names, "cats_score (macro F)", "words/s"]
    assert [header, row] == get_cells(make_table(["mtl"], [scores]).to_markdown())[::2]
    expected = [scores[key] for key in ("tag_acc", "ents_f", "ents_p", "ents_r", "cats_score")]
    assert row[1:-1] == [f"{100 * score:.2f}" for score in expected]
    assert float(row[-1]) == pytest.approx(scores["speed"], abs=0.51)


def test_scores_without_labels(make_nlp, tmp_path):
    """The dev set has tags only."""
    nlp = make_nlp()
    scores = nlp.evaluate(make_examples(nlp, "tagger"))
    path = tmp_path / "metrics.json"
    srsly.write_json(path, scores)
    header, _, row = get_scores([path])
    assert header == ["run", "tag_acc", "words/s"]
    assert row[1] == f"{100 * scores['tag_acc']:.2f}"


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


RUNS = ["multi-0", "multi-1", "tagger-1", "tagger-0", "textcat-0"]


@pytest.fixture(scope="module")
def reported(trained: Path) -> tuple[str, Path]:
    """RETURNS: The output of the command, and its output folder."""
    out = trained / "out"
    files = [f"--{kind}={out / name}" for kind, name in FILES.items()]
    data = trained / "corpus.spacy"
    code, printed = invoke(*(trained / name for name in RUNS), "--data", data, *files)
    assert code == 0, printed
    return printed, out


FILES = {"html": "report.html", "json": "report.json", "output": "report.md"}


def test_runs(reported):
    runs = srsly.read_json(reported[1] / "report.json")["runs"]
    assert [(run["name"], run["setting"], run["seed"]) for run in runs] == [
        ("multi-0", "multi", 0),
        ("multi-1", "multi", 1),
        ("tagger-1", "tagger", 1),
        ("tagger-0", "tagger", 0),
        ("textcat-0", "textcat", 0),
    ]
    assert [run["tasks"] for run in runs] == [PIPELINES[run["setting"]] for run in runs]
    for run in runs:
        assert (run["source"], run["steps"]) == ("corpus.spacy", 4)
        for kind in ("loss", "weight", "grad_norm"):
            assert list(run["curves"][kind]) == run["tasks"]
        assert [step for step, _ in run["curves"]["loss"][run["tasks"][0]]] == [0, 2, 4]
    # At step 0 no head has a gradient for the encoder.
    assert {pair: len(curve) for pair, curve in runs[0]["curves"]["cosine"].items()} == {
        **{"ner|tagger": 2, "ner|textcat": 2, "tagger|textcat": 2}
    }
    assert runs[2]["curves"]["cosine"] == {}


def test_scores_are_those_of_spacy_evaluate(trained, reported):
    content = srsly.read_json(reported[1] / "report.json")
    for run in content["runs"]:
        scores = evaluate(str(trained / run["name"] / "model-best"), trained / "corpus.spacy")
        for key in ("tag_acc", "ents_f", "ents_p", "ents_r", "cats_score"):
            assert run["scores"].get(key) == pytest.approx(scores.get(key))
    scores = {run["name"]: run["scores"] for run in content["runs"]}
    for record in content["transfer"]:
        key = {"tag_acc": "tag_acc", "cats_macro_f": "cats_score"}[record["measure"]]
        for kind in ("single", "multi"):
            names = [f"{record[kind]}-{seed}" for seed in range(record["seeds"])]
            mean = sum(scores[name][key] for name in names) / len(names)
            assert record[f"{kind}_mean"] == pytest.approx(mean)


def test_transfer(reported):
    content = srsly.read_json(reported[1] / "report.json")
    found = [(r["task"], r["multi"], r["single"], r["seeds"]) for r in content["transfer"]]
    assert found == [("tagger", "multi", "tagger", 2), ("textcat", "multi", "textcat", 1)]
    for record in content["transfer"]:
        assert record["docs"] == 4
        assert record["p"] in [n / 16 for n in range(1, 17)]
        difference = record["multi_mean"] - record["single_mean"]
        assert record["difference"] == pytest.approx(difference)
        assert (record["single_sd"] is None) is (record["seeds"] == 1)


def test_labels_are_counted_once(reported):
    content = srsly.read_json(reported[1] / "report.json")
    for setting in ("multi", "tagger"):
        labels = [r for r in content["labels"] if (r["task"], r["setting"]) == ("tagger", setting)]
        assert sum(record["support"] for record in labels) == 34
        confusions = [
            r for r in content["confusions"] if (r["task"], r["setting"]) == ("tagger", setting)
        ]
        assert sum(record["count"] for record in confusions) == 2 * 34
    assert {record["task"] for record in content["errors"]} <= {"tagger", "ner", "textcat"}


def test_printed_and_markdown_and_json_agree(reported):
    printed, out = reported
    content = srsly.read_json(out / "report.json")
    markdown = (out / "report.md").read_text(encoding="utf8")
    written = read_report(content)
    assert to_markdown(make_tables(written), make_claims(written)) == markdown
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert set(lines) <= set(markdown.splitlines())
    (row,) = [row for row in get_cells(printed) if row[0] == "tagger (tag_acc)"]
    record = content["transfer"][0]
    assert row[2].strip("*") == f"{100 * record['difference']:+.2f}"
    assert row[4] == f"{100 * record['single_mean']:.2f} ± {100 * record['single_sd']:.2f}"
    assert row[6:] == ["2", "4"]


def read_report(content: dict[str, Any]) -> Report:
    """RETURNS: The report in a JSON file."""
    calibration = [
        {**row, "bins": [Bin(**b) for b in row["bins"]]} for row in content["calibration"]
    ]
    errors = [
        {**row, **{side: [Mark(**m) for m in row[side]] for side in ("gold", "predicted")}}
        for row in content["errors"]
    ]
    return Report(
        [RunSummary(**row) for row in content["runs"]],
        content["data"],
        CorpusSize(**content["corpus"]),
        content["date"],
        content["versions"],
        [read_setting(row) for row in content["settings"]],
        [Difference(**row) for row in content["differences"]],
        [Transfer(**row) for row in content["transfer"]],
        [LabelScore(**row) for row in content["labels"]],
        [TaskCalibration(**row) for row in calibration],
        [Confusion(**row) for row in content["confusions"]],
        [Excerpt(**row) for row in errors],
    )


def read_setting(row: dict[str, Any]) -> SettingSummary:
    """RETURNS: The setting in a JSON file."""
    corpora = {kind: [CorpusSize(**size) for size in row[kind]] for kind in ("train", "dev")}
    return SettingSummary(**{**row, **corpora})


def test_run_card(reported):
    """The card has sizes, encoder, balancer and weights."""
    content = srsly.read_json(reported[1] / "report.json")
    assert content["corpus"] == {"name": "corpus.spacy", "docs": 4, "words": 34}
    multi, tagger, textcat = content["settings"]
    assert (multi["tasks"], multi["seeds"]) == (PIPELINES["multi"], [0, 1])
    assert multi["encoder"] == tagger["encoder"]
    assert multi["balancer"].startswith("spacy-mtl.")
    assert list(multi["weights"]) == PIPELINES["multi"]
    for setting in (multi, tagger, textcat):
        for kind in ("train", "dev"):
            ((docs, words),) = [(size["docs"], size["words"]) for size in setting[kind]]
            assert (docs, words) == (4, 34)
    html = (reported[1] / "report.html").read_text(encoding="utf8")
    assert "corpus.spacy, 4 docs, 34 words" in html
    assert f"spaCy {spacy.__version__}" in html


def test_page(reported):
    html = (reported[1] / "report.html").read_text(encoding="utf8")
    parser = HTMLParser()
    sections = []
    parser.handle_starttag = lambda tag, attrs: sections.append(  # type: ignore[method-assign]
        dict(attrs).get("id") if tag == "section" else None
    )
    parser.feed(html)
    assert [name for name in sections if name] == [
        *("Transfer", "Scores", "Training", "Balance", "Labels", "Calibration", "Confusions"),
        "Errors",
    ]
    assert not re.search(r"""(?:src|href)=["']?(?!["']?(?:#|data:text/csv;))""", html)
    titles = re.findall(r'<svg role="img" aria-label="([^"]*)"', html)
    assert titles[:3] == ["Together minus alone", "Loss of tagger", "Loss of ner"]
    assert {"tag_acc", "cats_score", "Weights (multi)"} <= set(titles)
    assert "<h3>Cosines (multi)</h3>" in html
    assert '<mark class="' in html


def test_without_data(trained, tmp_path):
    """The scores are those of the best step on the dev set."""
    code, printed = invoke(trained / "multi-0", trained / "tagger-0", "--html", tmp_path / "a.html")
    assert code == 0
    assert "Transfer" not in printed
    log = list(srsly.read_jsonl(trained / "multi-0" / "log.jsonl"))
    best = max(log, key=lambda line: line["score"])["scores"]
    (row,) = [row for row in get_cells(printed) if row[0] == "multi-0"]
    assert row[1].strip("*") == f"{100 * best['tag_acc']:.2f}"
    assert "Confusions" not in (tmp_path / "a.html").read_text(encoding="utf8")


def test_folders_and_files_together(trained, paths):
    code, printed = invoke(paths[0], trained / "tagger-0", "--data", trained / "corpus.spacy")
    assert code == 0
    assert [row[0] for row in get_cells(printed)[2:]] == ["metrics", "tagger-0"]


def test_not_a_run(trained):
    code, printed = invoke(trained / "multi-0" / "model-best", trained / "multi-0")
    assert (code, "M230" in printed) == (1, True)


def test_data_without_folders(trained, paths):
    code, printed = invoke(*paths, "--data", trained / "corpus.spacy")
    assert (code, "M233" in printed) == (1, True)


def test_data_without_labels(trained, tmp_path):
    docs = [spacy.blank("en").make_doc("no labels here")]
    DocBin(docs=docs).to_disk(tmp_path / "dev.spacy")
    code, printed = invoke(trained / "tagger-0", "--data", tmp_path / "dev.spacy")
    assert (code, "M234" in printed, "tagger" in printed) == (1, True, True)


def test_data_that_is_not_there(trained, tmp_path):
    code, printed = invoke(trained / "tagger-0", "--data", tmp_path / "none.spacy")
    assert (code, "M205" in printed) == (1, True)


def test_same_run_twice(trained, tmp_path):
    copy = shutil.copytree(trained / "tagger-0", tmp_path / "copy-0")
    code, printed = invoke(trained / "tagger-0", copy)
    assert (code, "M235" in printed) == (1, True)


def test_other_dev_data(trained, tmp_path):
    copy = shutil.copytree(trained / "tagger-0", tmp_path / "other-0")
    config = copy / "model-best" / "config.cfg"
    text = config.read_text(encoding="utf8")
    config.write_text(text.replace("corpus.spacy", "other.spacy"), encoding="utf8")
    code, printed = invoke(trained / "tagger-0", copy)
    assert (code, "M236" in printed) == (1, True)


def test_without_matplotlib(paths, tmp_path, monkeypatch):
    for name in ("page", "figures", "plots"):
        monkeypatch.delitem(sys.modules, f"spacy_mtl.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, printed = invoke(*paths, "--html", tmp_path / "report.html")
    assert (code, "M237" in printed, "matplotlib>=" in printed) == (1, True, True)
    assert invoke(*paths, "--json", tmp_path / "report.json")[0] == 0
    assert len(srsly.read_json(tmp_path / "report.json")["runs"]) == 2
