from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.tokens import DocBin
from spacy.vocab import Vocab

from spacy_mtl.corpora.slot_filling import read_slots

SEQ_IN = "play  abba\tloud \nhow cold is it\n"
SEQ_OUT = "O B-artist I-artist \nO O O O\n"
LABEL = "Play Music\nGetWeather\n"


def write(folder: Path, seq_in: str = SEQ_IN, seq_out: str = SEQ_OUT, label: str = LABEL) -> Path:
    for name, text in (("seq.in", seq_in), ("seq.out", seq_out), ("label", label)):
        (folder / name).write_text(text, encoding="utf8", newline="")
    return folder


@pytest.mark.parametrize("file", [".", "seq.in", "seq.out", "label"])
def test_words_slots_and_intents(tmp_path, file):
    docs = DocBin(docs=read_slots(write(tmp_path) / file, Vocab())).get_docs(Vocab())
    first, second = docs
    assert (first.text, second.text) == ("play abba loud", "how cold is it")
    assert [(ent.text, ent.label_) for ent in first.ents] == [("abba loud", "artist")]
    assert [token.ent_iob for token in second] == [2, 2, 2, 2]
    assert (first.cats, second.cats) == ({"Play Music": 1.0}, {"GetWeather": 1.0})
    assert not first.has_annotation("TAG")


def test_entity_without_begin(tmp_path):
    write(tmp_path, "a b c d e\n", "I-x I-y O I-x B-x\n", "l")
    (doc,) = read_slots(tmp_path, Vocab())
    assert [(e.text, e.label_) for e in doc.ents] == [
        ("a", "x"),
        ("b", "y"),
        ("d", "x"),
        ("e", "x"),
    ]


def test_blank_label_is_missing(tmp_path):
    first, second = read_slots(write(tmp_path, label="\nGetWeather"), Vocab())
    assert (first.cats, second.cats) == ({}, {"GetWeather": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n \n",
        lambda text: "\n" + text.replace("\n", "\n\n"),
    ],
)
def test_tolerates(tmp_path, change):
    write(tmp_path, change(SEQ_IN), change(SEQ_OUT), change(LABEL))
    first, second = read_slots(tmp_path, Vocab())
    assert (first.text, second.text) == ("play abba loud", "how cold is it")
    assert (first.cats, second.cats) == ({"Play Music": 1.0}, {"GetWeather": 1.0})


def test_no_break_space_stays_in_its_word(tmp_path):
    (doc,) = read_slots(write(tmp_path, "10\xa0km\n", "B-x\n", "l\n"), Vocab())
    assert [token.text for token in doc] == ["10\xa0km"]


@pytest.mark.parametrize(
    ("texts", "code", "parts"),
    [
        (("a b\nc\n", "O O\nO O\n", "x\ny\n"), "M108", ["line 2", "'O O'", "'c'"]),
        (("a\nb\n", "O\n", "x\ny\n"), "M108", ["seq.out", "line 2"]),
        (("a\n", "O\n", "x\ny\n"), "M108", ["seq.in", "line 2", "'y'"]),
        (("\na\n", "\nO\n", "x\ny\n"), "M108", ["line 1", "'x'"]),
        (("a\n", "X-x\n", "x\n"), "M107", ["seq.out", "line 1", "'X-x'"]),
    ],
)
def test_errors_name_file_line_and_value(tmp_path, texts, code, parts):
    with pytest.raises(ValueError, match=code) as error:
        list(read_slots(write(tmp_path, *texts), Vocab()))
    for part in [str(tmp_path), *parts]:
        assert part in str(error.value)


def test_missing_file(tmp_path):
    (write(tmp_path) / "seq.out").unlink()
    with pytest.raises(ValueError, match=r"M101.*seq\.out"):
        list(read_slots(tmp_path, Vocab()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1))
def test_slots_round_trip(tmp_path, chunks):
    """Labelled word sequences written as IOB2 are read as entities."""
    tags = [f"{'I' if i else 'B'}-{label}" for label, length in chunks for i in range(length)]
    words = [f"w{i}" for i in range(len(tags))]
    (doc,) = read_slots(write(tmp_path, " ".join(words), " ".join(tags), "l"), Vocab())
    assert [(ent.label_, len(ent)) for ent in doc.ents] == chunks
    assert [token.text for token in doc] == words
