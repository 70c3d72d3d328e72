from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mtl.corpora.columns import find_spaces, looks_like_columns, read_columns
from spacy_mtl.corpora.text_io import check_iob

CONLL = """-DOCSTART- -X- -X- O

Anna NNP B-NP I-PER
Voss NNP I-NP I-PER
left VBD B-VP O
Rome NNP B-NP I-LOC
. . O O

Rome NNP B-NP I-LOC
Anna NNP I-NP B-LOC

-DOCSTART- -X- -X- O

Hi -X- O O
"""
UNER = """# sent_id = 1
# text = Anna, Rome
1\tAnna\tB-PER\t-\tbob
2\t,\tO\t-\tbob
3\tRome\tB-LOC\t-\tbob
"""
XSID = """# id: 1
# text: wake me at six
# intent: alarm/set
1\twake\talarm/set\tO
2\tme\talarm/set\tO
3\tat\talarm/set\tB-time
4\tsix\talarm/set\tI-time

# id: 2
# intent: alarm/set
1\twake\talarm/set\tO
2\tme\talarm/set\tO
"""
PLUS = """# global.columns = ID FORM UPOS A:NER MISC
# text = du Rome
1-2\tdu\t_\t_\t_
1\tde\tADP\tO\tSpaceAfter=No
2\tle\tDET\tO\t_
3\tRome\tPROPN\tB-LOC\t_
"""


def read(folder: Path, text: str, **options: Any) -> list[Doc]:
    """Read a text as columns and send the docs through a `DocBin`."""
    path = folder / "a.conll"
    path.write_text(text, encoding="utf8")
    docs = read_columns(path, Vocab(), **options)
    return list(DocBin(docs=docs).get_docs(Vocab()))


def tags(doc: Doc) -> list[str]:
    return [token.tag_ for token in doc]


def ents(doc: Doc) -> list[tuple[str, str]]:
    return [(ent.text, ent.label_) for ent in doc.ents]


def iobs(doc: Doc) -> list[int]:
    return [token.ent_iob for token in doc]


def test_conll2003(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"W110.*'3, such as B-NP'.*--columns word,tag,-,ner"):
        first, second = read(tmp_path, CONLL)
    assert first.text == "Anna Voss left Rome . Rome Anna"
    assert tags(first) == ["NNP", "NNP", "VBD", "NNP", ".", "NNP", "NNP"]
    assert ents(first) == [
        ("Anna Voss", "PER"),
        ("Rome", "LOC"),
        ("Rome", "LOC"),
        ("Anna", "LOC"),
    ]
    assert [token.i for token in first if token.is_sent_start] == [0, 5]
    assert (tags(second), iobs(second)) == ([""], [2])


def test_chosen_columns(tmp_path: Path) -> None:
    first, _ = read(tmp_path, CONLL, columns="word, -, -, ner")
    assert not first.has_annotation("TAG") and len(first.ents) == 4
    text = "1\tAnna\tanna\tPROPN\tx\n\n1\tleft\tleave\tVERB\ty\n"
    one, two = read(tmp_path, text, columns="index,word,lemma,pos,cat")
    assert (one[0].lemma_, one[0].pos_, one.cats) == ("anna", "PROPN", {"x": 1.0})
    assert two.cats == {"y": 1.0}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Anna\tB-PER\nleft\tO\n", ("", ["PER"])),
        ("B-PER\tAnna\nO\tleft\n", ("", ["PER"])),
        ("Anna NNP\nleft VBD\n", ("NNP", [])),
        ("Anna NNP B-PER\nleft VBD O\n", ("NNP", ["PER"])),
        ("Anna anna NNP B-NP B-PER\nleft left VBD B-VP O\n", ("NNP", ["PER"])),
        ("Anna NNP B-NP\nleft VBD B-VP\n", ("NNP", [])),
        ("Anna PER\nleft O\nit O\n", ("", ["PER"])),
        ("1\tAnna\tB-PER\tO\n2\tleft\tO\tB-X\n", ("", ["PER"])),
        ("Anna\tB-PER\t_\nleft\tO\t_\n", ("", ["PER"])),
    ],
)
@pytest.mark.filterwarnings("ignore:.*W110")
def test_guessed_columns(tmp_path: Path, text: str, labels: tuple[str, list[str]]) -> None:
    (doc,) = read(tmp_path, text)
    assert [token.text for token in doc][:2] == ["Anna", "left"]
    assert (doc[0].tag_, [ent.label_ for ent in doc.ents]) == labels
    assert ents(doc) == [("Anna", label) for label in labels[1]]


