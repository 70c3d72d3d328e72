"""Entities that do not fit the text, overlap, or have spaces at their edges."""

import pytest
import spacy
from doc_facts import ents, iob
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOKENIZER = spacy.blank("en")
VOSS = {"text": "Mira Voss saw", "entities": [[0, 9, "PER"], [0, 4, "FIRST"]]}


@pytest.mark.parametrize(
    ("text", "entities", "code", "parts"),
    [
        ("abc d", [[0, 2, "x"]], "M111", ["[0, 2, 'x']", "'ab'", "['abc']"]),
        ("abc", [[0, 9, "x"]], "M111", ["[0, 9, 'x']"]),
        ("abc", [[-3, 3, "x"]], "M111", ["[-3, 3, 'x']"]),
        ("abc", [[1, 1, "x"]], "M111", ["[1, 1, 'x']"]),
        ("abc", [[0, 99999999999, "x"]], "M111", ["99999999999"]),
        ("a  b", [[1, 3, "x"]], "M111", ["[1, 3, 'x']"]),
        ("a", [{"token_start": 0, "token_end": 1, "label": "x"}], "M111", ["[0, 2, 'x']"]),
        ("a b", [[0, 3, "x"], [2, 3, "y"]], "M155", ["[2, 3, 'y'] ('b')", "[0, 3, 'x'] ('a b')"]),
        ("a b", [[2, 3, "y"], [0, 3, "x"]], "M155", ["[2, 3, 'y'] ('b')", "--spans"]),
        (
            "\U0001f600 Mira saw",
            [{"start": 3, "end": 7, "label": "x", "text": "Mira"}],
            "M153",
            ["'ira '", "'Mira'"],
        ),
    ],
)
def test_wrong_entities(read_file, text, entities, code, parts):
    records = [{"text": "fine", "entities": []}, {"text": text, "entities": entities}]
    with pytest.raises(ValueError, match=code) as error:
        read_file(records)
    for part in ["a.jsonl, line 2", *parts]:
        assert part in str(error.value)
    with pytest.warns(UserWarning, match=rf"W112.*1 left out.*entities.*line 2.*{code}"):
        assert len(read_file(records, skip_errors=True)) == 2


def test_tokens_of_skipped_entities_are_missing(read_file):
    record = {"text": "Mira saw Tarn", "entities": [[0, 3, "PER"], [9, 13, "LOC"]]}
    with pytest.warns(UserWarning, match="W112.*do not fit"):
        (doc,) = read_file([record], skip_errors=True)
    assert (iob(doc), ents(doc)) == (["", "O", "B"], [("Tarn", "LOC")])


def test_the_longest_of_overlapping_entities_is_kept(read_file):
    with pytest.warns(UserWarning, match="W112.*overlap a longer one"):
        (doc,) = read_file([VOSS], skip_errors=True)
    assert (iob(doc), ents(doc)) == (["B", "I", "O"], [("Mira Voss", "PER")])
    partly = {"text": "a b c d", "entities": [[0, 5, "x"], [4, 7, "y"]]}
    with pytest.warns(UserWarning, match="W112"):
        (doc,) = read_file([partly], skip_errors=True)
    assert iob(doc) == ["B", "I", "I", ""]


def test_an_entity_that_stands_twice(read_file):
    (doc,) = read_file([{"text": "a", "entities": [[0, 1, "x"], [0, 1, "x"]]}])
    assert ents(doc) == [("a", "x")]


def test_spaces_at_the_edges_of_entities(read_file):
    record = {"text": " Mira saw\nTarn ", "entities": [[0, 5, "PER"], [9, 15, "LOC"]]}
    with pytest.warns(UserWarning, match="W111.*2 left out: spaces at the edges.*1"):
        (doc,) = read_file([record])
    assert ents(doc) == [("Mira", "PER"), ("Tarn", "LOC")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.text("ab '.-\n", min_size=1), st.data())
def test_character_offsets_round_trip(read_file, text, data):
    """A span of tokens written with character offsets is read as the same tokens."""
    doc = TOKENIZER.make_doc(text)
    tokens = [token.i for token in doc if not token.is_space]
    if tokens:
        start, end = sorted(
            [data.draw(st.sampled_from(tokens)), data.draw(st.sampled_from(tokens))]
        )
        span = doc[start : end + 1]
        entity = [span.start_char, span.end_char, "x"]
        (read_doc,) = read_file([{"text": text, "entities": [entity]}])
        assert [(e.start, e.end, e.label_) for e in read_doc.ents] == [(start, end + 1, "x")]
