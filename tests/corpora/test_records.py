"""Records of JSON Lines and JSON lists: which keys are read, and what becomes of the others."""

import json
from typing import Any

import pytest
from doc_facts import describe, ents, iob, is_missing, words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, Span
from spacy.util import filter_spans
from spacy.vocab import Vocab

from spacy_mtl.annotations.relations import get_relations

FIRST = {"tokens": ["Mira", "saw", "Tarn"]}
B_IOB, B_NER = ["B-PER", "O", "B-LOC"], [("Mira", "PER"), ("Tarn", "LOC")]


def test_text(read_file):
    (doc,) = read_file(
        [
            {
                "text": "Anna left,  in Rome",
                "tags": ["NNP", "VBD", ",", None, "IN", "NNP"],
                "entities": [[15, 19, "place"], [0, 4, "person"]],
                "cats": {"x": 0.25, "y": True},
            }
        ]
    )
    assert doc.text == "Anna left,  in Rome"
    assert words(doc) == ["Anna", "left", ",", " ", "in", "Rome"]
    assert [token.tag_ for token in doc] == ["NNP", "VBD", ",", "", "IN", "NNP"]
    assert iob(doc) == ["B", "O", "O", "O", "O", "B"]
    assert ents(doc) == [("Anna", "person"), ("Rome", "place")]
    assert doc.cats == {"x": 0.25, "y": 1.0}


def test_tokens(read_file):
    spans = [{"start": 4, "end": 12, "label": "place", "id": 7}]
    prodigy = [{"text": "a", "start": 0, "end": 1, "id": 0, "ws": False}, {"text": "b"}]
    joined, aligned, objects = read_file(
        [
            {"tokens": ["is", "n't", "New York"], "tags": ["A", "B", "C"]},
            {"tokens": ["in", "(", "New York", ")"], "text": "in (New York)", "spans": spans},
            {"tokens": [{"orth": "a", "ws": False}, {"orth": "b", "ws": True}], "spans": []},
        ]
    )
    assert (joined.text, words(joined)) == ("is n't New York", ["is", "n't", "New York"])
    assert [token.tag_ for token in joined] == ["A", "B", "C"]
    assert (aligned.text, words(aligned)) == ("in (New York)", ["in", "(", "New York", ")"])
    assert ents(aligned) == [("New York", "place")]
    assert (objects.text, words(objects)) == ("ab ", ["a", "b"])
    (doc,) = read_file([{"text": "ab", "tokens": prodigy, "label": "x"}])
    assert words(doc) == ["a", "b"]


def test_missing_and_empty_annotations(read_file):
    docs = read_file(
        [
            {"text": "a"},
            {"text": "a", "tags": None, "entities": None, "cats": None, "label": None},
            {"text": "a", "entities": [], "label": []},
            {"text": "a", "tags": ["X"], "spans": [], "label": ["x", "y"]},
            {"text": "a", "label": "z"},
            {"text": "a", "label": ""},
        ]
    )
    none = dict.fromkeys(["x", "y", "z"], 0.0)
    assert [doc.cats for doc in docs] == [
        {},
        {},
        none,
        none | {"x": 1.0, "y": 1.0},
        none | {"z": 1.0},
        {},
    ]
    assert [is_missing(doc) for doc in docs[:4]] == [
        (True, True, True),
        (True, True, True),
        (True, False, False),
        (False, False, False),
    ]
    assert [docs[i][0].ent_iob for i in (0, 2)] == [0, 2]


