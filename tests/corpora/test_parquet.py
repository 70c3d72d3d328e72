"""Parquet files, with names of labels as Hugging Face stores them."""

import json
import sys

import pytest
from doc_facts import ents
from spacy.vocab import Vocab

from spacy_mtl.corpora.formats import read_docs

pyarrow = pytest.importorskip("pyarrow")
COLUMNS = {"tokens": [["Mira", "saw"], ["rain"]], "ner_tags": [[1, 0], [0]], "topic": ["x", None]}
FEATURES = {"ner_tags": {"feature": {"names": ["O", "B-PER"]}, "_type": "Sequence"}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.parquet"


def write(path, columns, features):
    from pyarrow.parquet import write_table

    names = {"huggingface": json.dumps({"info": {"features": features}})}
    write_table(pyarrow.table(columns).replace_schema_metadata(names), path)


def test_names_in_the_file(path):
    write(path, COLUMNS, FEATURES)
    first, second = read_docs([path], Vocab())
    assert (ents(first), first.cats) == ([("Mira", "PER")], {"x": 1.0})
    assert (second[0].ent_iob_, second.cats) == ("O", {})
    first, _ = read_docs([path], Vocab(), names="O,B-x")
    assert ents(first) == [("Mira", "x")]


def test_names_are_needed(path):
    write(path, COLUMNS, {})
    with pytest.raises(ValueError, match=r"M152.*'ner_tags'"):
        list(read_docs([path], Vocab()))


def test_a_broken_file(path):
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"M156.*a\.parquet"):
        list(read_docs([path], Vocab()))


def test_without_pyarrow(path, monkeypatch):
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r'M157.*pip install "pyarrow'):
        list(read_docs([path], Vocab()))