def test_numbered_words(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"W110.*'5, such as bob'"):
        (doc,) = read(tmp_path, UNER)
    assert (doc.text, ents(doc)) == ("Anna, Rome", [("Anna", "PER"), ("Rome", "LOC")])
    assert not doc.has_annotation("TAG")


def test_intents(tmp_path: Path) -> None:
    """Each utterance is a doc, also if the next has the same intent."""
    first, second = read(tmp_path, XSID)
    assert (first.text, ents(first)) == ("wake me at six", [("at six", "time")])
    assert first.cats == second.cats == {"alarm/set": 1.0}
    with pytest.warns(UserWarning, match=r"W110.*'3, such as alarm/set'"):
        docs = read(tmp_path, XSID, category="id")
    assert [doc.cats for doc in docs] == [{"1": 1.0}, {"2": 1.0}]


def test_conllu_plus(tmp_path: Path) -> None:
    (doc,) = read(tmp_path, PLUS)
    assert [token.text for token in doc] == ["de", "le", "Rome"]
    assert (doc.text, tags(doc)) == ("dele Rome", ["ADP", "DET", "PROPN"])
    assert ents(doc) == [("Rome", "LOC")]


def test_missing_labels(tmp_path: Path) -> None:
    (doc,) = read(tmp_path, "a X B-P\nb - _\nc _ -X-\nd -X- O\n")
    assert (tags(doc), iobs(doc)) == (["X", "", "", ""], [3, 0, 0, 2])


def test_hashes_that_are_words(tmp_path: Path) -> None:
    docs = read(tmp_path, "#rain\tO\n#\tO\nin\tO\nRome\tB-LOC\n\n# a comment\nhi\tO\n")
    assert [doc.text for doc in docs] == ["#rain # in Rome", "hi"]
    assert [doc.text for doc in read(tmp_path, "# key = x\n# O\nRome B-LOC\n")] == ["# Rome"]


@pytest.mark.parametrize(
    ("text", "options", "code", "parts"),
    [
        ("a O\nb B-x\nc\n", {}, "M103", ["line 3", "1 columns"]),
        (
            "a O\nb B-x\n",
            {"columns": "word,tag,ner"},
            "M133",
            ["they are 3", "Line 1 has 2 columns"],
        ),
        ("a O\nb B-x\n", {"columns": "word,x"}, "M113", ["'x'", "ner"]),
        ("a O\nb B-x\n", {"columns": "-,ner"}, "M133", ["'word'"]),
        ("a O\nb B-x\n", {"columns": "word,word"}, "M133", ["'word'"]),
        ("a b c\n", {"columns": "word,tag,tag"}, "M133", ["several are 'tag'"]),
        ("rain rain\nfalls falls\n", {}, "M133", ["none has labels"]),
        ("x/1 a X\nx/1 b Y\n", {}, "M133", ["holds no words"]),
        ("a B_x\nb O\n", {}, "M107", ["line 1", "B_x"]),
        ("a O\nb x-B\n", {}, "M107", ["line 2", "x-B"]),
        ("a Q-x\nb B-x\n", {"columns": "word,ner"}, "M107", ["line 1", "Q-x"]),
        ("a O\nb L-x\n", {"columns": "word,ner"}, "M107", ["line 2", "L-x"]),
        (XSID.replace("# intent: a", "# intent: b"), {}, "M134", ["line 4", "blarm/set"]),
        (XSID, {"encoding": "utf-99"}, "M131", ["utf-99"]),
    ],
)
def test_errors(
    tmp_path: Path, text: str, options: dict[str, Any], code: str, parts: list[str]
) -> None:
    with pytest.raises(ValueError, match=code) as error:
        read(tmp_path, text, **options)
    assert [part for part in parts if part not in str(error.value)] == []