@pytest.mark.parametrize(
    "record",
    [
        {"text": "Mira saw Tarn", "label": [[0, 4, "PER"], [9, 13, "LOC"]]},
        {"text": "Mira saw Tarn", "labels": [[0, 4, "PER"], [9, 13, "LOC"]]},
        {
            "text": "Mira saw Tarn",
            "entities": [
                {"id": 5, "label": "PER", "start_offset": 0, "end_offset": 4},
                {"id": 6, "type": "LOC", "start": 9, "end": 13, "text": "Tarn"},
            ],
        },
        {
            "text": "Mira saw Tarn",
            "ents": [{"start": 0, "end": 4, "labels": ["PER"]}, [9, 13, "LOC"]],
        },
        FIRST
        | {
            "spans": [
                {"token_start": 0, "token_end": 0, "label": "PER"},
                {"token_start": 2, "token_end": 2, "entity": "LOC"},
            ]
        },
        {"sentence": FIRST["tokens"], "ner": [[0, 0, "PER"], [2, 2, "LOC"]]},
        FIRST | {"ner_tags": B_IOB},
        FIRST | {"ner": ["U-PER", "O", "S-LOC"]},
        {"words": FIRST["tokens"], "tags": B_IOB},
        FIRST | {"labels": B_IOB},
        FIRST | {"entities": B_IOB},
        {"text": "Mira saw Tarn", "slots": "B-PER O B-LOC"},
        {"text": "Mira saw Tarn", "slots": ["I-PER", "O", "I-LOC"]},
        ["Mira saw Tarn", {"entities": [[0, 4, "PER"], [9, 13, "LOC"]]}],
    ],
)
def test_keys_of_entities(read_file, record):
    (doc,) = read_file([record])
    assert ents(doc) == B_NER
    assert iob(doc) == ["B", "O", "B"]
    assert is_missing(doc) == (True, False, True)


def test_an_empty_list_has_the_meaning_of_the_other_records(read_file):
    pair = ["rain", "Mira saw Tarn"]
    no_ents, _ = read_file(
        [{"text": pair[0], "label": []}, {"text": pair[1], "label": [[0, 4, "PER"]]}]
    )
    assert (iob(no_ents), no_ents.cats) == (["O"], {})
    no_cats, _ = read_file([{"text": pair[0], "label": []}, {"text": pair[1], "label": ["x"]}])
    assert (iob(no_cats), no_cats.cats) == ([""], {"x": 0.0})


def test_tags_and_parts_of_speech(read_file):
    both, upos, fine = read_file(
        [
            FIRST | {"tags": ["NNP", "VBD", "NNP"], "upos": ["PROPN", "VERB", "PROPN"]},
            FIRST | {"upos": ["PROPN", None, "PROPN"]},
            FIRST | {"pos_tags": ["N", "V", "N"], "ner_tags": B_IOB},
        ]
    )
    assert [(t.tag_, t.pos_) for t in both] == [("NNP", "PROPN"), ("VBD", "VERB"), ("NNP", "PROPN")]
    assert [(t.tag_, t.pos_) for t in upos] == [("PROPN", "PROPN"), ("", ""), ("PROPN", "PROPN")]
    assert [(t.tag_, t.pos_) for t in fine] == [("N", ""), ("V", ""), ("N", "")]
    assert ents(fine) == B_NER


def test_all_tags_of_a_file_decide_whether_they_are_iob(read_file):
    outside, _ = read_file([{"tokens": ["a"], "tags": ["O"]}, FIRST | {"tags": B_IOB}])
    assert is_missing(outside) == (True, False, True)
    tags, _ = read_file([{"tokens": ["a"], "tags": ["O"]}, FIRST | {"tags": ["N", "V", "N"]}])
    assert is_missing(tags) == (False, True, True)


@pytest.mark.parametrize("tag", ["B_x", "x-B", "x"])
def test_entity_tags_of_unknown_form_are_no_parts_of_speech(read_file, tag):
    with pytest.raises(ValueError, match=f"M107.*'{tag}'"):
        read_file([{"tokens": ["a", "b", "c"], "tags": ["O", tag, "O"]}])


@pytest.mark.parametrize(
    ("values", "cats"),
    [
        ({"label": "x"}, {"x": 1.0, "y": 0.0}),
        ({"labels": ["x"]}, {"x": 1.0, "y": 0.0}),
        ({"category": "x"}, {"x": 1.0, "y": 0.0}),
        ({"intent": "x"}, {"x": 1.0, "y": 0.0}),
        ({"sentiment": {"choices": ["x"]}}, {"x": 1.0, "y": 0.0}),
        ({"cats": {"x": 1}}, {"x": 1.0, "y": 0.0}),
        ({"cats": {"x": True, "z": None}}, {"x": 1.0, "y": 0.0}),
        ({"label": {"x": 0.5}}, {"x": 0.5, "y": 0.0}),
    ],
)
def test_keys_of_categories(read_file, values, cats):
    (key,) = values
    other = {"y": 1} if isinstance(values[key], dict) and key != "sentiment" else "y"
    if key == "sentiment":
        other = {"choices": ["y"]}
    doc, _ = read_file([{"text": "a", **values}, {"text": "b", key: other}])
    assert doc.cats == cats


