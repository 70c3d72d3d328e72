"""Standoff files of BRAT."""

import pytest
from doc_facts import ents, iob
from spacy.vocab import Vocab

from spacy_mtl.annotations.relations import get_relations
from spacy_mtl.corpora.formats import find_files, read_docs


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"Mira saw\r\nTarn")
    (tmp_path / "a.ann").write_text("T1\tPER 0 4\tMira\nT2\tLOC 10 14\tTarn\n", encoding="utf8")
    return tmp_path


def read(folder, **options):
    return list(read_docs([folder], Vocab(), **options))


def test_a_folder(folder):
    (doc,) = read(folder)
    assert ents(doc) == [("Mira", "PER"), ("Tarn", "LOC")]
    assert find_files([folder / "a.txt"]) == [("brat", folder / "a.ann")]


def test_what_is_left_out(folder):
    text = "T1\tPER 0 4;10 14\tMira Tarn\nA1\tin T1\n#1\tNote T1\tx\n"
    (folder / "a.ann").write_text(text, encoding="utf8")
    with pytest.warns(UserWarning) as told:
        (doc,) = read(folder)
    assert iob(doc) == ["", "O", "O", ""]
    told = " ".join(str(item.message) for item in told)
    for part in (
        "entities of several parts, in line 1",
        "'attributes' (line 2)",
        "'notes' (line 3)",
    ):
        assert part in told


def test_relations(folder):
    text = "T1\tPER 0 4\tMira\nR1\tin Arg1:T1 Arg2:T2\nT2\tLOC 10 14\tTarn\n"
    (folder / "a.ann").write_text(text, encoding="utf8")
    (doc,) = read(folder)
    ((head, child, label, _),) = get_relations(doc)
    assert (doc[slice(*head)].text, doc[slice(*child)].text, label) == ("Mira", "Tarn", "in")


def test_a_file_without_entities(folder):
    (folder / "a.ann").write_text("", encoding="utf8")
    with pytest.warns(UserWarning, match=r"W115"):
        with pytest.warns(UserWarning, match=r"W111.*all are missing"):
            (doc,) = read(folder)
    assert not doc.has_annotation("ENT_IOB")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("R1\tin Arg1:T1", "M114"),
        ("R1\tin Arg1:T1 Arg2:T9", "M139"),
        ("T1 PER 0 4", "M114"),
        ("T1\tPER 0 3\tMir", "M111"),
        ("T1\tPER 0 4\tTarn", "M153"),
    ],
)
def test_errors_name_the_line(folder, line, code):
    (folder / "a.ann").write_text(f"\n{line}\n", encoding="utf8")
    with pytest.raises(ValueError, match=rf"{code}.*a\.ann, line 2"):
        read(folder)


def test_errors_are_skipped(folder):
    (folder / "a.ann").write_text("T1\tPER 0 3\tMir\nT2\tLOC 10 14\tTarn\n", encoding="utf8")
    with pytest.warns(UserWarning, match="W112.*1 left out.*entities.*line 1"):
        (doc,) = read(folder, skip_errors=True)
    assert iob(doc) == ["", "O", "O", "B"]


def test_a_missing_text(folder):
    (folder / "a.txt").unlink()
    with pytest.raises(ValueError, match=r"M101.*a\.txt"):
        read(folder)
