"""Which format a file has, and formats of other packages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catalogue
import pytest
from spacy.cli._util import app
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab
from typer.testing import CliRunner

from spacy_mtl.cli.convert import convert
from spacy_mtl.corpora.formats import Format, find_files, formats, get_formats, guess_format


def read_lines(path: Path, vocab: Vocab, *, tag: str = "X") -> Iterator[Doc]:
    """A doc for each line, with a tag and a span."""
    for line in path.read_text(encoding="utf8").splitlines():
        words = line.split()
        doc = Doc(vocab, words=words, tags=[tag] * len(words))
        doc.spans["all"] = [Span(doc, 0, len(doc), label="LINE")]
        yield doc


class Lines(Format):
    """Known by the first line."""

    def matches(self, path: Path) -> bool:
        return path.is_file() and path.read_text(encoding="utf8").startswith("#lines")


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[None]:
    value: Any = getattr(request, "param", Format(read_lines, ["*.lines"], ["tag"]))
    formats.register("lines", func=value)
    yield
    del catalogue.REGISTRY["spacy_mtl", "formats", "lines"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "a.lines").write_text("one two\nthree\n", encoding="utf8")
    (tmp_path / "b.txt").write_text("#lines of text\n", encoding="utf8")
    (tmp_path / "c.csv").write_text("#lines,text,label\n1,hi,x\n", encoding="utf8")
    return tmp_path


def load(path: Path) -> list[Doc]:
    return list(DocBin().from_disk(path).get_docs(Vocab()))


def test_options_of_formats_have_defaults(tmp_path: Path) -> None:
    """Each reader takes its options, and needs none of them."""
    known = get_formats()
    assert {"conllu", "slots", "jsonl", "csv", "tsv", "clinc"} <= known.keys()
    values = {"tags": "upos", "lang": "en"}
    for format in known.values():
        options = {key: values.get(key, "x") for key in format.options}
        for given in ({}, options):
            with pytest.raises(ValueError, match="M101"):
                list(format.read(tmp_path / "none", Vocab(), **given))


def test_format_of_another_package(registered: None, corpus: Path) -> None:
    assert guess_format(corpus / "a.lines") == "lines"
    assert ("lines", corpus / "a.lines") in find_files([corpus])
    counts = convert([corpus / "a.lines"], corpus / "out.spacy", tag="Y")
    assert counts.tasks["tags"].labels == {"Y": 3}
    assert counts.tasks["spans"].labels == {"LINE": 2}
    assert [doc.spans["all"][0].label_ for doc in load(corpus / "out.spacy")] == ["LINE"] * 2


def test_command(registered: None, corpus: Path) -> None:
    paths = [str(corpus / "a.lines"), str(corpus / "out.spacy")]
    result = CliRunner().invoke(app, ["mtl", "convert", *paths, "-o", "tag=Z", "-t", "tags"])
    assert result.exit_code == 0, result.output
    docs = load(corpus / "out.spacy")
    assert [token.tag_ for doc in docs for token in doc] == ["Z"] * 3
    assert not any(doc.spans for doc in docs)


@pytest.mark.parametrize("registered", [Lines(read_lines, [])], indirect=True)
def test_format_by_content(registered: None, corpus: Path) -> None:
    assert guess_format(corpus / "a.lines") is None
    assert guess_format(corpus / "b.txt") == "lines"
    with pytest.raises(ValueError, match=r"M129.*c\.csv.*'csv', 'lines'"):
        find_files([corpus])
    assert find_files([corpus / "c.csv"], "csv") == [("csv", corpus / "c.csv")]


@pytest.mark.parametrize("registered", [read_lines], indirect=True)
def test_something_else_is_registered(registered: None) -> None:
    with pytest.raises(ValueError, match=r"M128.*'lines'.*Format"):
        get_formats()
