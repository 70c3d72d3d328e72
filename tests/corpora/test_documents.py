"""Docs keep the id of the document that they come from."""

import json
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import run_spacy
from spacy.tokens import Doc, DocBin

from spacy_mtl.attributes import CustomAttribute
from spacy_mtl.corpora.chunks import cut_doc
from spacy_mtl.corpora.documents import drop_other_data, get_document, set_document
from spacy_mtl.corpora.formats import read_docs

VOCAB = spacy.blank("en").vocab
ROW = "\t_" * 8
# CoNLL-U: sentences with one word.
MARKED = f"# newdoc id = a-1\n1\tx{ROW}\n\n1\ty{ROW}\n\n# newdoc\n1\tz{ROW}\n\n"
GENRES = f"# newdoc id = a\n# meta::genre = p\n1\tx{ROW}\n\n# meta::genre = q\n1\ty{ROW}\n\n"
LINES = [
    {"text": "a", "id": 7, "label": "x"},
    {"text": "b", "meta": {"doc_id": "m"}, "label": "x"},
    {"text": "c", "doc_key": "k", "id": 1, "label": "x"},
    {"text": "d", "id": None, "label": "x"},
]
CONLL = "-DOCSTART- O\n\nx O\n\ny B-P\n\n-DOCSTART- O\n\nz O\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.conllu", MARKED, ["a-1", "f:2"]),
        ("f.conllu", GENRES, ["a", "a"]),
        ("f.conllu", f"1\tx{ROW}\n\n", [None]),
        ("f.conll", CONLL, ["f:1", "f:2"]),
        ("f.conll", "# newdoc id = n\nx O\n\ny B-P\n", ["n"]),
        ("f.conll", "x O\n\ny B-P\n", [None, None]),
        ("f.jsonl", "\n".join(map(json.dumps, LINES)), ["7", "m", "k", None]),
    ],
)
@pytest.mark.filterwarnings("ignore:.W115:UserWarning")
def test_ids_of_formats(
    tmp_path: Path, name: str, content: str, expected: list[str | None]
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf8")
    assert [get_document(doc) for doc in read_docs([path], VOCAB)] == expected


def test_brat(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Maria flew", encoding="utf8")
    (tmp_path / "note.ann").write_text("T1\tPERSON 0 5\tMaria\n", encoding="utf8")
    (doc,) = read_docs([tmp_path / "note.ann"], VOCAB)
    assert get_document(doc) == "note"


def test_chunks_share_the_id() -> None:
    doc = Doc(VOCAB, words=list("abcd"), sent_starts=[True, False, True, False])
    assert [get_document(chunk) for chunk in cut_doc(doc, 2)] == [None, None]
    set_document(doc, "x")
    assert [get_document(chunk) for chunk in cut_doc(doc, 2)] == ["x", "x"]


def test_files_keep_the_ids(tmp_path: Path) -> None:
    """Also those that `convert` reads again."""
    path = tmp_path / "f.conllu"
    rows = "".join(f"1\tw{i}\t_\t_\tN{ROW[:10]}\n\n" for i in range(4))
    path.write_text(f"# newdoc id = a\n{rows}# newdoc id = b\n{rows}", encoding="utf8")
    for i, source in enumerate([path, tmp_path / "0.spacy"]):
        run_spacy("mtl", "convert", str(source), str(tmp_path / f"{i}.spacy"), "--words", "2")
        docs: Any = DocBin().from_disk(tmp_path / f"{i}.spacy").get_docs(VOCAB)
        found = [(get_document(doc), len(doc)) for doc in docs]
        assert found == [("a", 2), ("a", 2), ("b", 2), ("b", 2)]


def test_other_user_data_are_removed() -> None:
    doc = Doc(VOCAB, words=["a"])
    doc.user_data = {"document_id": "x", "object": object()}
    doc._.relations, doc._.scores = [], {"age": 3.0}
    CustomAttribute("normal_form").write(doc, "x")
    drop_other_data([doc])
    assert doc.user_data.pop("document_id") == "x" and len(doc.user_data) == 3
    assert (doc._.relations, doc._.scores) == ([], {"age": 3.0})
    assert doc._.normal_form == "x"
    drop_other_data([Doc(VOCAB)])