def test_true_and_false_are_categories(read_file):
    records = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    assert [doc.cats for doc in read_file(records)] == [
        {"true": 1.0, "false": 0.0},
        {"true": 0.0, "false": 1.0},
    ]
    assert read_file(records, names="no,yes")[0].cats == {"yes": 1.0, "no": 0.0}


def test_training_tuples_and_pairs(read_file):
    (doc,) = read_file([["a b", {"cats": {"x": 1}, "tags": ["A", "B"]}]])
    assert ([t.tag_ for t in doc], doc.cats) == (["A", "B"], {"x": 1.0})
    first, _ = read_file([["a", "x"], ["b", "y"]], "a.json")
    assert (first.text, first.cats) == ("a", {"x": 1.0, "y": 0.0})


def test_trees_and_lemmas(read_file):
    record = FIRST | {
        "lemmas": ["Mira", "see", "Tarn"],
        "morphs": ["Number=Sing", "", ""],
        "heads": [1, 1, 1],
        "deps": ["nsubj", "ROOT", "obj"],
    }
    (doc,) = read_file([record])
    assert [t.lemma_ for t in doc] == ["Mira", "see", "Tarn"]
    assert [(t.dep_, t.head.i) for t in doc] == [("nsubj", 1), ("ROOT", 1), ("obj", 1)]
    assert str(doc[0].morph) == "Number=Sing"


def test_json_of_a_doc(read_file):
    source = Doc(Vocab(), words=["a", "b"], tags=["A", "B"], ents=["B-x", "O"])
    source.cats = {"x": 1.0}
    other = Doc(source.vocab, words=["c"])
    other.cats = {"y": 1.0}
    doc, missing = read_file([source.to_json(), other.to_json()])
    assert doc.to_json() == source.to_json()
    assert missing.to_json() == other.to_json()


def test_several_keys_of_one_kind(read_file):
    """The first is read, the others are reported, and an option names another."""
    record = {"text": "a", "label": "x", "topic": "y"}
    with pytest.warns(UserWarning, match=r"W110.*'topic' \(line 1\)"):
        assert read_file([record])[0].cats == {"x": 1.0}
    with pytest.warns(UserWarning, match=r"W110.*'label' \(line 1\)"):
        assert read_file([record], category="topic")[0].cats == {"y": 1.0}


def test_keys_that_nobody_reads(read_file):
    known = {
        "id": 1,
        "meta": {"a": 1},
        "_input_hash": 3,
        "Comments": [],
        "relations": [],
        "x": None,
    }
    read_file([{"text": "a", "label": "x"} | known])
    records = [{"text": "a", "label": "x", "links": [1]}] * 7
    with pytest.warns(UserWarning, match=r"W110.*'links' \(lines 1, 2, 3, 4, 5 and 2 more\)"):
        read_file(records)
    span = {"start": 0, "end": 1, "label": "x", "role": "from"}
    with pytest.warns(UserWarning, match=r"W110.*keys of entities.*'role'"):
        read_file([{"text": "a", "entities": [span]}])
    with pytest.warns(UserWarning, match=r"W110.*keys of tokens.*'shape'"):
        read_file([{"tokens": [{"text": "a", "shape": "x"}], "label": "x"}])


def test_a_file_without_labels(read_file):
    with pytest.warns(UserWarning, match=r"W115.*2 docs"):
        with pytest.warns(UserWarning, match=r"W110.*'lable' \(line 1\)"):
            docs = read_file([{"text": "a", "lable": "x"}, {"text": "b"}])
    assert [is_missing(doc) for doc in docs] == [(True, True, True)] * 2


