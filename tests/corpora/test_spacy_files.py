"""spaCy's own files: `.spacy`, and the JSON of v2."""

from typing import Any

import pytest
from doc_facts import describe, ents
from spacy.tokens import Doc, DocBin
from spacy.training import docs_to_json
from spacy.vocab import Vocab

from spacy_mtl.cli.convert import convert
from spacy_mtl.corpora.formats import read_docs


def make_doc(**values: Any) -> Doc:
    return Doc(Vocab(), words=["Mira", "saw"], spaces=[True, False], **values)


def test_spacy_files_are_joined_and_filtered(tmp_path):
    gold = make_doc(tags=["A", "B"], ents=["B-PER", "O"])
    gold.cats = {"x": 1.0}
    other = make_doc()
    other.cats = {"y": 1.0, "z": 0.0}
    DocBin(docs=[gold]).to_disk(tmp_path / "a.spacy")
    DocBin(docs=[other]).to_disk(tmp_path / "b.spacy")
    docs = list(read_docs([tmp_path / "a.spacy", tmp_path / "b.spacy"], Vocab()))
    assert [doc.cats for doc in docs] == [{"x": 1.0}, {"y": 1.0, "z": 0.0}]
    assert list(map(describe, docs)) == list(map(describe, [gold, other]))
    convert([tmp_path / "a.spacy"], tmp_path / "c.spacy", tasks=["ents"])
    (doc,) = DocBin().from_disk(tmp_path / "c.spacy").get_docs(Vocab())
    assert (ents(doc), doc.has_annotation("TAG"), doc.cats) == ([("Mira", "PER")], False, {})


def test_user_data_is_reported(tmp_path):
    doc = make_doc(tags=["A", "B"])
    doc.user_data["source"] = "web"
    DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "a.spacy")
    with pytest.warns(UserWarning, match="W110.*user data.*'source'.*record 1"):
        list(read_docs([tmp_path / "a.spacy"], Vocab()))


def test_a_broken_spacy_file(read_file):
    with pytest.raises(ValueError, match=r"M156.*a\.spacy"):
        read_file("no", "a.spacy")


def test_json_of_v2(read_file):
    source = make_doc(
        tags=["A", "B"],
        ents=["B-PER", "O"],
        heads=[1, 1],
        deps=["nsubj", "ROOT"],
        lemmas=["Mira", "see"],
        sent_starts=[True, False],
    )
    source.cats = {"x": 1.0, "y": 0.0}
    (doc,) = read_file([docs_to_json([source])], "a.json")
    assert describe(doc) == describe(source)
    assert [(t.lemma_, t.dep_, t.head.i) for t in doc] == [("Mira", "nsubj", 1), ("see", "ROOT", 1)]
    (bare,) = read_file(
        [docs_to_json([make_doc(tags=["A", "B"], sent_starts=[True, False])])], "a.json"
    )
    assert [token.ent_iob_ for token in bare] == ["", ""]


def test_brackets_of_v2_are_reported(read_file):
    data = docs_to_json([make_doc(tags=["A", "B"], sent_starts=[True, False])])
    data["paragraphs"][0]["sentences"][0]["brackets"] = [{"first": 0, "last": 1, "label": "NP"}]
    with pytest.warns(UserWarning, match="W110.*'brackets'.*record 1"):
        read_file([data], "a.json")


def test_broken_json_of_v2(read_file):
    with pytest.raises(ValueError, match=r"M154.*a\.json, record 1.*sentences"):
        read_file([{"paragraphs": [{}]}], "a.json")
