import json
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from conftest import make_gold
from spacy.language import Language
from spacy.tokens import DocBin
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.training.loop import CHECKPOINT

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
OVERRIDES = {
    "components.transformer.model.precision": "float32",
    "training.batcher.size": 20,
    "training.max_steps": 4,
    "training.eval_frequency": 2,
}


@pytest.fixture
def options(encoder: str, tmp_path: Path) -> dict[str, Any]:
    """What overrides the config: a corpus of 4 docs, and a training of 4 steps."""
    path = tmp_path / "corpus.spacy"
    vocab = spacy.blank("en").vocab
    DocBin(docs=[make_gold(vocab, i) for i in range(4)]).to_disk(path)
    return OVERRIDES | {"paths.train": path, "paths.dev": path, "paths.encoder": encoder}


def invoke(*args: Any, **options: Any) -> tuple[int, str]:
    """RETURNS (Tuple[int, str]): The exit code and the output, on one line."""
    overrides = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    result = CliRunner().invoke(mtl_cli, ["train", str(CONFIG), *map(str, args), *overrides])
    if result.exception and not isinstance(result.exception, (SystemExit, KeyboardInterrupt)):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def get_files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.glob("model-*/**/*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_stop_and_resume(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "new" / "parts"
    code, output = invoke("-o", whole, **options)
    assert code == 0 and "Saved pipeline to output directory" in output
    files = get_files(whole)
    assert {"model-best/README.md", "model-last/README.md"} <= files.keys()
    code, output = invoke("-o", whole, **options)
    assert code == 1 and "M207" in output and "--overwrite" in output
    assert get_files(whole) == files
    code, output = invoke("-o", whole, "--overwrite", **options)
    assert code == 0 and get_files(whole) == files
    update, updates = Language.update, iter(range(3))

    def update_or_stop(*args: Any, **kwargs: Any) -> Any:
        if next(updates, None) is None:
            raise KeyboardInterrupt
        return update(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Language, "update", update_or_stop)
        code, output = invoke("--output", parts, "--resume", **options)
    assert code and "No checkpoint in" in output and "a new run starts" in output
    assert get_files(parts) != get_files(whole)
    code, output = invoke("--output", parts, "--resume", **options)
    assert code == 0 and "Resuming after step 2" in output
    assert get_files(parts) == get_files(whole)
    code, output = invoke("--output", parts, "--resume", **options)
    assert code == 0 and "Training had finished at step 4" in output
    assert get_files(parts) == get_files(whole)
    code, output = invoke("-o", parts, "-r", **options | {"training.max_steps": 6})
    assert code == 0 and "Saved pipeline" in output
    plain = json.loads(torch.load(parts / CHECKPOINT)["plain"])
    assert [info["step"] for info in plain["evaluations"]] == [0, 2, 4, 6]

    code, output = invoke("-o", parts, "--resume", **options | {"training.dropout": 0.5})
    assert code == 1 and "M060" in output and "training.dropout = 0.5, not 0.1" in output
    (parts / CHECKPOINT).write_bytes((parts / CHECKPOINT).read_bytes()[:-500])
    code, output = invoke("-o", parts, "--resume", **options)
    assert code == 1 and "M061" in output


def test_without_an_output(options: dict[str, Any], tmp_path: Path) -> None:
    code, output = invoke(**options)
    assert code == 0 and "No output directory provided" in output
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.spacy"]
    code, output = invoke("--resume", **options)
    assert code == 1 and "M063" in output


def test_code_is_imported(options: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise RuntimeError('this was run')")
    code, output = invoke("--code", script, "--gpu-id", -1, **options)
    assert code == 1 and "this was run" in output