def test_tolerates(read_file):
    text = '\ufeff{"text": "a", "label": "x"}\r\n\r\n{"text": ""}\r\n  \r\n{"text": "b"}'
    with pytest.warns(UserWarning, match="W111.*records without text, in line 3"):
        first, second = read_file(text)
    assert (first.text, second.text) == ("a", "b")
    assert read_file("") == []


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
def test_lines_and_lists(read_file, name):
    records = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    for text in ("\n".join(map(json.dumps, records)), json.dumps(records, indent=1)):
        assert [doc.text for doc in read_file(text, name)] == ["a", "b"]
    (doc,) = read_file(json.dumps(records[0], indent=1), name)
    assert doc.text == "a"


def test_replaces_characters_that_spacy_refuses(read_file):
    raw, tokens = read_file(
        '{"text": "a\\ud800 \\ud83d\\ude00 b\x07", "entities": [[5, 7, "x\\udfff"]]}\n'
        '{"tokens": ["", "\\udc00"], "tags": ["\\ud800", "A"], "label": "\\ud800"}\n',
    )
    assert raw.text == "a\ufffd \U0001f600 b\x07"
    assert ents(raw) == [("b\x07", "x\ufffd")]
    assert words(tokens) == ["\ufffd", "\ufffd"]
    assert [token.tag_ for token in tokens] == ["\ufffd", "A"]
    assert tokens.cats == {"\ufffd": 1.0}


@pytest.mark.parametrize(
    ("record", "code", "parts"),
    [
        ('{"text": "a"', "M109", ["JSON"]),
        ("[1]", "M114", ["[1]", "JSON object"]),
        ('{"txt": "a"}', "M110", ["'text'", "['txt']", "--text"]),
        ('{"text": 1}', "M114", ["text is 1", "string"]),
        ('{"text": "a", "entities": [[0, 1, ""]]}', "M114", ["an entity", "[start, end, label]"]),
        ('{"tokens": [{"word": "a"}]}', "M114", ["tokens", "list of strings"]),
        ('{"tokens": ["a"], "text": "b"}', "M114", ["tokens is ['a']"]),
        ('{"tokens": ["a", "b"], "text": "a  b"}', "M114", ["tokens is ['a', 'b']"]),
        ('{"text": "a b", "tags": ["X"]}', "M114", ["tags is ['X']", "2 strings"]),
        ('{"text": "a", "tags": "X"}', "M114", ["tags is 'X'"]),
        ('{"text": "a", "tags": [1.5]}', "M114", ["tags is [1.5]"]),
        ('{"text": "a", "entities": {"a": 1}}', "M114", ["entities is {'a': 1}"]),
        ('{"text": "a", "entities": [[0, 1]]}', "M114", ["[0, 1]", "[start, end, label]"]),
        ('{"text": "a", "entities": [[0, true, "x"]]}', "M114", ["True", "[start, end, label]"]),
        ('{"text": "a", "spans": [{"start": 0}]}', "M114", ["{'start': 0}"]),
        ('{"text": "a", "slots": "B"}', "M107", ["'B'", "B-label"]),
        ('{"text": "a b", "slots": "O"}', "M114", ["slots is ['O']", "2 strings"]),
        ('{"text": "a", "label": 1.5}', "M114", ["label is 1.5"]),
        ('{"text": "a", "tokens": []}', "M114", ["tokens is []"]),
        ('{"text": "a", "cats": {"x": NaN}}', "M114", ["cats is {'x': nan}"]),
        ('{"text": "a", "cats": {"x": 2}}', "M114", ["cats is {'x': 2}", "0 to 1"]),
        ('{"text": "a", "cats": [1.5]}', "M114", ["cats is [1.5]"]),
        ('{"text": "a", "cats": {"x": "yes"}}', "M114", ["cats is {'x': 'yes'}"]),
        ('{"tokens": ["a"], "heads": [7], "deps": ["x"]}', "M154", ["expects"]),
        ('{"text": "a", "tokens": [{"start": 0}]}', "M154", ["expects"]),
    ],
)
def test_errors_name_file_line_and_value(read_file, record, code, parts):
    with pytest.raises(ValueError, match=code) as error:
        read_file(f'{{"text": "fine"}}\n\n{record}\n')
    for part in ["a.jsonl, line 3", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "parts"),
    [
        ("x", [[0, 1, "x"]], ["'label' is a list of spans, but a string in line 1"]),
        ([[0, 1, "x"]], ["x"], ["'label' is a list of strings, but a list of spans in line 1"]),
        (1, "x", ["'label' is a string, but a whole number in line 1"]),
        (True, "x", ["'label' is a string, but true or false in line 1"]),
    ],
)
def test_records_that_differ(read_file, first, second, parts):
    with pytest.raises(ValueError, match=r"M151.*a\.jsonl, line 3") as error:
        read_file([{"text": "a", "label": first}, {"text": "a"}, {"text": "a", "label": second}])
    for part in parts:
        assert part in str(error.value)


