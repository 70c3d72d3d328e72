from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import make_examples
from spacy.tokens import Doc, DocBin
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.training.calibration import calibrate

TASKS = ("tagger", "ner", "textcat")


@pytest.fixture
def nlp(make_nlp, tmp_path: Path):
    """RETURNS: The folder of a pipeline whose heads have biases, and of the data."""
    nlp = make_nlp()
    for name in TASKS:
        output = nlp.get_pipe(name).model.get_ref("output_layer")
        output.get_param("b")[:] = range(output.get_dim("nO"))
    nlp.to_disk(tmp_path / "model")
    DocBin(docs=[eg.reference for eg in make_examples(nlp)]).to_disk(tmp_path / "dev.spacy")
    return nlp


def run(*args: object) -> Any:
    return CliRunner().invoke(mtl_cli, ["calibrate", *map(str, args)])


def test_command(nlp, tmp_path):
    """The output pipeline has temperatures. The input pipeline is unchanged."""
    result = run(tmp_path / "model", tmp_path / "dev.spacy", "-o", tmp_path / "new" / "model")
    assert result.exit_code == 0, result.output
    expected = calibrate(nlp, make_examples(nlp))
    written = spacy.load(tmp_path / "new" / "model")
    for name in TASKS:
        found = expected[name]
        row = next(line.split() for line in result.output.splitlines() if line.startswith(name))
        assert row == [
            *(name, str(found.units), f"{found.temperature[1]:.3f}"),
            *(f"{x:.4f}" for x in found.nll),
            *(f"{100 * x:.2f}" for x in found.ece),
        ]
        temperature = written.get_pipe(name).temperature
        assert temperature == pytest.approx(found.temperature[1], rel=1e-4)
        assert spacy.load(tmp_path / "model").get_pipe(name).temperature == 1.0
    doc, expected_doc = (n(nlp.make_doc("Maria flew to Lisbon .")) for n in (written, nlp))
    assert doc.cats == pytest.approx(expected_doc.cats, abs=1e-4)
    assert "Not calibrated" not in result.output


def test_heads_without_labels_are_named(nlp, tmp_path):
    docs = [eg.reference for eg in make_examples(nlp, "tagger")]
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "tags.spacy")
    result = run(tmp_path / "model", tmp_path / "tags.spacy", "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "no labels for them: 'ner', 'textcat'" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("model", "data", "code"),
    [
        ("none", "dev.spacy", "M204"),
        ("model", "none.spacy", "M205"),
        ("model", "empty.spacy", "M206"),
        ("model", "unlabelled.spacy", "M080"),
        ("blank", "dev.spacy", "M079"),
    ],
)
def test_errors(nlp, tmp_path, model, data, code):
    DocBin(docs=[Doc(nlp.vocab)]).to_disk(tmp_path / "empty.spacy")
    DocBin(docs=[Doc(nlp.vocab, words=["so"])]).to_disk(tmp_path / "unlabelled.spacy")
    spacy.blank("en").to_disk(tmp_path / "blank")
    result = run(tmp_path / model, tmp_path / data, "-o", tmp_path / "new")
    assert result.exit_code == 1
    assert f"[{code}]" in result.output
    assert not (tmp_path / "new").exists()
