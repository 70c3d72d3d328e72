"""Labels that are numbers."""

import json

import pytest
from doc_facts import ents

from spacy_mtl.corpora.label_names import ANY, parse_names

NER = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC"]
RECORD = {"tokens": ["Mira", "saw", "Tarn"], "ner_tags": [1, 0, 5], "pos_tags": [1, 0, 1]}
FEATURES = {
    "features": {"ner_tags": {"feature": {"names": NER}}, "pos_tags": {"names": ["V", "N"]}}
}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("O\nB-x\n\n", {ANY: ["O", "B-x"]}),
        ('["O", "B-x"]', {ANY: ["O", "B-x"]}),
        (
            '{"ner_tags": ["O"], "label": ["no", "yes"]}',
            {"ner_tags": ["O"], "label": ["no", "yes"]},
        ),
        ('{"id2label": {"1": "B-x", "0": "O"}}', {ANY: ["O", "B-x"]}),
        (json.dumps(FEATURES), {"ner_tags": NER, "pos_tags": ["V", "N"]}),
        ('{"features": {"text": {"dtype": "string"}}}', {}),
    ],
)
def test_files_of_names(tmp_path, content, names):
    (tmp_path / "names").write_text(content, encoding="utf8")
    assert parse_names(str(tmp_path / "names")) == names


def test_names_on_the_command_line():
    assert parse_names("O, B-x") == {ANY: ["O", "B-x"]}
    assert parse_names("a=O,B-x; b=no,yes") == {"a": ["O", "B-x"], "b": ["no", "yes"]}
    assert parse_names("") == {}


def test_named_numbers(read_file):
    (doc,) = read_file([RECORD], names=f"ner_tags={','.join(NER)};pos_tags=V,N")
    assert ents(doc) == [("Mira", "PER"), ("Tarn", "LOC")]
    assert [token.tag_ for token in doc] == ["N", "V", "N"]
    (doc,) = read_file([{"tokens": ["a", "b"], "tags": [1, 2]}], names=",".join(NER))
    assert ents(doc) == [("a b", "PER")]
    first, second = read_file(
        [{"text": "a", "label": 0}, {"text": "b", "label": [0, 1]}], names="x,y"
    )
    assert (first.cats, second.cats) == ({"x": 1.0, "y": 0.0}, {"x": 1.0, "y": 1.0})


def test_keys_without_names_are_left_out(read_file):
    with pytest.warns(UserWarning, match="W110.*keys with numbers.*'pos_tags'"):
        (doc,) = read_file([RECORD], names=f"ner_tags={','.join(NER)}")
    assert not doc.has_annotation("TAG")


def test_numbers_below_0_are_missing(read_file):
    with pytest.warns(UserWarning, match="W111.*numbers below 0, in line 1"):
        missing, _ = read_file([{"text": "a", "label": -1}, {"text": "a", "label": 0}], names="x")
    assert missing.cats == {}


@pytest.mark.parametrize("names", ["", "O,B-x"])
def test_names_are_needed_for_each_key(read_file, names):
    with pytest.raises(ValueError, match=r"M152.*'ner_tags', 'pos_tags'"):
        read_file([RECORD], names=names)


def test_a_number_without_a_name(read_file):
    with pytest.raises(ValueError, match=r"M114.*a\.jsonl, line 1: label is 3.*at most 1"):
        read_file([{"text": "a", "label": 3}], names="x,y")


@pytest.mark.parametrize(("names", "key"), [("x,y", "x,y"), ("topic=x", "topic=")])
def test_names_without_effect(read_file, names, key):
    with pytest.warns(UserWarning, match=f"W130.*--names {key}.*no effect"):
        read_file([{"text": "a", "label": "x"}], names=names)