def test_numbers_of_records_in_a_list(read_file):
    with pytest.raises(ValueError, match=r"M110.*a\.json, record 2"):
        read_file([{"text": "a"}, {"txt": "a"}], "a.json")


def test_a_key_of_the_text(read_file):
    records = [{"body": "a", "label": "x"}]
    with pytest.raises(ValueError, match=r"M150.*'text'.*'body', 'label'.*--text"):
        read_file(records)
    assert read_file(records, text="body")[0].text == "a"
    assert read_file([{"sentence": "a", "label": "x"}], text="sentence")[0].text == "a"


@pytest.mark.parametrize(
    "data", [{"articles": [{"paragraphs": []}], "version": "1"}, [{"a": 1}], {}]
)
def test_json_of_an_unknown_form(read_file, data):
    with pytest.raises(ValueError, match="M150") as error:
        read_file(data, "a.json")
    assert "Label Studio" in str(error.value)


def test_a_category_that_no_record_has(read_file):
    with pytest.raises(ValueError, match=r"M110.*'topic'.*\['label', 'text'\].*--category"):
        read_file([{"text": "a", "label": "x"}], category="topic")


def test_groups_of_spans(read_file):
    overlapping = {"text": "Mira Voss saw", "entities": [[0, 9, "PER"], [0, 4, "FIRST"]]}
    doc, missing = read_file([overlapping, {"text": "a"}], spans="sc")
    assert [(s.text, s.label_) for s in doc.spans["sc"]] == [
        ("Mira Voss", "PER"),
        ("Mira", "FIRST"),
    ]
    assert (is_missing(doc), "sc" in missing.spans) == ((True, True, True), False)
    (doc,) = read_file([FIRST | {"ner_tags": B_IOB}], spans="sc")
    assert [(s.text, s.label_) for s in doc.spans["sc"]] == B_NER
    (doc,) = read_file([{"text": "a", "spans": {"sc": [[0, 1, "x"]], "other": []}}])
    assert [(s.text, s.label_) for s in doc.spans["sc"]] == [("a", "x")]
    assert len(doc.spans["other"]) == 0


VOCAB = Vocab()
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.tuples(TEXT, st.sampled_from("xy")), min_size=1, max_size=5))
def test_records_keep_any_text(read_file, pairs):
    docs = read_file([{"text": text, "label": label} for text, label in pairs])
    assert [doc.text for doc in docs] == [text for text, _ in pairs]
    assert [max(doc.cats, key=doc.cats.__getitem__) for doc in docs] == [
        label for _, label in pairs
    ]


@st.composite
def make_docs(draw: st.DrawFn) -> Doc:
    """RETURNS: A doc of random words with tags and entities, some of them missing."""
    words = draw(st.lists(st.text("ab'.ü", min_size=1), min_size=1, max_size=8))
    n = len(words)
    tags = draw(st.none() | st.lists(st.sampled_from(["", "A", "B"]), min_size=n, max_size=n))
    spaces = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    doc = Doc(VOCAB, words=words, spaces=spaces, tags=tags)
    if draw(st.booleans()):
        place = st.tuples(st.integers(0, n - 1), st.integers(1, n), st.sampled_from("xy"))
        places = draw(st.lists(place.filter(lambda item: item[0] < item[1]), max_size=3))
        doc.set_ents(filter_spans([Span(doc, *item[:2], label=item[2]) for item in places]))
    return doc


