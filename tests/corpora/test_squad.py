"""Questions about contexts."""

import json

import pytest
from spacy.vocab import Vocab

from spacy_mtl.corpora.formats import find_files, read_docs
from spacy_mtl.pairs import find_texts

CONTEXT = "Mira took the boat to Tarn.\nShe came back."


def answer(text, start=None):
    return {"text": text, "answer_start": CONTEXT.find(text) if start is None else start}


def question(**values):
    return {"id": "1", "question": "Where to?", **values}


def read(tmp_path, *questions, context=CONTEXT, **options):
    data = {"data": [{"title": "x", "paragraphs": [{"context": context, "qas": [*questions]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(data), encoding="utf8")
    return list(read_docs([tmp_path / "a.json"], Vocab(), **options))


def test_answers(tmp_path):
    docs = read(
        tmp_path,
        question(answers=[answer("Tarn"), answer("to Tarn"), answer("Tarn")]),
        question(answers=[], is_impossible=True),
        question(answers=[answer("She came back.")]),
        question(),
    )
    assert find_files([tmp_path / "a.json"]) == [("squad", tmp_path / "a.json")]
    found = [[span.text for span in doc.spans.get("answers", [])] for doc in docs]
    assert found == [["Tarn", "to Tarn"], [], ["She came back."], []]
    assert ["answers" in doc.spans for doc in docs] == [True, True, True, False]
    assert [span.text.split()[0] for span in find_texts(docs[0])] == ["Where", "Mira"]
    (doc,) = read(tmp_path, question(answers=[answer("Tarn")]), spans="other")
    assert [span.text for span in doc.spans["other"]] == ["Tarn"]


def test_an_answer_inside_a_token(tmp_path):
    (doc,) = read(tmp_path, question(answers=[answer("oat to")]))
    assert [span.text for span in doc.spans["answers"]] == ["boat to"]


@pytest.mark.parametrize(
    ("questions", "code"),
    [
        ([question(answers=[answer("Tarn", 3)])], r"M138.*question 1.*'Tarn'.*character 3"),
        ([question(answers=[answer("Port")])], "M138.*question 1.*'Port'"),
        ([question(answers=[{"text": "Tarn"}])], "M114.*question 1"),
        ([question(answers="Tarn")], "M114.*question 1"),
        ([question(question="")], "M114.*question"),
        (["x"], "M114.*question"),
    ],
)
def test_wrong_values(tmp_path, questions, code):
    with pytest.raises(ValueError, match=code):
        read(tmp_path, *questions)


def test_wrong_answers_are_skipped(tmp_path):
    """A question that has lost all its answers is not one without an answer."""
    with pytest.warns(UserWarning, match="W112.*2 left out.*answers that do not fit"):
        docs = read(
            tmp_path,
            question(answers=[answer("Port")]),
            question(answers=[answer("Port"), answer("Tarn")]),
            skip_errors=True,
        )
    assert "answers" not in docs[0].spans
    assert [span.text for span in docs[1].spans["answers"]] == ["Tarn"]
