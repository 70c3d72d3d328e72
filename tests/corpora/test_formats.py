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
    values = {"tags": "upos", "lang": "en", "skip_errors": True}
    for format in known.values():
        options = {key: values.get(key, "x") for key in format.options}
        for given in ({}, options):
            with pytest.raises(ValueError, match="M101"):
                list(format.read(tmp_path / "none", Vocab(), **given))


def test_format_of_another_package(registered: None, corpus: Path) -> None:
    assert guess_format(corpus / "a.lines") == "lines"
    with pytest.warns(UserWarning, match=r"W113.*1 of its files.*'b\.txt'"):
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


FILES = {
    "conllu": "1\ta\t_\tX\tY\t_\t0\t_\t_\t_\n",
    "columns": "Anna\tB-PER\nleft\tO\n",
    "fasttext": "__label__x hi\n",
    "tsv": "text\tlabel\nhi there\tx\n",
}


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.conll", "conllu"),
        ("a.conll", "columns"),
        ("a.iob2", "columns"),
        ("a.txt", "columns"),
        ("a.TXT", "fasttext"),
        ("a.tsv", "columns"),
        ("a.TSV", "tsv"),
    ],
)
def test_formats_that_share_names(tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).write_text(FILES[format], encoding="utf8")
    assert guess_format(tmp_path / name) == format


def test_a_format_of_which_only_the_name_fits(tmp_path: Path) -> None:
    """The reader says what is wrong with the file."""
    (tmp_path / "a.conllu").write_text("1 a b\n", encoding="utf8")
    with pytest.raises(ValueError, match="M103"):
        convert([tmp_path / "a.conllu"], tmp_path / "out.spacy")


def test_a_folder(tmp_path: Path) -> None:
    """What is not read of a folder is told, but not hidden files and the output."""
    (tmp_path / "a.CSV").write_text("text,label\nhi,x\n", encoding="utf8")
    for name in (".hidden", "out.spacy", "notes.md"):
        (tmp_path / name).write_text("", encoding="utf8")
    (tmp_path / "more").mkdir()
    with pytest.warns(UserWarning, match=r"W113.*2 of its files.*: 'more/', 'notes\.md'") as told:
        convert([tmp_path], tmp_path / "out.spacy")
    assert len(told) == 1


def test_files_in_which_nothing_was_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nhi,x\n", encoding="utf8")
    (tmp_path / "b.csv").write_text("text,label\n", encoding="utf8")
    (tmp_path / "c.conll").write_text("# x = y\na _\nb _\n\nc _\n", encoding="utf8")
    with pytest.warns(UserWarning) as told:
        convert([tmp_path], tmp_path / "out.spacy")
    nothing, unlabelled = (str(item.message) for item in told)
    assert "W114" in nothing and "b.csv" in nothing
    assert "W115" in unlabelled and "none of its 2 docs" in unlabelled


def test_labels_of_files_that_share_some(tmp_path: Path) -> None:
    for name, labels in {"a": "xy", "b": "yz", "c": "w"}.items():
        rows = "".join(f"hi,{label}\n" for label in labels)
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}", encoding="utf8")
    convert([tmp_path], tmp_path / "out.spacy")
    cats = [doc.cats for doc in load(tmp_path / "out.spacy")]
    assert [sorted(value) for value in cats] == [["x", "y", "z"]] * 4 + [["w"]]
    assert all(sum(value.values()) == 1.0 for value in cats)
