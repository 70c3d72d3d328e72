import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import spacy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mtl.corpora.tables import read_clinc, read_csv, read_jsonl, read_tsv

CSV = 'text,label,id\n"Hello, you",greet,1\nBye now,part,2\n'
CLINC = {"train": [["pay my bill", "pay"], ["hi there", "greet"]], "val": [["hey", "greet"]]}


def read(
    reader: Callable[..., Iterator[Doc]], folder: Path, content: str, /, **options: str
) -> list[Doc]:
    """Read a text as a file and send the docs through a `DocBin`."""
    path = folder / "table"
    path.write_bytes(content.encode())
    return list(DocBin(docs=reader(path, Vocab(), **options)).get_docs(Vocab()))


def read_records(folder: Path, *records: Any, **options: str) -> list[Doc]:
    return read(read_jsonl, folder, "\n".join(map(json.dumps, records)), **options)


def words(doc: Doc) -> list[str]:
    return [token.text for token in doc]


def is_missing(doc: Doc) -> tuple[bool, bool, bool]:
    """RETURNS: Whether tags, entities and categories are missing."""
    return not doc.has_annotation("TAG"), not doc.has_annotation("ENT_IOB"), not doc.cats


def test_csv(tmp_path):
    first, second = read(read_csv, tmp_path, CSV)
    assert (words(first), words(second)) == (["Hello", ",", "you"], ["Bye", "now"])
    assert first.cats == {"greet": 1.0, "part": 0.0}
    assert second.cats == {"greet": 0.0, "part": 1.0}
    assert is_missing(first) == (True, True, False)


def test_tsv_keeps_quotes(tmp_path):
    (doc,) = read(read_tsv, tmp_path, 'text\tlabel\n"so, what\tq\n')
    assert doc.text == '"so, what'
    assert doc.cats == {"q": 1.0}


def test_csv_columns(tmp_path):
    first, second = read(read_csv, tmp_path, CSV, text="label", category="id")
    assert (first.text, second.text) == ("greet", "part")
    assert first.cats == {"1": 1.0, "2": 0.0}


def test_csv_blank_label_is_missing(tmp_path):
    first, second = read(read_csv, tmp_path, "text,label\na,\nb,y\n")
    assert (first.cats, second.cats) == ({}, {"y": 1.0})


def test_csv_with_several_labels(tmp_path):
    docs = read(read_csv, tmp_path, "text,label\na,x; y\nb,\nc,y;\n", separator=";")
    assert [doc.cats for doc in docs] == [
        {"x": 1.0, "y": 1.0},
        {"x": 0.0, "y": 0.0},
        {"x": 0.0, "y": 1.0},
    ]


def test_csv_language(tmp_path):
    text = "text,label\nl'eau,x\n"
    assert words(read(read_csv, tmp_path, text, lang="fr")[0]) == ["l'", "eau"]
    assert words(read(read_csv, tmp_path, text, lang="en")[0]) == ["l'eau"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n" + text.replace("\n", "\n\n"),
        lambda text: text + ",x,3\n",
    ],
)
def test_csv_tolerates(tmp_path, change):
    docs = read(read_csv, tmp_path, change(CSV))
    assert [doc.text for doc in docs] == ["Hello, you", "Bye now"]
    assert docs[0].cats["greet"] == 1.0


def test_csv_line_breaks_in_quotes(tmp_path):
    (doc,) = read(read_csv, tmp_path, 'text,label\r\n"a\r\nb",x\r\n')
    assert doc.text == "a\nb"


def test_empty_csv(tmp_path):
    assert read(read_csv, tmp_path, "") == []
    assert read(read_csv, tmp_path, "text,label\n") == []


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        ("text,intent\na,b\n", "M110", ["line 1", "'label'", "['text', 'intent']", "--category"]),
        ("\nx,label\na,b\n", "M110", ["line 2", "'text'", "--text"]),
        ("text,label,label\na,b,c\n", "M114", ["line 1", "the header", "each name once"]),
        ("text,label\na,b\n\na,b,c\n", "M103", ["line 4", "3 columns", "['a', 'b', 'c']"]),
        ("text,label\na\n", "M103", ["line 2", "1 columns", "2 are"]),
    ],
)
def test_csv_errors(tmp_path, text, code, parts):
    with pytest.raises(ValueError, match=code) as error:
        read(read_csv, tmp_path, text)
    for part in ["table", *parts]:
        assert part in str(error.value)


def test_jsonl_text(tmp_path):
    (doc,) = read_records(
        tmp_path,
        {
            "text": "Anna left,  in Rome",
            "tags": ["NNP", "VBD", ",", None, "IN", "NNP"],
            "entities": [[15, 19, "place"], [0, 4, "person"]],
            "cats": {"x": 0.25, "y": True},
        },
    )
    assert doc.text == "Anna left,  in Rome"
    assert words(doc) == ["Anna", "left", ",", " ", "in", "Rome"]
    assert [token.tag_ for token in doc] == ["NNP", "VBD", ",", "", "IN", "NNP"]
    assert [token.ent_iob for token in doc] == [3, 2, 2, 2, 2, 3]
    assert [(e.text, e.label_) for e in doc.ents] == [("Anna", "person"), ("Rome", "place")]
    assert doc.cats == {"x": 0.25, "y": 1.0}


