"""Training data of Rasa: YAML and JSON."""

import sys
from pathlib import Path

import pytest
from doc_facts import ents, iob

from spacy_mtl.corpora.rasa import parse_example

YAML = """version: "3.1"
nlu:
- intent: alarm
  examples: |
    - wake me [at six](time)
    - alarm
- intent: greet
  examples:
  - text: |
      hi
"""


def test_yaml(read_file):
    first, second, third = read_file(YAML, "nlu.yml")
    assert (first.text, ents(first)) == ("wake me at six", [("at six", "time")])
    assert iob(second) == ["O"]
    assert [doc.cats["alarm"] for doc in (first, second, third)] == [1.0, 1.0, 0.0]
    assert (third.text, third.cats) == ("hi", {"alarm": 0.0, "greet": 1.0})


def test_json(read_file):
    examples = [
        {
            "text": "wake me at six",
            "intent": "alarm",
            "entities": [{"start": 8, "end": 14, "value": "06:00", "entity": "time"}],
        },
        {"text": "hi", "intent": "greet", "entities": []},
    ]
    data = {"rasa_nlu_data": {"common_examples": examples, "regex_features": []}}
    first, second = read_file(data, "a.json")
    assert (ents(first), first.cats) == ([("at six", "time")], {"alarm": 1.0, "greet": 0.0})
    assert iob(second) == ["O"]


@pytest.mark.parametrize(
    ("example", "text", "entities"),
    [
        ("at [six](time:06:00) now", "at six now", [(3, 6, "time")]),
        ('[six]{"entity": "time"}', "six", [(0, 3, "time")]),
        ('to [x][{"entity": "a"}, {"entity": "b"}]', "to x", [(3, 4, "a"), (3, 4, "b")]),
        ("[a](x)[b](y) [c]", "ab [c]", [(0, 1, "x"), (1, 2, "y")]),
    ],
)
def test_marks(example, text, entities):
    found = parse_example(Path("a"), example)
    assert found["text"] == text
    assert [(e["start"], e["end"], e["entity"]) for e in found["entities"]] == entities


def test_parts_that_are_not_read(read_file):
    with pytest.warns(UserWarning) as told:
        read_file(YAML + "- synonym: six\n  examples: |\n    - 6\nrules: []\n", "nlu.yml")
    told = " ".join(str(item.message) for item in told)
    assert "'synonym'" in told and "'rules'" in told


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nlu: [", "M158"),
        ("nlu: 3\n", "M114"),
        ("nlu:\n- intent: a\n  examples: [3]\n", "M114"),
        ("nlu:\n- intent: a\n  examples: |\n    - '[x]{y}'\n", "M114"),
    ],
)
def test_errors(read_file, text, code):
    with pytest.raises(ValueError, match=rf"{code}.*nlu\.yml"):
        read_file(text, "nlu.yml")


def test_without_pyyaml(read_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ValueError, match=r'M157.*PyYAML.*pip install "PyYAML'):
        read_file(YAML, "nlu.yml")


def test_other_yaml_is_not_rasa(read_file):
    with pytest.raises(ValueError, match=r"M114.*nlu is None"):
        read_file("a: 1\n", "a.yml")
