"""The README's snippets do what they say."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code,expected", re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.S)
)
def test_python_prints_what_stands_below(code: str, expected: str, tmp_path: Path) -> None:
    assert run([sys.executable, "-W", "ignore", "-c", code], tmp_path) == expected


def test_every_python_block_is_tested() -> None:
    assert blocks("python") and README.count("```python") == len(
        re.findall(r"```python\n.*?```\n\n```text\n", README, flags=re.S)
    )


def test_shell_lines(tmp_path: Path) -> None:
    for name in ("configs", "assets"):
        shutil.copytree(ROOT / name, tmp_path / name)
    output = ""
    for line in "".join(blocks("bash")).splitlines():
        words = shlex.split(line.replace("max_steps 200", "max_steps 3"))
        assert words[0] == "python"
        output += run([sys.executable, *words[1:]], tmp_path)
    (table,) = re.findall(r"The first line prints\n\n```text\n(.*?)```", README, flags=re.S)
    assert table.strip() in output


def test_configured_names_exist() -> None:
    entry_points = (ROOT / "setup.cfg").read_text(encoding="utf8")
    for name in set(re.findall(r"spacy-mtl\.\w+\.v\d", README)):
        assert name in entry_points, name
