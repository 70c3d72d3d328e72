"""Wrong input to each command: a message and an exit code, no traceback."""

from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import make_gold
from spacy.tokens import DocBin
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline, a corpus, a config, and broken versions of them."""
    folder = tmp_path_factory.mktemp("errors")
    nlp = spacy.blank("en")
    nlp.to_disk(folder / "pipeline")
    DocBin(docs=[make_gold(nlp.vocab, 0)]).to_disk(folder / "good.spacy")
    (folder / "broken.spacy").write_bytes(b"not a corpus")
    (folder / "syntax.cfg").write_text("[nlp\nlang = ")
    (folder / "binary.cfg").write_bytes(bytes(range(256)))
    component = '[components]\n[components.x]\nfactory = "nonsense"\n'
    (folder / "factory.cfg").write_text(f'[nlp]\nlang = "en"\npipeline = ["x"]\n{component}')
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    return folder


def train(command: str, *args: str) -> list[str]:
    paths = ["--paths.train", "good.spacy", "--paths.dev", "good.spacy"]
    return [command, str(CONFIG), *paths, "--paths.encoder", "missing", *args]


def run(*args: str) -> Any:
    return CliRunner().invoke(mtl_cli, list(args))


TRAINERS = ("train", "debug", "affinity")
CASES: list[tuple[list[str], str]] = [
    *([[command, "missing.cfg"], "missing.cfg"] for command in TRAINERS),
    *([[command, "syntax.cfg"], "no section headers"] for command in TRAINERS),
    *([[command, "binary.cfg"], ""] for command in TRAINERS),
    (["debug", "factory.cfg"], "nonsense"),
    (["train", "factory.cfg"], "M209"),
    (["affinity", "factory.cfg"], "M209"),
    *([[command, "empty"], "empty"] for command in TRAINERS),
    (train("train"), "M001"),
    (train("train", "--paths.encoder", "ENCODER", "--paths.train", "gone.spacy"), "gone.spacy"),
    (train("affinity", "--paths.encoder", "ENCODER", "--paths.train", "broken.spacy"), "E1014"),
    (train("debug", "--paths.train", "broken.spacy"), "M221"),
    *([train(command, "--training.nonsense.x", "1"), "nonsense"] for command in TRAINERS),
    *([train(command, "--gpu-id", "99"), "GPU"] for command in TRAINERS),
    *([train(command, "nonsense"), "nonsense"] for command in TRAINERS),
    (train("train", "--output", "file"), "file"),
    (train("debug", "--training.eval_frequency", "0"), "eval_frequency = 0"),
    (train("train", "--resume"), "M063"),
    (train("train", "--resume", "--overwrite"), "M208"),
    (["report", "gone"], "gone"),
    (["report", "empty"], "empty"),
    (["report", "file"], "file"),
    (["report", "empty", "--gpu-id", "99"], "GPU"),
    (["report", "empty", "--output", "file/x.md"], "file"),
    (["bench", "gone", "good.spacy"], "gone"),
    (["bench", "pipeline", "gone.spacy"], "gone.spacy"),
    (["bench", "pipeline", "good.spacy", "--gpu-id", "99"], "GPU"),
    (["calibrate", "gone", "good.spacy", "-o", "x"], "gone"),
    (["calibrate", "pipeline", "broken.spacy", "-o", "x"], "broken.spacy"),
    (["calibrate", "pipeline", "good.spacy", "-o", "x", "--gpu-id", "99"], "GPU"),
    (["find-threshold", "gone", "good.spacy"], "gone"),
    (["find-threshold", "pipeline", "gone.spacy"], "M081"),
    (["find-threshold", "pipeline", "good.spacy", "--gpu-id", "99"], "GPU"),
    (["cv", "missing.cfg", "good.spacy", "-o", "x"], "missing.cfg"),
    (["cv", "factory.cfg", "good.spacy", "-o", "x"], "M209"),
    (["cv", str(CONFIG), "broken.spacy", "-o", "x"], "broken.spacy"),
    (["errors", "gone"], "gone"),
    (["errors", "gone", "good.spacy"], "gone"),
    (["errors", "pipeline", "good.spacy", "--gpu-id", "99"], "GPU"),
    (["convert", "gone", "x.spacy"], "gone"),
    (["convert", "binary.cfg", "x.spacy"], "binary.cfg"),
    (["convert", "good.spacy", "file/x.spacy"], "file"),
    (["convert", "file", "x.spacy", "--lang", "nonsense"], "nonsense"),
]


def test_wrong_input(files: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    offenders = []
    for args, expected in CASES:
        result = run(*(arg.replace("ENCODER", encoder) for arg in args))
        is_clean = isinstance(result.exception, SystemExit) and result.exit_code in (1, 2)
        if not is_clean or expected not in result.output:
            offenders.append((args, repr(result.exception), result.output[-300:]))
    assert offenders == []