def test_jsonl_tokens(tmp_path):
    spans = [{"start": 4, "end": 12, "label": "place", "id": 7}]
    joined, aligned = read_records(
        tmp_path,
        {"tokens": ["is", "n't", "New York"], "tags": ["A", "B", "C"]},
        {"tokens": ["in", "(", "New York", ")"], "text": "in (New York)", "spans": spans},
    )
    assert (joined.text, words(joined)) == ("is n't New York", ["is", "n't", "New York"])
    assert [token.tag_ for token in joined] == ["A", "B", "C"]
    assert (aligned.text, words(aligned)) == ("in (New York)", ["in", "(", "New York", ")"])
    assert [(e.text, e.label_) for e in aligned.ents] == [("New York", "place")]


def test_jsonl_missing_and_empty_annotations(tmp_path):
    docs = read_records(
        tmp_path,
        {"text": "a"},
        {"text": "a", "tags": None, "entities": None, "cats": None, "label": None},
        {"text": "a", "entities": [], "label": []},
        {"text": "a", "tags": ["X"], "spans": [], "label": ["x", "y"]},
        {"text": "a", "label": "z"},
        {"text": "a", "label": 3},
        {"text": "a", "label": ""},
    )
    none = dict.fromkeys(["3", "x", "y", "z"], 0.0)
    assert [doc.cats for doc in docs] == [
        {},
        {},
        none,
        none | {"x": 1.0, "y": 1.0},
        none | {"z": 1.0},
        none | {"3": 1.0},
        {},
    ]
    assert [is_missing(doc) for doc in docs[:4]] == [
        (True, True, True),
        (True, True, True),
        (True, False, False),
        (False, False, False),
    ]
    assert [docs[i][0].ent_iob for i in (0, 2)] == [0, 2]


def test_jsonl_tolerates(tmp_path):
    text = '\ufeff{"text": "a", "label": "x"}\r\n\r\n{"text": ""}\r\n  \r\n{"text": "b"}'
    first, second = read(read_jsonl, tmp_path, text)
    assert (first.text, second.text) == ("a", "b")


def test_jsonl_replaces_characters_that_spacy_refuses(tmp_path):
    raw, tokens = read(
        read_jsonl,
        tmp_path,
        '{"text": "a\\ud800 \\ud83d\\ude00 b\x07", "entities": [[5, 7, "x\\udfff"]]}\n'
        '{"tokens": ["", "\\udc00"], "tags": ["\\ud800", "A"], "label": "\\ud800"}\n',
    )
    assert raw.text == "a\ufffd \U0001f600 b\x07"
    assert [(e.text, e.label_) for e in raw.ents] == [("b\x07", "x\ufffd")]
    assert words(tokens) == ["\ufffd", "\ufffd"]
    assert [token.tag_ for token in tokens] == ["\ufffd", "A"]
    assert tokens.cats == {"\ufffd": 1.0}


