"""`spacy mtl embed`: rows for texts of each kind of file, and errors for wrong ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import TEXTS, WIDTH, watch_encoder
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.cli.embed import ArrayFile, find_unused, stream_lines


@pytest.fixture(scope="module")
def pipeline(make_nlp: Callable[..., Language], tmp_path_factory: pytest.TempPathFactory) -> Path:
    nlp = make_nlp("tagger", "vectors", "textcat", config={"vectors": {"dtype": "float16"}})
    nlp.add_pipe("sentencizer", first=True)
    path = tmp_path_factory.mktemp("embed") / "pipeline"
    nlp.to_disk(path)
    return path


@pytest.fixture
def expected(pipeline: Path) -> numpy.ndarray:
    return numpy.stack([doc.vector for doc in spacy.load(pipeline).pipe(TEXTS)])


def run(*args: object) -> Any:
    return CliRunner().invoke(mtl_cli, ["embed", *map(str, args)])


def write_texts(path: Path) -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps({"body": text}) for text in TEXTS))
    elif path.suffix == ".txt":
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode())
    else:
        vocab = spacy.blank("en").vocab
        DocBin(docs=[Doc(vocab, words=text.split()) for text in TEXTS]).to_disk(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.spacy", ""])
def test_files(pipeline: Path, expected: numpy.ndarray, tmp_path: Path, name: str) -> None:
    write_texts(tmp_path / (name or "a.spacy"))
    output = tmp_path / "new" / "out.npy"
    result = run(pipeline, tmp_path / name, output, "--text-key", "body", "--batch-size", 3)
    assert result.exit_code == 0, result.output
    assert f"4 vectors of {WIDTH} numbers" in result.output
    found = numpy.load(output)
    assert found.dtype == "float16" and found.shape == (4, WIDTH)
    assert numpy.allclose(found, expected, atol=2e-3)
    assert numpy.load(output, mmap_mode="r").shape == (4, WIDTH)
    assert [path.name for path in output.parent.iterdir()] == ["out.npy"]


def test_sentences(pipeline: Path, tmp_path: Path) -> None:
    texts = [" ".join(TEXTS[:2]), TEXTS[2], "", TEXTS[3]]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    output = tmp_path / "a.npy"
    result = run(pipeline, tmp_path / "a.jsonl", output, "--unit", "sents")
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "a.npy.jsonl").read_text().splitlines()
    places = [json.loads(line) for line in lines]
    assert [place["text"] for place in places] == TEXTS
    assert [place["doc"] for place in places] == [0, 0, 1, 3]
    assert all(texts[p["doc"]][p["start"] : p["end"]] == p["text"] for p in places)
    doc = spacy.load(pipeline)(texts[0])
    found = numpy.load(output)
    assert found.shape == (4, WIDTH)
    assert numpy.allclose(found[:2], [sent.vector for sent in doc.sents], atol=2e-3)


def test_blank_lines_have_rows_of_zeros(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"\n{TEXTS[0]}\n\n")
    with pytest.warns(UserWarning, match="W127"):
        assert run(pipeline, tmp_path / "a.txt", tmp_path / "a.npy").exit_code == 0
    found = numpy.load(tmp_path / "a.npy")
    assert found.any(axis=1).tolist() == [False, True, False]


def test_only_encoders_run(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = spacy.load(pipeline)
    assert find_unused(nlp, "vectors") == ["tagger", "textcat"]
    nlp.replace_listeners("transformer", "vectors", ["model.tok2vec"])
    nlp.remove_pipe("transformer")
    assert find_unused(nlp, "vectors") == ["textcat"]
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    seen = watch_encoder(monkeypatch)
    monkeypatch.setattr("spacy_mtl.heads.tagger.MultiTaskTagger.predict", None)
    assert run(pipeline, tmp_path / "a.txt", tmp_path / "a.npy").exit_code == 0
    assert len(seen) == len(TEXTS)


WRONG: list[tuple[str, bytes, str]] = [
    ("a.txt", b"one\n\xff\xfe two", "line 2: the byte 0xff"),
    ("a.txt", b"", "M176"),
    ("a.txt", b"\n\n", "M176"),
    ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "a"}', "'txt'"),
    ("a.jsonl", b'{"text": "a"}\n{"text": 3}', "line 2"),
    ("a.jsonl", b'["a"]', "line 1"),
    ("a.csv", b"a,b", "M177"),
    ("a.spacy", b"x", "M205"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_wrong_files(
    pipeline: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """No row of a file that is wrong is left, and an older array stays."""
    (tmp_path / name).write_bytes(content)
    output = tmp_path / "a.npy"
    output.write_bytes(b"old")
    result = run(pipeline, tmp_path / name, output)
    assert result.exit_code == 1 and message in " ".join(result.output.split())
    assert output.read_bytes() == b"old" and len([*tmp_path.iterdir()]) == 2


def test_wrong_arguments(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    spacy.blank("en").to_disk(tmp_path / "blank")
    cases = [
        ([pipeline, tmp_path / "b.txt", "a.npy"], "M101"),
        ([pipeline, tmp_path / "a.txt", "a.txt"], "M174"),
        ([tmp_path / "blank", tmp_path / "a.txt", "a.npy"], "M175"),
        ([tmp_path / "gone", tmp_path / "a.txt", "a.npy"], "M204"),
    ]
    for args, code in cases:
        result = run(*args)
        assert result.exit_code == 1 and code in result.output, result.output


def test_sentences_need_boundaries(make_nlp: Callable[..., Language], tmp_path: Path) -> None:
    make_nlp("vectors").to_disk(tmp_path / "pipeline")
    (tmp_path / "a.txt").write_text(TEXTS[0])
    result = run(tmp_path / "pipeline", tmp_path / "a.txt", tmp_path / "a.npy", "-u", "sents")
    assert result.exit_code == 1 and "E030" in result.output


def test_normalized_rows(make_nlp: Callable[..., Language], tmp_path: Path) -> None:
    nlp = make_nlp("vectors", config={"vectors": {"normalize": True}})
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "pipeline")
    (tmp_path / "a.txt").write_text(" ".join(TEXTS))
    for unit, n in (("docs", 1), ("sents", 4)):
        output = tmp_path / f"{unit}.npy"
        assert run(tmp_path / "pipeline", tmp_path / "a.txt", output, "-u", unit).exit_code == 0
        found = numpy.load(output)
        assert found.shape == (n, WIDTH)
        assert numpy.allclose(numpy.linalg.norm(found, axis=1), 1, atol=1e-5)


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=1))
def test_array_file(tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]]) -> None:
    path = tmp_path_factory.mktemp("array") / "a.npy"
    with path.open("wb") as file:
        array = ArrayFile(file)
        for row in rows:
            array.append(numpy.array(row, dtype="float32"))
        array.finish()
    assert numpy.array_equal(numpy.load(path), numpy.array(rows, dtype="float32"))


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
def test_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    expected = [line.removeprefix("\ufeff") if i == 0 else line for i, line in enumerate(lines)]
    assert [line for _, line in stream_lines(path)] == expected
