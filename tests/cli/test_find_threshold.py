import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import make_examples
from spacy.cli.find_threshold import find_threshold
from spacy.tokens import DocBin
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.training.thresholds import MACRO, MICRO, find_thresholds

NAME = "textcat_multilabel"
# the heads of these pipelines share their categories
pytestmark = pytest.mark.filterwarnings("ignore:.W014:UserWarning")


@pytest.fixture
def nlp(make_nlp, tmp_path: Path):
    """RETURNS: The folder of a pipeline with random probabilities, and of the data."""
    nlp = make_nlp(NAME, "textcat", config={NAME: {"threshold": 0.9}})
    output = nlp.get_pipe(NAME).model.get_ref("output_layer")
    random = numpy.random.default_rng(1)
    output.set_param("W", 0.2 * random.normal(size=output.get_param("W").shape).astype("f"))
    nlp.remove_pipe("textcat")
    nlp.to_disk(tmp_path / "model")
    golds = [eg.reference for eg in make_examples(nlp)]
    golds[0].cats["food"] = 1.0
    DocBin(docs=golds).to_disk(tmp_path / "dev.spacy")
    return nlp


def run(*args: object) -> Any:
    return CliRunner().invoke(mtl_cli, ["find-threshold", *map(str, args)])


@pytest.mark.parametrize("key", [MACRO, MICRO])
def test_never_worse_than_spacys(nlp, tmp_path, key):
    """spaCy's command tries 5 thresholds and runs the pipeline for each."""
    model, data = tmp_path / "model", tmp_path / "dev.spacy"
    _, best, trials = find_threshold(str(model), data, NAME, "threshold", key, n_trials=5)
    result = run(model, data, "--scores-key", key, "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    written = spacy.load(tmp_path / "new")
    threshold = written.get_pipe(NAME).cfg["threshold"]
    assert written.config["components"][NAME]["threshold"] == pytest.approx(threshold)
    golds = list(DocBin().from_disk(data).get_docs(nlp.vocab))
    examples = make_examples(nlp)
    for eg, gold in zip(examples, golds, strict=True):
        eg.reference.cats = gold.cats
    score = written.evaluate(examples)[key]
    assert score >= best == max(trials.values())
    line = f"Best threshold: {threshold:.4f} with {key} {100 * score:.2f}"
    assert line in re.sub(r"\s+", " ", result.output)


def test_table(nlp, tmp_path):
    """The command prints a row per label and writes nothing."""
    result = run(tmp_path / "model", tmp_path / "dev.spacy", NAME)
    assert result.exit_code == 0, result.output
    examples = make_examples(nlp)
    examples[0].reference.cats["food"] = 1.0
    for label in find_thresholds(nlp, examples, NAME).labels:
        row = next(r.split() for r in result.output.splitlines() if r.startswith(label.label))
        before, best, own = (f"{100 * f:.1f}" for f in label.f)
        assert row == [label.label, str(label.support), before, best, f"{label.best:.4f}", own]
    assert spacy.load(tmp_path / "model").get_pipe(NAME).cfg["threshold"] == 0.9


def test_stock_component_and_several(tmp_path):
    """Every component of this kind works. If there are two, one must be named."""
    nlp = spacy.blank("en")
    for name in ("a", "b"):
        nlp.add_pipe(NAME, name=name).add_label("travel")
    exclusive = nlp.add_pipe("textcat")
    for label in ("sport", "food"):
        exclusive.add_label(label)
    nlp.initialize()
    nlp.to_disk(tmp_path / "model")
    doc = nlp.make_doc("We ate soup")
    doc.cats = {"travel": 1.0}
    DocBin(docs=[doc]).to_disk(tmp_path / "dev.spacy")
    paths = tmp_path / "model", tmp_path / "dev.spacy"
    assert "[M082]" in run(*paths).output
    assert "[M081]" in run(*paths, "textcat").output
    result = run(*paths, "b", "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    thresholds = [spacy.load(tmp_path / "new").get_pipe(name).cfg["threshold"] for name in "ab"]
    assert thresholds[0] == 0.5
    assert 0 < thresholds[1] < 0.5


def test_errors(nlp, tmp_path):
    model, data = tmp_path / "model", tmp_path / "dev.spacy"
    doc = nlp.make_doc("We ate soup")
    doc.cats = {"travel": 0.0}
    DocBin(docs=[doc]).to_disk(tmp_path / "nothing.spacy")
    nlp.remove_pipe(NAME)
    nlp.to_disk(tmp_path / "encoder")
    for code, args in {
        "M081": (model, data, "ner"),
        "M083": (model, tmp_path / "nothing.spacy"),
        "M113": (model, data, "--scores-key", "cats_score"),
        "M204": (tmp_path / "none", data),
        "M205": (model, tmp_path / "none.spacy"),
    }.items():
        result = run(*args, "-o", tmp_path / "new")
        assert result.exit_code == 1
        assert f"[{code}]" in result.output, result.output
    assert "[M081]" in run(tmp_path / "encoder", data).output
    assert not (tmp_path / "new").exists()
