"""The README's snippets print what the README says."""

import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import run_spacy
from spacy.tokens import DocBin
from spacy.vocab import Vocab

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


@pytest.mark.parametrize(
    "code,expected", re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.S)
)
def test_python_prints_the_text_below(
    code: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == expected


def test_every_python_block_is_tested() -> None:
    assert blocks("python") and README.count("```python") == len(
        re.findall(r"```python\n.*?```\n\n```text\n", README, flags=re.S)
    )


def test_shell_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line runs in a process of its own, as on a user's command line."""
    for name in ("configs", "assets"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    first, *others = "".join(blocks("bash")).splitlines()
    words = [sys.executable, *shlex.split(first)[1:]]
    output = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    (table,) = re.findall(r"The first line prints\n\n```text\n(.*?)```", README, flags=re.S)
    assert table.strip() in output
    for line in others:
        words = shlex.split(line.replace("max_steps 200", "max_steps 2"))
        assert words[:3] == ["python", "-m", "spacy"]
        run_spacy(*words[3:])
        cut_corpora(tmp_path)


def cut_corpora(folder: Path) -> None:
    """Leave 60 docs of each corpus."""
    for path in folder.glob("corpus/*.spacy"):
        docs = list(DocBin().from_disk(path).get_docs(Vocab()))
        DocBin(docs=docs[:60], store_user_data=True).to_disk(path)


def test_configured_names_exist() -> None:
    entry_points = (ROOT / "setup.cfg").read_text(encoding="utf8")
    for name in set(re.findall(r"spacy-mtl\.\w+\.v\d", README)):
        assert name in entry_points, name