def make_record(doc: Doc, form: str) -> dict[str, Any]:
    """RETURNS: A record of the doc, with its entities in characters, tokens or IOB."""
    record: dict[str, Any] = {"text": doc.text, "tokens": [token.text for token in doc]}
    if doc.has_annotation("TAG"):
        record["tags"] = [token.tag_ or None for token in doc]
    if doc.has_annotation("ENT_IOB"):
        places = {
            "characters": [[ent.start_char, ent.end_char, ent.label_] for ent in doc.ents],
            "tokens": [
                {"token_start": ent.start, "token_end": ent.end - 1, "label": ent.label_}
                for ent in doc.ents
            ],
        }
        tags = [f"{t.ent_iob_}-{t.ent_type_}" if t.ent_type_ else "O" for t in doc]
        record |= {"ner_tags": tags} if form == "iob" else {"entities": places[form]}
    return record


@pytest.mark.parametrize("form", ["characters", "tokens", "iob"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(make_docs(), min_size=1, max_size=3))
@pytest.mark.filterwarnings("ignore:.W115")
def test_docs_round_trip(read_file, form, docs):
    found = read_file([make_record(doc, form) for doc in docs])
    assert list(map(describe, found)) == list(map(describe, docs))


TOKENS = ["Mira", "Tarn", "saw", "Port", "Vell", "."]
LINKED = {"head": (0, 2), "child": (3, 5), "label": "sees"}


@pytest.mark.parametrize(
    "record",
    [
        {"tokens": TOKENS, "relations": [[0, 1, 3, 4, "sees", "a note", False]]},
        {"tokens": TOKENS, "relations": [{"head": [0, 2], "child": [3, 5], "label": "sees"}]},
        {
            "text": " ".join(TOKENS),
            "relations": [
                {
                    "head": 1,
                    "child": 4,
                    "head_span": {"start": 0, "end": 9},
                    "child_span": {"start": 14, "end": 23},
                    "label": "sees",
                }
            ],
        },
        {
            "text": " ".join(TOKENS),
            "entities": [
                {"id": 7, "label": "PER", "start_offset": 0, "end_offset": 9},
                {"id": 8, "label": "LOC", "start_offset": 14, "end_offset": 23},
            ],
            "relations": [{"id": 1, "from_id": 7, "to_id": 8, "type": "sees"}],
        },
    ],
)
def test_relations(read_file, record):
    found, none = read_file([record, {**record, "relations": []}])
    assert get_relations(found) == [((0, 2), (3, 5), "sees", 1.0)]
    assert get_relations(none) == []
    (missing,) = read_file([{**record, "relations": [], "label": "x"}])
    assert get_relations(missing) is None


@pytest.mark.parametrize(
    ("relations", "code"),
    [
        (3, "M114"),
        ([{"head": 0, "child": 2}], "M114"),
        ([[0, 1, 3, "sees"]], "M114"),
        ([{"head": 0, "child": 6, "label": "sees"}], "M139"),
        ([{"from_id": 1, "to_id": 2, "type": "sees"}], "M139"),
        ([{"head": [1, 1], "child": 2, "label": "sees"}], "M139"),
    ],
)
def test_wrong_relations(read_file, relations, code):
    record = {"tokens": TOKENS, "relations": relations}
    with pytest.raises(ValueError, match=rf"{code}.*line 1"):
        read_file([record])
    if isinstance(relations, list):
        right = {"head": 0, "child": 2, "label": "sees"}
        with pytest.warns(UserWarning, match="W112.*1 left out.*relations"):
            (doc,) = read_file([record | {"relations": [*relations, right]}], skip_errors=True)
        assert get_relations(doc) == [((0, 1), (2, 3), "sees", 1.0)]


def test_numbers(read_file):
    docs = read_file([{"text": "a", "scores": {"age": 3, "size": None}}, {"text": "b"}])
    assert [doc._.scores for doc in docs] == [{"age": 3, "size": None}, None]
    for wrong in (3, {}, {"age": "3"}, {"age": True}, {"age": float("inf")}):
        with pytest.raises(ValueError, match=r"M114.*line 1.*scores"):
            read_file([{"text": "a", "scores": wrong}])
