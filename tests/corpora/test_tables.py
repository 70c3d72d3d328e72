from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mtl.corpora.tables import read_csv, read_tsv
from spacy_mtl.pairs import find_texts

CSV = 'text,label\n"Hello, you",greet\nBye now,part\n'


def read(
    reader: Callable[..., Iterator[Doc]], folder: Path, content: str, /, **options: str
) -> list[Doc]:
    """Read a text as a file and send the docs through a `DocBin`."""
    path = folder / "table"
    path.write_bytes(content.encode())
    return list(
        DocBin(docs=reader(path, Vocab(), **options), store_user_data=True).get_docs(Vocab())
    )


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
    table = "body,kind\nhi,x\nyo,y\n"
    first, second = read(read_csv, tmp_path, table, text="body", category="kind")
    assert (first.text, second.text) == ("hi", "yo")
    assert first.cats == {"x": 1.0, "y": 0.0}


def test_csv_blank_label_is_missing(tmp_path):
    with pytest.warns(
        UserWarning, match=r"W111.*1 left out: labels that are empty or NaN, in line 2"
    ):
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
        (
            "text,mood,size\na,b,c\n",
            "M110",
            ["line 1", "'label'", "['text', 'mood', 'size']", "--category"],
        ),
        ("good rain,pos\nbad rain,neg\n", "M110", ["line 1", "'text,label' above"]),
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


@pytest.mark.parametrize("reader", [read_csv, read_tsv])
def test_a_long_text(tmp_path, reader):
    text = "word " * 40_000
    separator = "," if reader is read_csv else "\t"
    (doc,) = read(reader, tmp_path, f"text{separator}label\n{text}{separator}x\n")
    assert len(doc) == 40_000 and doc.cats == {"x": 1.0}


@pytest.mark.parametrize("reader", [read_csv, read_tsv])
def test_missing_file(tmp_path, reader):
    with pytest.raises(ValueError, match=r"M101.*none"):
        list(reader(tmp_path / "none", Vocab()))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("text;label\na, b;x\n", {}),
        ("text\tlabel\na, b\tx\n", {}),
        ("text|label\na, b|x\n", {}),
        ("sep=;\ntext;label\na, b;x\n", {}),
        ('"sep=;"\ntext;label\na, b;x\n', {}),
        ("text~label\na, b~x\n", {"delimiter": "~"}),
        ("text\tlabel\na, b\tx\n", {"delimiter": "tab"}),
        ("Sentence,Intent\n'a, b',x\n".replace("'", '"'), {}),
        (" text , category\n'a, b',x\n".replace("'", '"'), {}),
        (",text,label\n0,'a, b',x\n".replace("'", '"'), {}),
        ("Unnamed: 0,text,label\n7,'a, b',x\n".replace("'", '"'), {}),
    ],
)
def test_csv_dialects(tmp_path, text, options):
    (doc,) = read(read_csv, tmp_path, text, **options)
    assert (doc.text, doc.cats) == ("a, b", {"x": 1.0})


def test_tsv_with_another_delimiter(tmp_path):
    (doc,) = read(read_tsv, tmp_path, 'text;label\n"a;b";x\n', delimiter=";")
    assert (doc.text, doc.cats) == ("a;b", {"x": 1.0})


def test_csv_encoding(tmp_path):
    path = tmp_path / "table"
    path.write_bytes("text,label\nschön,gut\n".encode("latin1"))
    with pytest.raises(ValueError, match="M132"):
        list(read_csv(path, Vocab()))
    (doc,) = read_csv(path, Vocab(), encoding="latin1")
    assert doc.text == "schön"
    path.write_bytes("text,label\nschön,gut\n".encode("utf-16"))
    (doc,) = read_csv(path, Vocab())
    assert doc.text == "schön"


def test_csv_cells_of_pandas(tmp_path):
    text = "text,label\ngood,pos\nnan,neg\nbad,nan\n,neg\n"
    with pytest.warns(UserWarning) as told:
        first, second = read(read_csv, tmp_path, text)
    assert [(doc.text, doc.cats) for doc in (first, second)] == [
        ("good", {"pos": 1.0}),
        ("bad", {}),
    ]
    assert "2 left out: rows without text, in lines 3, 5" in str(told[0].message)
    assert "1 left out: labels that are empty or NaN, in line 4" in str(told[1].message)


def test_csv_columns_of_0_and_1(tmp_path):
    text = "id,text,toxic,threat\n1,a,0,1\n2,b,1.0,False\n"
    with pytest.warns(UserWarning, match=r"W110.*'id'"):
        docs = read(read_csv, tmp_path, text)
    assert [doc.cats for doc in docs] == [
        {"threat": 1.0, "toxic": 0.0},
        {"threat": 0.0, "toxic": 1.0},
    ]


def test_csv_the_only_other_column_has_the_labels(tmp_path):
    with pytest.warns(UserWarning, match=r"W110.*'id'"):
        first, second = read(read_csv, tmp_path, ",id,text,mood\n0,7,a,good\n1,8,b,bad\n")
    assert (first.cats, second.cats) == ({"bad": 0.0, "good": 1.0}, {"bad": 1.0, "good": 0.0})
    with pytest.raises(ValueError, match=r"M110.*'label'.*--category"):
        read(read_csv, tmp_path, "text,id\na,7\n")