@pytest.mark.parametrize(
    ("record", "code", "parts"),
    [
        ('{"text": "a"', "M109", ["JSON"]),
        ("[1]", "M114", ["[1]", "JSON object"]),
        ('{"txt": "a"}', "M110", ["'text'", "['txt']"]),
        ('{"text": 1}', "M114", ["text is 1", "string"]),
        ('{"text": "a", "entities": [[0, 1, ""]]}', "M114", ["an entity", "[start, end, label]"]),
        ('{"tokens": [{"text": "a"}]}', "M114", ["tokens", "list of strings"]),
        ('{"tokens": ["a"], "text": "b"}', "M114", ["tokens is ['a']"]),
        ('{"tokens": ["a", "b"], "text": "a  b"}', "M114", ["tokens is ['a', 'b']"]),
        ('{"text": "a b", "tags": ["X"]}', "M114", ["tags is ['X']", "2 strings"]),
        ('{"text": "a", "tags": "X"}', "M114", ["tags is 'X'"]),
        ('{"text": "a", "tags": [1]}', "M114", ["tags is [1]"]),
        ('{"text": "a", "entities": {}}', "M114", ["entities is {}"]),
        ('{"text": "a", "entities": [[0, 1]]}', "M114", ["[0, 1]", "[start, end, label]"]),
        ('{"text": "a", "spans": [{"start": 0}]}', "M114", ["{'start': 0}"]),
        (
            '{"text": "abc d", "entities": [[0, 2, "x"]]}',
            "M111",
            ["[0, 2, 'x']", "'ab'", "['abc']"],
        ),
        ('{"text": "abc d", "entities": [[3, 5, "x"]]}', "M111", ["' d'", "['d']"]),
        ('{"text": "abc", "entities": [[0, 9, "x"]]}', "M111", ["[0, 9, 'x']"]),
        ('{"text": "abc", "entities": [[-3, 3, "x"]]}', "M111", ["[-3, 3, 'x']"]),
        ('{"text": "abc", "entities": [[1, 1, "x"]]}', "M111", ["[1, 1, 'x']"]),
        ('{"text": "abc", "entities": [[0, 99999999999, "x"]]}', "M111", ["99999999999"]),
        ('{"text": "a b", "entities": [[0, 3, "x"], [2, 3, "y"]]}', "M111", ["'y'", "overlaps"]),
        ('{"text": "a b", "entities": [[2, 3, "y"], [0, 3, "x"]]}', "M111", ["'x'", "overlaps"]),
        ('{"text": "a", "tokens": []}', "M114", ["tokens is []"]),
        ('{"text": "a", "label": {"x": 1}}', "M114", ["label is [{'x': 1}]"]),
        ('{"text": "a", "cats": {"x": NaN}}', "M114", ["cats is {'x': nan}"]),
        ('{"text": "a", "cats": {"x": 2}}', "M114", ["cats is {'x': 2}", "0 to 1"]),
        ('{"text": "a", "cats": ["x"]}', "M114", ["cats is ['x']"]),
        ('{"text": "a", "cats": {"x": "yes"}}', "M114", ["cats is {'x': 'yes'}"]),
    ],
)
def test_jsonl_errors_name_file_line_and_value(tmp_path, record, code, parts):
    with pytest.raises(ValueError, match=code) as error:
        read(read_jsonl, tmp_path, f'{{"text": "fine"}}\n\n{record}\n')
    for part in ["table, line 3", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize("reader", [read_csv, read_tsv])
def test_a_long_text(tmp_path, reader):
    text = "word " * 40_000
    separator = "," if reader is read_csv else "\t"
    (doc,) = read(reader, tmp_path, f"text{separator}label\n{text}{separator}x\n")
    assert len(doc) == 40_000 and doc.cats == {"x": 1.0}


def test_a_warning_of_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "table"
    path.write_bytes("text,label\nfine,x\ncafé,x\nnaïve é,y\n".encode("latin1"))
    with pytest.warns(UserWarning, match=rf"W100.*{path}, line 3: ") as told:
        docs = list(read_csv(path, Vocab()))
    assert len(told) == 1
    assert [doc.text for doc in docs] == ["fine", "caf\ufffd", "na\ufffdve \ufffd"]


def test_clinc(tmp_path):
    first, second = read(read_clinc, tmp_path, json.dumps(CLINC))
    assert (first.text, second.text) == ("pay my bill", "hi there")
    assert (first.cats, second.cats) == ({"pay": 1.0}, {"greet": 1.0})
    assert is_missing(first) == (True, True, False)


def test_clinc_split(tmp_path):
    (doc,) = read(read_clinc, tmp_path, "\ufeff" + json.dumps(CLINC), split="val")
    assert (doc.text, doc.cats) == ("hey", {"greet": 1.0})


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        ('{\n"val":\n[}', "M109", ["line 3", "JSON"]),
        ("", "M109", ["line 1"]),
        ("[]", "M114", ["[]"]),
        ('{"val": []}', "M110", ["'train'", "['val']", "--split"]),
        ('{"train": {}}', "M114", ["train is {}"]),
        ('{"train": [["a", "b"], ["a"]]}', "M114", ["item 1 of train is ['a']"]),
        ('{"train": [["a", 3]]}', "M114", ["item 0 of train is ['a', 3]"]),
    ],
)
def test_clinc_errors(tmp_path, text, code, parts):
    with pytest.raises(ValueError, match=code) as error:
        read(read_clinc, tmp_path, text)
    for part in ["table", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize("reader", [read_csv, read_tsv, read_jsonl, read_clinc])
def test_missing_file(tmp_path, reader):
    with pytest.raises(ValueError, match=r"M101.*none"):
        list(reader(tmp_path / "none", Vocab()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1),
            st.sampled_from("xy"),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_json_lines_keep_any_text(tmp_path, pairs):
    docs = read_records(tmp_path, *({"text": text, "label": label} for text, label in pairs))
    assert [doc.text for doc in docs] == [text for text, _ in pairs]
    assert [max(doc.cats, key=doc.cats.get) for doc in docs] == [label for _, label in pairs]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.text("ab '.-\n", min_size=1), st.data())
def test_character_offsets_round_trip(tmp_path, text, data):
    """A span of tokens written with character offsets is read as the same tokens."""
    doc = spacy.blank("en").make_doc(text)
    start = data.draw(st.integers(0, len(doc) - 1))
    span = doc[start : data.draw(st.integers(start + 1, len(doc)))]
    entity = [span.start_char, span.end_char, "x"]
    (read_doc,) = read_records(tmp_path, {"text": text, "entities": [entity]})
    assert [(e.start, e.end, e.label_) for e in read_doc.ents] == [(span.start, span.end, "x")]
