"""Answers of Prodigy: what is accepted, rejected, ignored and left open."""

import warnings
from typing import Any

import pytest
from doc_facts import ents, iob

SPAN = {"text": "Mira saw Tarn", "spans": [{"start": 0, "end": 4, "label": "PER"}]}
TOKENS = {"tokens": [{"text": "Mira", "ws": True}, {"text": "saw", "ws": True}, {"text": "Tarn"}]}
OPTIONS = {"options": [{"id": "pos", "text": "Good"}, {"id": "neg"}]}
MULTIPLE = {"config": {"choice_style": "multiple"}}


def read_quietly(read_file: Any, *records: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_file(list(records))


def test_questions_about_a_category(read_file):
    """The answer concerns one category; others are unknown. Matches of patterns are no entities."""
    spans = [{"start": 0, "end": 1, "label": "INSULT", "pattern": 3}]
    with pytest.warns(UserWarning) as told:
        docs = read_file(
            [
                {"text": "a", "label": "SPAM", "answer": "accept", "spans": [], "score": 0.5},
                {"text": "b", "label": "SPAM", "answer": "reject"},
                {"text": "c", "label": "INSULT", "answer": "accept", "spans": spans},
                {"text": "d", "label": "SPAM", "answer": "ignore"},
            ]
        )
    assert [doc.cats for doc in docs] == [{"SPAM": 1.0}, {"SPAM": 0.0}, {"INSULT": 1.0}]
    assert [iob(doc) for doc in docs] == [[""], [""], [""]]
    told = sorted(str(item.message) for item in told)
    assert "matches of patterns" in told[0] and "line 3" in told[0]
    assert "ignore, in line 4" in told[1]


def test_complete_annotations_of_entities(read_file):
    accepted, rejected = read_quietly(
        read_file,
        SPAN | TOKENS | {"answer": "accept", "_view_id": "ner_manual"},
        SPAN | TOKENS | {"answer": "reject", "_view_id": "ner_manual"},
    )
    assert (iob(accepted), ents(accepted)) == (["B", "O", "O"], [("Mira", "PER")])
    assert iob(rejected) == ["", "", ""]


@pytest.mark.parametrize(
    "view", [{}, {"_view_id": "ner"}, {"_is_binary": True}, TOKENS | {"_view_id": "ner"}]
)
def test_questions_about_an_entity(read_file, view):
    """Nothing is known about the other tokens."""
    with pytest.warns(UserWarning) as told:
        accepted, rejected = read_file(
            [SPAN | view | {"answer": "accept"}, SPAN | view | {"answer": "reject"}]
        )
    assert (iob(accepted), ents(accepted)) == (["B", "", ""], [("Mira", "PER")])
    assert iob(rejected) == ["", "", ""]
    assert len(told) == 2


@pytest.mark.parametrize("spans", [[], [(0, 4), (9, 13)]])
def test_answers_with_several_spans_or_none_are_complete(read_file, spans):
    """No interface is named, as in data sets that other tools have written."""
    found = [{"start": start, "end": end, "label": "PER"} for start, end in spans]
    other = {"text": "Mira saw Mira", "spans": found, "answer": "accept"}
    one, two = read_file([SPAN | {"answer": "accept"}, other])
    assert (iob(one), len(ents(two))) == (["B", "O", "O"], len(spans))
    assert "" not in iob(two)


@pytest.mark.parametrize(
    ("values", "cats"),
    [
        ({"accept": ["pos"]}, {"pos": 1.0, "neg": 0.0}),
        ({"accept": "pos"}, {"pos": 1.0, "neg": 0.0}),
        ({"accept": []}, {}),
        ({"accept": [], **MULTIPLE}, {"pos": 0.0, "neg": 0.0}),
        ({"accept": ["pos", "neg"], **MULTIPLE}, {"pos": 1.0, "neg": 1.0}),
        ({"accept": ["pos"], "answer": "reject"}, {}),
    ],
)
def test_choices(read_file, values, cats):
    (doc,) = read_quietly(read_file, {"text": "a", "answer": "accept", **OPTIONS, **values})
    assert doc.cats == cats


def test_options_of_other_texts_are_unknown(read_file):
    other = {"options": [{"id": "wet"}], "accept": ["wet"], "text": "b"}
    first, _ = read_quietly(read_file, {"text": "a", "accept": ["pos"]} | OPTIONS, other)
    assert first.cats == {"pos": 1.0, "neg": 0.0}


def test_answers_of_other_data_sets(read_file):
    with pytest.warns(UserWarning, match=r"W110.*'answer'"):
        (doc,) = read_file([{"text": "a", "label": "x", "answer": "Tarn"}])
    assert doc.cats == {"x": 1.0}


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        (
            {"answer": "maybe", "_task_hash": 1},
            ["answer is 'maybe'", "'accept', 'reject', 'ignore'"],
        ),
        (OPTIONS | {"accept": ["wet"]}, ["accept is ['wet']", "['pos', 'neg']"]),
    ],
)
def test_errors(read_file, record, parts):
    with pytest.raises(ValueError, match=r"M114.*a\.jsonl, line 1") as error:
        read_file([{"text": "a", "label": "x"} | record])
    for part in parts:
        assert part in str(error.value)