def test_skipped_sentences(tmp_path: Path) -> None:
    text = "a O\nb B-x\n\nc Q-x\n\nd\n\ne O\n"
    with pytest.warns(UserWarning, match=r"W112.*2 left out.*: sentences, in lines 4, 6.*M107"):
        docs = read(tmp_path, text, columns="word,ner", skip_errors=True)
    assert [doc.text for doc in docs] == ["a b", "e"]


def test_a_category_that_no_comment_has(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"W117.*--category 'topic'.*'intent'"):
        read(tmp_path, XSID.replace("alarm/set\t", "_\t"), category="topic")


def test_empty_file(tmp_path: Path) -> None:
    assert read(tmp_path, "\n\n") == []


def test_what_looks_like_columns() -> None:
    right = [CONLL, UNER, XSID, PLUS, "a\tB-x\n", "a X\nb Y\n\nc X\n"]
    wrong = [
        "",
        "text\tlabel\nhi there\tx\n\nyo you\ty\n",
        "It rains.\n\nIt does.\n",
        "__label__x rain\n",
        "word\nword\n",
        "text\tlabel\nhi\tx\n",
    ]
    assert [text for text in right if not looks_like_columns(text)] == []
    assert [text for text in wrong if looks_like_columns(text)] == []


@pytest.mark.parametrize(
    ("text", "spaces"),
    [
        ("a, b", [False, True, True]),
        ("a,b", [False, False, True]),
        ("a  , b ", [True, True, True]),
        ("a,b c", [True, True, True]),
        ("", [True, True, True]),
    ],
)
def test_spaces(text: str, spaces: list[bool]) -> None:
    assert find_spaces(["a", ",", "b"], text) == spaces


Spans = list[tuple[int, int, str]]


@st.composite
def sentences(draw: st.DrawFn) -> tuple[int, Spans]:
    """A number of words, and entities that do not overlap."""
    gaps = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=5))
    spans, end = [], 0
    for gap, length in gaps:
        spans.append((end + gap, end + gap + length, draw(st.sampled_from(["x", "B-y", "I-z"]))))
        end += gap + length
    return end + draw(st.integers(0, 2)), spans


def write_tags(n: int, spans: Spans, scheme: str) -> list[str]:
    """Write entities in a scheme. Its letters are those of the first word of several, an inner one,
    the last, and of a single word.
    """
    words = ["O"] * n
    for start, end, label in spans:
        letters = [scheme[0], *scheme[1] * (end - start - 2), scheme[2]]
        letters = [scheme[3]] if end - start == 1 else letters
        if scheme == "IIII" and words[max(start - 1, 0) : start] in (
            [f"I-{label}"],
            [f"B-{label}"],
        ):
            letters[0] = "B"  # IOB1 marks the begin only behind an entity of the same type
        words[start:end] = [f"{letter}-{label}" for letter in letters]
    return words


@given(sentences(), st.sampled_from(["BIIB", "BIES", "BMES", "BILU"]))
def test_schemes_hold_the_same_entities(sentence: tuple[int, Spans], scheme: str) -> None:
    n, spans = sentence
    lines = enumerate(write_tags(n, spans, scheme), 1)
    found = check_iob(Path("x"), lines, [i == 0 for i in range(n)])
    assert found == write_tags(n, spans, "BIIB")


@given(sentences())
def test_iob1(sentence: tuple[int, Spans]) -> None:
    n, spans = sentence
    words = write_tags(n, spans, "IIII")
    found = check_iob(Path("x"), enumerate(words, 1), [i == 0 for i in range(n)])
    assert found == write_tags(n, spans, "BIIB")
