"""The README and the pages of docs/ are true: their snippets run and print what they show, and the
site builds without a warning.

A page is run from top to bottom in an empty folder with copies of configs/ and assets/:

- A block below a line with a file name in backticks and a colon is written to this file.
- `python` blocks share a namespace. `bash` blocks are commands of `python -m spacy`.
- A `text` block right below is the output of a `python` or `bash` block. "..." stands for anything.
- `ini` blocks are parts of a config. They are merged into configs/mtl_cpu.cfg.
- All other blocks are only shown.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

import pytest
from conftest import Trainings, make_gold, run_spacy
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.util import load_config
from spacy.vocab import Vocab
from thinc.api import Config

import spacy_mtl.pretrained
from spacy_mtl.corpora.batching import load_tokenizer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_TEST = ["deploying.md", "third_party.md"]  # test_deploying.py, test_third_party.py
SHORT = ["--training.max_steps", "2", "--training.eval_frequency", "2"]
FENCED = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass
class Block:
    """A fenced block of a page."""

    line: int
    file: str | None
    language: str
    text: str


def find_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, match.start(2)) + 1, *match.groups())
        for match in FENCED.finditer(text)
    ]


def run_page(page: Path, folder: Path, encoder: str) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in the working directory.

    YIELDS (Tuple[Block, str]): Each block and what it printed.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in find_blocks(page):
        output = ""
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            output = run_python(block.text, f"{page.name}, line {block.line}", namespace)
        elif block.language == "bash":
            lines = block.text.replace("\\\n", " ").splitlines()
            output = "".join(run_line(line, encoder) for line in lines)
        elif block.language == "ini":
            initialize(block.text, folder, encoder)
        yield block, output


@contextmanager
def replace_minilm(encoder: str) -> Iterator[None]:
    """Load the encoder of this folder under the name "minilm"."""
    load_tokenizer.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spacy_mtl.pretrained, "embedded_minilm", lambda: Path(encoder))
        yield
    load_tokenizer.cache_clear()


def run_python(code: str, name: str, namespace: dict[str, Any]) -> str:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as output:
        warnings.simplefilter("ignore")
        exec(compile(code, name, "exec"), namespace)
    return output.getvalue()


def run_line(line: str, encoder: str) -> str:
    """Run a command with a tiny encoder in place of "minilm". Training takes two updates. A search
    has one trial, in a process of its own.
    """
    words = shlex.split(line, comments=True)
    assert words[:3] == ["python", "-m", "spacy"], line
    if {"train", "cv"} & {*words[3:5]}:
        words += SHORT
    if "tune" in words:
        words += [*SHORT, "--paths.encoder", encoder, "--trials", "1"]
    with replace_minilm(encoder), pytest.MonkeyPatch.context() as patch:
        Trainings(patch)
        return run_spacy(*words[3:])


def initialize(text: str, folder: Path, encoder: str) -> None:
    """Merge a part of a config into configs/mtl_cpu.cfg, and initialize the pipeline."""
    part = Config().from_str(add_parents(text), interpolate=False)
    config = load_config(ROOT / "configs" / "mtl_cpu.cfg")
    for name in part.get("components", {}):
        if name not in config["nlp"]["pipeline"]:
            config["nlp"]["pipeline"].append(name)
    merge(config, part)
    corpus = folder / "gold" / "corpus.spacy"
    if not corpus.exists():
        corpus.parent.mkdir()
        DocBin(docs=[make_gold(Vocab(), i) for i in range(4)]).to_disk(corpus)
    for name in {"train", "dev", *part.get("paths", {})}:
        config["paths"][name] = str(corpus)
    with replace_minilm(encoder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_nlp(Config(config).interpolate())


def add_parents(text: str) -> str:
    """Add the headers of the sections around those of a part of a config."""
    names = re.findall(r"^\[(.+)\]$", text, re.M)
    parents = {
        ".".join(parts[:end])
        for parts in (name.split(".") for name in names)
        for end in range(1, len(parts))
    }
    return "".join(f"[{name}]\n" for name in sorted(parents - {*names})) + text


def merge(config: dict[str, Any], part: dict[str, Any]) -> None:
    """Merge sections. A section with another registered function, factory or source replaces the
    one before it.
    """
    for key, value in part.items():
        before = config.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            kinds = [k for k in value if k[0] == "@" or k in ("factory", "source")]
            if all(value[kind] == before.get(kind) for kind in kinds):
                merge(before, value)
                continue
        config[key] = value


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in OWN_TEST], ids=lambda page: page.stem
)
def test_snippets(
    page: Path, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("configs", "assets"):
        shutil.copytree(ROOT / name, tmp_path / name)
    if page.name != "README.md":  # which shows the counts of the sample
        for path in (tmp_path / "assets").glob("*.conllu"):
            docs = path.read_text(encoding="utf-8").split("# newdoc id")
            path.write_text("# newdoc id".join(docs[:41]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    checker, flags = OutputChecker(), ELLIPSIS | NORMALIZE_WHITESPACE
    source, output = "", ""
    for block, printed in run_page(page, tmp_path, encoder):
        if block.language == "text" and source in ("python", "bash"):
            expected = block.text if source == "python" else f"...{block.text}..."
            assert checker.check_output(expected, output, flags), (block.line, output)
        source, output = block.language, printed


def test_all_pages_are_in_the_form_that_the_test_runs() -> None:
    wrong = []
    for page in [page for page in PAGES if page.name not in OWN_TEST]:
        text = page.read_text(encoding="utf-8")
        n_fences = len(re.findall(r"^\s*```", text, re.M))
        if n_fences != 2 * len(find_blocks(page)):
            wrong.append(f"{page.name}: an indented or unclosed block")
        wrong += [
            f"{page.name}, line {block.line}: a command that no test runs"
            for block in find_blocks(page)
            if block.language in ("", "console", "sh", "shell")
            and re.search(r"^python -m spacy (?!project|mtl package)", block.text, re.M)
        ]
    assert wrong == []


def test_configured_names_exist() -> None:
    entry_points = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    unknown = [
        (page.name, name)
        for page in PAGES
        for name in sorted(set(re.findall(r"spacy-mtl\.\w+\.v\d", page.read_text("utf-8"))))
        if name not in entry_points
    ]
    assert unknown == []


def test_links_of_files_outside_the_site() -> None:
    """Links within docs/ are checked when the site is built."""
    wrong = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        wrong += [(page.name, link) for link in links if not (page.parent / link).exists()]
    assert wrong == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["--config-file", str(ROOT / "docs" / "site" / "mkdocs.yml")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement of the theme
    run = subprocess.run(
        [*command, "--site-dir", str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    html = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html"))
    remote = r'<(?:script|img|iframe)[^>]+src="https?:|<link[^>]+href="https?:'
    assert re.findall(remote, html) == [], "the site must not load files of other servers"
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    names = re.findall(r"^    (spacy-mtl\.\S+|mtl_\w+) = ", setup, re.M)
    headings = set(re.findall(r">\s*([\w.-]+)\s*<", html))
    assert [name for name in names if name not in headings] == []