def test_csv_several_columns_by_name(tmp_path):
    text = "text,toxic,threat,label\na,0.25,1,x\nb,nan,0,y\n"
    with pytest.warns(UserWarning) as told:
        docs = list(read_csv(write(tmp_path, text), Vocab(), category="toxic, threat"))
    assert docs[0].cats == {"threat": 1.0, "toxic": 0.25}
    assert docs[1].cats["threat"] == 0.0 and docs[1].cats["toxic"] != docs[1].cats["toxic"]
    assert "'label'" in str(told[0].message) and "NaN, in line 3" in str(told[1].message)
    with pytest.raises(ValueError, match=r"M114.*line 2: label is 'x'"):
        read(read_csv, tmp_path, text, category="toxic,label")


def write(folder: Path, text: str) -> Path:
    path = folder / "table"
    path.write_text(text, encoding="utf8")
    return path


def test_csv_with_a_word_per_row(tmp_path):
    text = "Sentence #,Word,POS,Tag\nSentence: 1,Anna,NNP,B-per\n,left,VBD,O\nSentence: 2,Hi,UH,O\n"
    first, second = read(read_csv, tmp_path, text)
    assert (first.text, second.text) == ("Anna left", "Hi")
    assert [token.tag_ for token in first] == ["NNP", "VBD"]
    assert [(ent.text, ent.label_) for ent in first.ents] == [("Anna", "per")]
    filled = "sentence_id,token,tag\n1,Anna,NNP\n1,left,VBD\n2,Hi,UH\n"
    first, second = read(read_csv, tmp_path, filled)
    assert [token.tag_ for token in first] == ["NNP", "VBD"]
    assert is_missing(first) == (False, True, True)


def test_pairs_of_texts(tmp_path):
    text = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tx\n1\tc\t\ty\n"
    with pytest.warns(UserWarning) as told:
        (doc,) = read(read_tsv, tmp_path, text)
    told = " ".join(str(item.message) for item in told)
    assert "'index'" in told and "rows without text, in line 3" in told
    assert [span.text for span in find_texts(doc)] == ["a", "b"]
    assert doc.cats == {"x": 1.0}
    with pytest.warns(UserWarning, match=r"W110.*'index'.*'sentence2'"):
        doc, _ = read(read_tsv, tmp_path, text, text="sentence1")
    assert (doc.text, doc.cats) == ("a", {"x": 1.0, "y": 0.0})
    named = "one,two,label\na,b,x\n"
    (doc,) = read(read_csv, tmp_path, named, text="one,two")
    assert [span.text for span in find_texts(doc)] == ["a", "b"]
    with pytest.raises(ValueError, match=r"M137.*'one,two,label' names 3 columns"):
        read(read_csv, tmp_path, named, text="one,two,label")


def test_texts_to_generate(tmp_path):
    table = "source\ttarget\nplay it\tplay()\nstop\t\n"
    docs = read(read_tsv, tmp_path, table, text="source", target="target")
    assert [(doc.text, doc._.generated) for doc in docs] == [("play it", "play()"), ("stop", None)]
    with pytest.raises(ValueError, match=r"M110.*'other'.*--target"):
        read(read_tsv, tmp_path, table, text="source", target="other")


def test_numbers(tmp_path):
    text = "text,age,size,label\na,3,,x\nb,1e2,-0.5,y\n"
    docs = read(read_csv, tmp_path, text, scores="age,size")
    assert [doc._.scores for doc in docs] == [
        {"age": 3.0, "size": None},
        {"age": 100.0, "size": -0.5},
    ]
    assert docs[0].cats == {"x": 1.0, "y": 0.0}
    pairs = "sentence1,sentence2,score\na,b,2.5\n"
    (doc,) = read(read_csv, tmp_path, pairs, scores="score")
    assert (doc._.scores, doc.cats) == ({"score": 2.5}, {})
    for wrong in ("old", "inf"):
        with pytest.raises(ValueError, match=rf"M114.*line 2.*age.*{wrong}.*a number, or empty"):
            read(read_csv, tmp_path, f"text,age\na,{wrong}\n", scores="age")
    with pytest.raises(ValueError, match=r"M110.*'size'.*--scores"):
        read(read_csv, tmp_path, "text,age\na,1\n", scores="size")


def test_csv_skipped_rows(tmp_path):
    with pytest.warns(UserWarning, match=r"W112.*1 left out.*: rows, in line 3.*M103"):
        (doc,) = read(read_csv, tmp_path, "text,label\na,x\nb,c,y\n", skip_errors=True)
    assert doc.text == "a"


def test_csv_unknown_delimiter(tmp_path):
    with pytest.raises(ValueError, match=r"M113.*delimiter.*'comma'.*'tab'"):
        read(read_csv, tmp_path, CSV, delimiter="comma")
