import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Trainings, make_gold
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.corpora.documents import get_document, set_document
from spacy_mtl.validation.cv import CrossValidation, Processes

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
OVERRIDES = {
    "components.transformer.model.precision": "float32",
    "training.batcher.size": 30,
    "training.max_steps": 1,
    "training.eval_frequency": 2,  # once, after the first update
}
N = 18
# Four texts stand for all documents.
pytestmark = pytest.mark.filterwarnings("ignore:.W132:UserWarning", "ignore:.W133:UserWarning")


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """RETURNS (Path): A corpus of docs of which two in a row are of one document."""
    docs = [make_gold(Vocab(), i % 4) for i in range(N)]
    for i, doc in enumerate(docs):
        set_document(doc, f"d{i // 2}")
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "corpus.spacy")
    return tmp_path / "corpus.spacy"


def run(encoder: str, data: Path, output: Path, *args: object) -> tuple[int, str]:
    """RETURNS (Tuple[int, str]): The exit code and the output."""
    settings = OVERRIDES | {"paths.encoder": encoder}
    overrides = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
    command = ["cv", str(CONFIG), str(data), "-o", str(output), "-k", "3", *map(str, args)]
    result = CliRunner().invoke(mtl_cli, [*command, *overrides])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def read(path: Path) -> list[Doc]:
    return list(DocBin().from_disk(path).get_docs(Vocab()))


def test_folds_and_results(encoder: str, data: Path, tmp_path: Path, trainings: Trainings) -> None:
    output = tmp_path / "cv"
    code, text = run(encoder, data, output)
    assert code == 0, text
    assert trainings.names == ["1-1/multi", "1-2/multi", "1-3/multi"]
    assert "3 of 3 models are finished" in text and "| tagger" in text
    summary = json.loads((output / "summary.json").read_text())
    tasks = {task["task"]: task for task in summary["tasks"]}
    assert [*tasks] == ["tagger", "ner", "textcat"]
    assert [*tasks["ner"]["values"]] == ["1-1", "1-2", "1-3"]
    assert tasks["ner"]["single"] is None
    gold, predicted = read(output / "gold.spacy"), read(output / "predictions.spacy")
    assert [doc.text for doc in gold] == [doc.text for doc in predicted]
    assert [get_document(doc) for doc in gold] == [f"d{i // 2}" for i in range(N)]
    assert [get_document(doc) for doc in predicted] == [f"d{i // 2}" for i in range(N)]
    assert [doc[0].tag_ for doc in gold] == [doc[0].tag_ for doc in read(data)]
    assert all(doc.cats and doc[0].tag_ and "ner" in doc.spans for doc in predicted)
    page = (output / "page.html").read_text()
    assert page.count("<svg") == 1 and "Likely errors of annotation" in page
    kept = {path.name for path in (output / "folds" / "1-1" / "multi").iterdir()}
    assert "model-best" in kept and not {"model-last", "checkpoint"} & kept
    code, text = run(encoder, data, output)
    assert code == 0 and "0 of 3 models to train" in text and len(trainings.names) == 3
    result = CliRunner().invoke(mtl_cli, ["errors", str(output), "-n", "3"])
    assert result.exit_code == 0 and "Contradicted labels" in result.output
    code, text = run(encoder, data, output, "--stratify", "cats")
    assert code == 1 and "M280" in text


def test_stop_and_go_on_with_single_tasks(
    encoder: str, data: Path, tmp_path: Path, trainings: Trainings
) -> None:
    output = tmp_path / "cv"
    trainings.most = 3
    code, text = run(encoder, data, output, "--single", "-k", 2)
    assert code == 130 and "Stopped." in text
    assert trainings.names == ["1-1/multi", "1-1/tagger", "1-1/ner"]
    finished = [path.parent.name for path in output.glob("folds/*/*/result.json")]
    trainings.most = None
    code, text = run(encoder, data, output, "--single", "-k", 2)
    assert code == 0 and "8 of 8 models are finished" in text
    assert len(trainings.names) == 3 + 8 - len(finished)
    assert not {f"1-1/{name}" for name in finished} & {*trainings.names[3:]}
    summary = json.loads((output / "summary.json").read_text())
    assert all(0 <= task["single"]["p"] <= 1 for task in summary["tasks"])
    assert "alone" in text


def test_failed_training(
    encoder: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Processes, command: Sequence[str], log: Path) -> int:
        log.write_text("first line\nout of memory")
        return 9

    monkeypatch.setattr(Processes, "run", fail)
    code, text = run(encoder, data, tmp_path / "cv")
    text = " ".join(text.split())
    assert code == 1 and "M281" in text and "fold 1-1 (multi) failed with exit code 9" in text
    assert "out of memory" in text
    result = CliRunner().invoke(mtl_cli, ["errors", str(tmp_path / "cv")])
    assert result.exit_code == 1 and "M283" in result.output


def test_merged_corpora(
    encoder: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CrossValidation, "run", lambda self, jobs: (fold for fold in ()))
    doc = make_gold(Vocab(), 0)
    doc.cats = {"Travel": 1.0}
    set_document(doc, "other")
    DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "other.spacy")
    with pytest.warns(UserWarning, match=r"W135|W136") as found:
        code, _ = run(encoder, data, tmp_path / "cv", "--merge", tmp_path / "other.spacy")
    assert code == 0
    texts = "\n".join(str(warning.message) for warning in found)
    assert "'Travel and travel'" in texts and "W136" in texts


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["-k", "10"], "M276"),
        (["--stratify", "x"], "M277"),
        (["--group-by", "x"], "M278"),
    ],
)
def test_wrong_options(
    encoder: str, data: Path, tmp_path: Path, args: list[str], code: str
) -> None:
    exit_code, text = run(encoder, data, tmp_path / "cv", *args)
    assert exit_code == 1 and code in text


def test_data_without_labels(encoder: str, tmp_path: Path) -> None:
    docs: list[Any] = [Doc(Vocab(), words=["a"]) for _ in range(6)]
    DocBin(docs=docs).to_disk(tmp_path / "plain.spacy")
    exit_code, text = run(encoder, tmp_path / "plain.spacy", tmp_path / "cv")
    assert exit_code == 1 and "M279" in text
