"""The package of docs/third_party.md: its files are extracted, installed and used by each command,
in another process, as if by another team.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import srsly
from conftest import TEXTS
from spacy.tokens import DocBin
from spacy.vocab import Vocab

DOCS = Path(__file__).parents[1] / "docs" / "third_party.md"
POS = [
    "PROPN PROPN VERB ADP PROPN ADP PROPN PUNCT",
    "DET ADJ NOUN ADP PROPN PROPN VERB ADJ NOUN PUNCT",
    "PRON VERB NOUN ADP PROPN CCONJ VERB PRON PUNCT",
    "PROPN VERB DET NOUN ADP NOUN PUNCT",
]
SHORT = {
    "training.max_steps": 4,
    "training.eval_frequency": 2,
    "components.transformer.model.precision": "float32",
}
# Runs the commands of the tutorial in one process, and looks at the package and the pipelines.
SCRIPT = """
import json, sys
import acme_mtl.head
loaded = list(sys.modules)
from pathlib import Path
import spacy
import spacy_mtl.cli
from spacy.cli._util import app
from typer.testing import CliRunner
commands = json.load(open("commands.json"))
found = {"outputs": []}
for command in commands:
    result = CliRunner().invoke(app, command)
    found["outputs"].append([command[1], result.exit_code, result.output, repr(result.exception)])
json.dump(found, open("found.json", "w"))
trained = spacy.load("run/model-last")
pos, encoder = trained.get_pipe("pos"), trained.get_pipe("transformer")
found["means"] = sorted(encoder.balancer.means)
found["temperature"] = spacy.load("calibrated").get_pipe("pos").temperature
(packaged,) = Path().glob("en_acme-*/*/*/config.cfg")
nlp = spacy.load(packaged.parent)
doc = nlp("Maria flew to Lisbon .")
found["pos"] = [token.pos_ for token in doc]
found["labels"] = list(pos.labels)
found["loaded"] = loaded
found["requirements"] = json.load(open(packaged.parents[2] / "meta.json"))["requirements"]
json.dump(found, open("found.json", "w"))
"""


def extract(folder: Path) -> list[list[str]]:
    """Write the files of the tutorial.

    RETURNS (List[List[str]]): The arguments of its commands.
    """
    text = DOCS.read_text(encoding="utf-8")
    for name, content in re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", text, re.M | re.S):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    return [line.removeprefix("python -m spacy ").split() for line in block.splitlines()]


def install(package: Path, target: Path) -> None:
    """Install a package into a folder, without network."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([*command, str(package)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def found(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the commands printed, and what the pipelines hold."""
    folder = tmp_path_factory.mktemp("third_party")
    commands = extract(folder)
    install(folder, folder / "site")
    lines = [
        " ".join(f"{word}/{pos}" for word, pos in zip(text.split(), own.split(), strict=True))
        for text, own in zip(TEXTS, POS, strict=True)
    ]
    (folder / "train.slash").write_text("\n".join(lines), encoding="utf-8")
    options = [str(part) for key, value in SHORT.items() for part in (f"--{key}", value)]
    for command in commands:
        if command[1] in ("debug", "train"):
            command += [*options, "--paths.encoder", encoder]
    srsly.write_json(folder / "commands.json", commands)
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, env=env, capture_output=True, text=True
    )
    results: dict[str, Any] = json.loads((folder / "found.json").read_text())
    failed = [output for output in results["outputs"] if output[1]]
    assert failed == []
    assert run.returncode == 0, run.stderr
    results["outputs"] = {command: text for command, _, text, _ in results["outputs"]}
    results["report"] = srsly.read_json(folder / "report.json")
    results["corpus"] = (folder / "train.spacy").read_bytes()
    return results


def test_the_format_is_read(found: dict[str, Any]) -> None:
    docs = list(DocBin().from_bytes(found["corpus"]).get_docs(Vocab()))
    assert [" ".join(token.pos_ for token in doc) for doc in docs] == POS
    assert "4 docs with 34 words" in found["outputs"]["convert"]
    assert not any(doc.has_annotation("TAG") or doc.has_annotation("ENT_IOB") for doc in docs)


def test_the_factory_module_imports_cheaply(found: dict[str, Any]) -> None:
    """thinc imports torch itself where it is installed."""
    heavy = {"transformers", "spacy_transformers", "spacy_mtl.encoder.listener"}
    assert heavy.isdisjoint(found["loaded"])
    assert "spacy_mtl.api" in found["loaded"]


def test_debug_knows_the_head_and_its_layer(found: dict[str, Any]) -> None:
    output = found["outputs"]["debug"]
    assert re.search(r"pos +\S+ +34 tokens", output), output


def test_the_head_and_the_balancer_learn(found: dict[str, Any]) -> None:
    assert set(found["labels"]) == {pos for line in POS for pos in line.split()}
    assert found["means"] == ["pos"]


def test_the_head_is_calibrated_and_reported(found: dict[str, Any]) -> None:
    assert "pos" in found["outputs"]["calibrate"]
    assert found["temperature"] != 1.0
    assert "pos_acc" in json.dumps(found["report"])


def test_the_packaged_pipeline_needs_the_package(found: dict[str, Any]) -> None:
    assert any(name.startswith("acme-mtl") for name in found["requirements"])
    assert len(found["pos"]) == 5 and set(found["pos"]) <= set(found["labels"])
