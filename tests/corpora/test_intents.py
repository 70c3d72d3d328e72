"""The JSON of CLINC150 and of SNIPS."""

import json
from pathlib import Path

import pytest
from doc_facts import ents, iob
from spacy.vocab import Vocab

from spacy_mtl.corpora.intents import read_clinc, read_snips

CLINC = {"train": [["pay my bill", "pay"], ["hi there", "greet"]], "val": [["hey", "greet"]]}
ALARM = {"data": [{"text": "wake me "}, {"text": "at six", "entity": "time"}]}


def test_clinc(read_file):
    first, second = read_file(CLINC, "a.json")
    assert (first.text, second.text) == ("pay my bill", "hi there")
    assert (first.cats, second.cats) == ({"pay": 1.0, "greet": 0.0}, {"pay": 0.0, "greet": 1.0})
    assert (iob(second), first.has_annotation("TAG")) == (["", ""], False)


def test_clinc_split(read_file):
    (doc,) = read_file("\ufeff" + json.dumps(CLINC), "a.json", split="val")
    assert (doc.text, doc.cats) == ("hey", {"greet": 1.0})


def read(reader, folder: Path, text: str) -> None:
    path = folder / "table"
    path.write_text(text, encoding="utf8")
    list(reader(path, Vocab()))


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        ('{\n"val":\n[}', "M109", ["line 3", "JSON"]),
        ("", "M109", ["line 1"]),
        ("[]", "M114", ["[]"]),
        ('{"val": []}', "M110", ["'train'", "['val']", "--split"]),
        ('{"train": {}}', "M114", ["train is {}"]),
        ('{"train": [["a", "b"], ["a"]]}', "M114", ["item 2 of train is ['a']"]),
        ('{"train": [["a", 3]]}', "M114", ["item 1 of train is ['a', 3]"]),
    ],
)
def test_clinc_errors(tmp_path, text, code, parts):
    with pytest.raises(ValueError, match=code) as error:
        read(read_clinc, tmp_path, text)
    for part in ["table", *parts]:
        assert part in str(error.value)


def test_snips(read_file):
    alarm, greet = read_file({"alarm": [ALARM], "greet": [{"data": [{"text": "hi"}]}]}, "a.json")
    assert (alarm.text, ents(alarm)) == ("wake me at six", [("at six", "time")])
    assert (alarm.cats, iob(greet)) == ({"alarm": 1.0, "greet": 0.0}, ["O"])


@pytest.mark.parametrize("text", ["[]", '{"a": [{"data": [{"txt": "x"}]}]}', '{"a": [3]}'])
def test_snips_errors(tmp_path, text):
    with pytest.raises(ValueError, match=r"M114.*table"):
        read(read_snips, tmp_path, text)
