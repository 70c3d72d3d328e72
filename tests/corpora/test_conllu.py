from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mtl.corpora.conllu import Mention, Word, read_conllu, read_mentions

ENTITY = "# global.Entity = GRP-etype-infstat-identity"
GUM = f"""# newdoc id = GUM_news_one
{ENTITY}
# meta::genre = news
# sent_id = 1
1	Duke	duke	NOUN	NN	_	0	root	_	Entity=(1-person-new-Duke_X
2	University	_	PROPN	NNP	_	1	flat	_	Entity=(2-place-new-Duke_University)
3	of	of	ADP	IN	_	1	case	_	_
4	York	York	PROPN	NNP	_	1	nmod	_	Entity=(3-place-new-York)1)|SpaceAfter=No
5	.	.	PUNCT	.	_	1	punct	_	_

# sent_id = 2
1	They	they	PRON	PRP	_	2	nsubj	_	Entity=(1-person-giv-Duke_X)
2	saw	see	VERB	VBD	_	0	root	_	_
3	Anna	Anna	PROPN	NNP	_	2	obj	_	Entity=(4-person-new)
4	Rome	Rome	PROPN	NNP	_	2	obj	_	Entity=(5-place-new-Rome)

# newdoc id = GUM_vlog_two
# meta::genre = vlog
1	Hi	hi	INTJ	_	_	0	root	_	_

"""


def write(folder: Path, text: str) -> Path:
    path = folder / "corpus.conllu"
    path.write_bytes(text.encode())
    return path


def read(folder: Path, text: str, **options: str | bool) -> list[Doc]:
    """Read a text as CoNLL-U and send the docs through a `DocBin`."""
    docs = read_conllu(write(folder, text), Vocab(), **options)
    return list(DocBin(docs=docs).get_docs(Vocab()))


def rows(*words: str, misc: tuple[str, ...] = ()) -> str:
    """A sentence of CoNLL-U: one row per word, all of them proper nouns."""
    misc = misc or ("_",) * len(words)
    return "".join(
        f"{i}\t{word}\t_\tPROPN\tNNP\t_\t0\t_\t_\t{item}\n"
        for i, (word, item) in enumerate(zip(words, misc, strict=True), 1)
    )


def ents(doc: Doc) -> list[tuple[str, str]]:
    return [(ent.text, ent.label_) for ent in doc.ents]


def iobs(doc: Doc) -> list[int]:
    return [token.ent_iob for token in doc]


def test_words_tags_and_sentences(tmp_path):
    first, second = read(tmp_path, GUM)
    assert first.text == "Duke University of York. They saw Anna Rome "
    assert [t.tag_ for t in first] == ["NN", "NNP", "IN", "NNP", ".", "PRP", "VBD", "NNP", "NNP"]
    assert [t.pos_ for t in first][:3] == ["NOUN", "PROPN", "ADP"]
    assert [t.i for t in first if t.is_sent_start] == [0, 5]
    assert [t.text for t in second] == ["Hi"]


def test_tag_column(tmp_path):
    first, second = read(tmp_path, GUM, tags="upos")
    assert [t.tag_ for t in first][:4] == ["NOUN", "PROPN", "ADP", "PROPN"]
    assert [t.tag_ for t in second] == ["INTJ"]


def test_underscore_is_a_missing_tag(tmp_path):
    second = read(tmp_path, GUM)[1]
    assert not second.has_annotation("TAG")
    assert second[0].pos_ == "INTJ"


def test_unknown_coarse_tag_is_missing(tmp_path):
    (doc,) = read(tmp_path, rows("a").replace("PROPN", "FOO"))
    assert doc[0].pos_ == ""
    assert doc[0].tag_ == "NNP"


def test_ranges_and_empty_nodes(tmp_path):
    (doc,) = read(
        tmp_path,
        "1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No\n"
        "1\tdo\t_\tAUX\tVBP\t_\t0\t_\t_\t_\n"
        "2\tn't\t_\tPART\tRB\t_\t0\t_\t_\t_\n"
        "2.1\tgo\t_\tVERB\tVB\t_\t_\t_\t_\t_\n"
        "3\t,\t_\tPUNCT\t,\t_\t0\t_\t_\t_\n"
        "4-5\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "4\tde\t_\tADP\tIN\t_\t0\t_\t_\tSpaceAfter=No\n"
        "5\tle\t_\tDET\tDT\t_\t0\t_\t_\tSpaceAfter=No\n"
        "6\tx\t_\tX\tFW\t_\t0\t_\t_\tSpaceAfter=No\n",
    )
    assert [t.text for t in doc] == ["do", "n't", ",", "de", "le", "x"]
    assert doc.text == "don't, de le x"


def test_named_mentions(tmp_path):
    """The longest named mention wins. A mention needs an identity and a proper noun."""
    first, second = read(tmp_path, GUM)
    assert ents(first) == [("Duke University of York", "person"), ("Rome", "place")]
    assert iobs(first) == [3, 1, 1, 1, 2, 2, 2, 2, 3]
    assert iobs(second) == [0], "neither a mention nor a declaration of its own"
    declared = GUM.replace("# meta::genre = vlog", ENTITY)
    assert iobs(read(tmp_path, declared)[1]) == [2], "declared and empty"


@pytest.mark.parametrize(
    ("header", "misc"),
    [
        ("", "_"),
        ("", "Entity=(1-person-new-Rome)"),
        ("# global.Entity = eid-etype-head-other\n", "Entity=(1-person-1-x)"),
    ],
)
def test_entities_are_missing_unless_named_mentions_are_declared(tmp_path, header, misc):
    text = header + rows("Rome", "x", misc=(misc, "_"))
    with nullcontext() if misc == "_" else pytest.warns(UserWarning, match=r"W110.*'Entity'"):
        (doc,) = read(tmp_path, text)
    assert iobs(doc) == [0, 0]
    assert not doc.has_annotation("ENT_IOB")


def test_ner_column(tmp_path):
    first = rows("a", "b", "c", misc=("NER=I-PER", "X=y|NER=I-LOC", "NER=B-LOC"))
    second = rows("d", "e", "f", misc=("NER=I-LOC", "_", "NER=I-ORG|SpaceAfter=No"))
    (doc,) = read(tmp_path, f"{first}\n{second}")
    assert [(e.text, e.label_) for e in doc.ents] == [
        ("a", "PER"),
        ("b", "LOC"),
        ("c", "LOC"),
        ("d", "LOC"),
        ("f", "ORG"),
    ]
    assert iobs(doc) == [3, 3, 3, 3, 2, 3]


def test_ner_wins_over_brackets(tmp_path):
    misc = "NER=B-LOC|Entity=(1-place-new-Rome)"
    with pytest.warns(UserWarning, match=r"W110.*'Entity'.*--misc"):
        (doc,) = read(tmp_path, f"{ENTITY}\n" + rows("Rome", misc=(misc,)))
    assert ents(doc) == [("Rome", "LOC")]


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        ("meta::genre", ["news", "vlog"]),
        ("newdoc", ["GUM", "GUM"]),
        ("sent_id", ["1", "2", None]),
    ],
)
def test_category(tmp_path, key, labels):
    docs = read(tmp_path, GUM, category=key)
    assert [doc.cats for doc in docs] == [{label: 1.0} if label else {} for label in labels]


@pytest.mark.parametrize(
    ("newdoc", "cats"),
    [
        ("# newdoc id = weblog-blog_2004", {"weblog": 1.0}),
        ("# newdoc id = email_x-1", {"email": 1.0}),
        ("# newdoc id = plain", {}),
        ("# newdoc", {}),
        ("# nothing", {}),
    ],
)
def test_prefix_of_the_document_id(tmp_path, newdoc, cats):
    (doc,) = read(tmp_path, f"{newdoc}\n{rows('a')}", category="newdoc")
    assert doc.cats == cats


def test_category_holds_until_the_next_document(tmp_path):
    text = f"# k = x\n{rows('a')}\n{rows('b')}\n# newdoc\n{rows('c')}\n"
    first, second = read(tmp_path, text, category="k")
    assert (first.text, first.cats) == ("a b ", {"x": 1.0})
    assert (second.text, second.cats) == ("c ", {})


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n\n" + text.replace("\n\n", "\n \n\n"),
        lambda text: text.replace("# sent_id = 2", "#\n# # = =\n#sent_id=2"),
    ],
)
def test_tolerates(tmp_path, change):
    assert [d.to_json() for d in read(tmp_path, change(GUM))] == [
        d.to_json() for d in read(tmp_path, GUM)
    ]


def test_characters_that_spacy_refuses_are_replaced(tmp_path):
    path = tmp_path / "bytes.conllu"
    text = rows("a@b", "", "c\x07\x85", "éééé").encode()
    path.write_bytes(text.replace(b"@", b"\xed\xa0\x80\0"))
    with pytest.warns(UserWarning, match="W100"):
        (doc,) = read_conllu(path, Vocab())
    assert [t.text for t in doc] == ["a\ufffd\ufffd\ufffd\ufffdb", "\ufffd", "c\x07\x85", "éééé"]


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        (rows("a") + "2\tb\n", "M103", ["line 2", "2 columns", "10"]),
        (rows("a").replace("\t", " "), "M103", ["line 1", "1 columns"]),
        (rows("a", "b").replace("2\t", "3\t"), "M104", ["line 2", "3 after 1"]),
        (rows("a").replace("1\t", "x\t"), "M104", ["line 1", "x after 0"]),
        (rows("a", "b").replace("2\t", "2-3\t"), "M104", ["line 2", "2-3 before 2"]),
        (rows("a", "b", misc=("Entity=(1-x", "_")), "M105", ["line 2", "(1-x"]),
        (rows("a", "b", misc=("_", "Entity=1)")), "M105", ["line 3", "1)"]),
        (rows("a", misc=("Entity=(1-x)1)",)), "M105", ["line 2"]),
        (rows("a", misc=("Entity=1",)), "M105", ["line 2"]),
        (
            rows("a", misc=("Entity=(1-x",)) + "\n" + rows("b", misc=("Entity=1)",)),
            "M106",
            ["line 4", "1)"],
        ),
        (rows("a", misc=("NER=E-LOC",)), "M107", ["line 1", "E-LOC"]),
        (rows("a", misc=("NER=X-LOC",)), "M107", ["line 1", "X-LOC"]),
        (rows("a", misc=("NER=B-",)), "M107", ["line 1", "B-"]),
    ],
)
def test_errors_name_file_line_and_value(tmp_path, text, code, parts):
    text = f"{ENTITY}\n{text}" if "Entity=" in text else text
    with pytest.raises(ValueError, match=code) as error:
        read(tmp_path, text)
    for part in ["corpus.conllu", *parts]:
        assert part in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"M101.*none\.conllu"):
        next(read_conllu(tmp_path / "none.conllu", Vocab()))


def test_unknown_tag_column(tmp_path):
    with pytest.raises(ValueError, match=r"M113.*feats"):
        read(tmp_path, GUM, tags="feats")


def test_nested_mentions_of_one_group():
    words = [
        Word(1, "a", "", "", {"Entity": e}, not i, True)
        for i, e in enumerate(["(1-x", "(1-y", "1)", "1)"])
    ]
    assert read_mentions(Path("x"), words) == [Mention(1, 3, ["y"]), Mention(0, 4, ["x"])]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=12))
def test_brackets_round_trip(spans):
    """Mentions of different groups, nested or crossing, are restored from their brackets."""
    brackets = [""] * 10
    for group, (first, last) in enumerate(spans):
        if first == last:
            brackets[first] += f"({group}-type-{group})"
        else:
            brackets[first] += f"({group}-type-{group}"
            brackets[last] = f"{group})" + brackets[last]
    words = [Word(i, "w", "", "", {"Entity": b}, not i, True) for i, b in enumerate(brackets)]
    expected = [(first, last + 1, ["type", str(g)]) for g, (first, last) in enumerate(spans)]
    assert sorted(read_mentions(Path("x"), words)) == sorted(expected)


@pytest.mark.parametrize("key", ["NER", "name", "Mine"])
def test_tags_of_a_key_of_misc(tmp_path, key):
    """In a file with tags "O", a word without the key has a missing tag."""
    text = rows("a", "b", "c", misc=(f"{key}=B-PER", f"{key}=O", "_")) + "\n" + rows("d")
    (doc,) = read(tmp_path, text, misc="Mine" if key == "Mine" else "")
    assert (ents(doc), iobs(doc)) == ([("a", "PER")], [3, 2, 0, 0])


def test_a_name_that_is_no_entity_tag(tmp_path):
    (doc,) = read(tmp_path, rows("a", misc=("name=Anna",)))
    assert not doc.has_annotation("ENT_IOB")


def test_chosen_mentions(tmp_path):
    text = f"{ENTITY}\n" + rows("Rome", misc=("NER=B-LOC|Entity=(1-place-new-Rome)",))
    with pytest.warns(UserWarning, match=r"W110.*'NER'"):
        (doc,) = read(tmp_path, text, misc="Entity")
    assert ents(doc) == [("Rome", "place")]
    with pytest.raises(ValueError, match=r"M136.*global\.Entity"):
        read(tmp_path, rows("Rome"), misc="Entity")


def test_options_without_effect(tmp_path):
    with pytest.warns(UserWarning) as told:
        read(tmp_path, GUM, misc="NER", category="meta::topic")
    found = "".join(str(item.message) for item in told)
    assert "--misc 'NER'" in found and "--category 'meta::topic'" in found
    assert "'meta::genre'" in found


def test_masked_text(tmp_path):
    masked = rows("_", "___", "_")
    with pytest.raises(ValueError, match=r"M135.*line 3"):
        read(tmp_path, f"{rows('a')}\n{masked}")
    with pytest.warns(UserWarning, match=r"W112.*1 left out.*: masked sentences, in line 3"):
        (doc,) = read(tmp_path, f"{rows('a')}\n{masked}", skip_errors=True)
    assert doc.text == "a "
    assert [doc.text for doc in read(tmp_path, rows("_"))] == ["_ "]


def test_empty_xpos(tmp_path):
    text = rows("a", "b").replace("NNP", "_")
    with pytest.warns(UserWarning, match=r"W116.*--tags upos"):
        (doc,) = read(tmp_path, text)
    assert not doc.has_annotation("TAG")
    assert [token.tag_ for token in read(tmp_path, text, tags="upos")[0]] == ["PROPN"] * 2


def test_intents_of_sentences(tmp_path):
    text = f"# intent: x\n{rows('a')}\n# intent: x\n{rows('b')}"
    assert [(doc.text, doc.cats) for doc in read(tmp_path, text)] == [
        ("a ", {"x": 1.0}),
        ("b ", {"x": 1.0}),
    ]


def test_skipped_sentences(tmp_path):
    text = f"{rows('a')}\n{rows('b').replace('1', '2')}\n{rows('c')}"
    with pytest.warns(UserWarning, match=r"W112.*1 left out.*: sentences, in line 3.*M104"):
        (doc,) = read(tmp_path, text, skip_errors=True)
    assert doc.text == "a c "


def test_skipped_entities(tmp_path):
    misc = ("NER=X-PER", "NER=O")
    with pytest.warns(UserWarning, match=r"W112.*documents' entities, in line 1.*M107"):
        (doc,) = read(tmp_path, rows("a", "b", misc=misc), skip_errors=True)
    assert not doc.has_annotation("ENT_IOB") and doc[0].tag_ == "NNP"


def sentence(*columns: str) -> str:
    """A sentence of CoNLL-U: "form lemma upos feats head deprel" of each word."""
    rows = [column.split(" ") for column in columns]
    return "".join(
        f"{i}\t{form}\t{lemma}\t{upos}\tX\t{feats}\t{head}\t{deprel}\t_\t_\n"
        for i, (form, lemma, upos, feats, head, deprel) in enumerate(rows, 1)
    )


CATS_EAT = sentence("Cats cat NOUN Number=Plur 2 nsubj", "eat eat VERB _ 0 root", "_ _ SYM _ 2 obj")


def test_lemmas_and_features(tmp_path):
    unknown = sentence("xx _ _ _ _ _")
    doc, other = read(tmp_path, f"{CATS_EAT}\n{unknown}")
    assert [token.lemma_ for token in doc] == ["cat", "eat", "_"]
    assert [str(token.morph) for token in doc] == ["Number=Plur", "", ""]
    assert doc.has_annotation("MORPH", require_complete=True), "no features are an annotation"
    assert not other.has_annotation("MORPH") and not other.has_annotation("LEMMA")


def test_no_features_in_the_file(tmp_path):
    (doc,) = read(tmp_path, CATS_EAT.replace("Number=Plur", "_"))
    assert not doc.has_annotation("MORPH")


def test_features_of_another_form(tmp_path):
    with pytest.warns(UserWarning, match="W111.*1 left out: features that are not Name=Value"):
        (doc,) = read(tmp_path, sentence("a a X A=B|C=D,E _ _", "b b X sg|fem _ _"))
    assert [(str(token.morph), token.has_morph()) for token in doc] == [
        ("A=B|C=D,E", True),
        ("", False),
    ]


def test_trees(tmp_path):
    crossing = sentence("a a X _ 3 det", "b b X _ 4 dep", "c c X _ 4 obj", "d d X _ 0 root")
    (doc,) = read(tmp_path, f"{CATS_EAT}\n{crossing}")
    assert [token.head.i for token in doc] == [1, 1, 1, 5, 6, 6, 6]
    assert [token.dep_ for token in doc] == ["nsubj", "ROOT", "obj", "det", "dep", "obj", "ROOT"]
    assert [sent.start for sent in doc.sents] == [0, 3]


def test_trees_of_some_sentences(tmp_path):
    """All sentence starts survive, which spaCy finds by the trees if there are any."""
    bare = sentence("a a X _ _ _", "b b X _ _ _")
    docs = read(tmp_path, f"{bare}\n{bare}\n{CATS_EAT}\n{CATS_EAT}\n{bare}")
    assert [[sent.start for sent in doc.sents] for doc in docs] == [[0, 2], [0, 3], [0]]
    assert [doc.has_annotation("DEP") for doc in docs] == [False, True, False]


def test_heads_of_some_words(tmp_path):
    partial = sentence("a a X _ 2 det", "b b X _ 3 nsubj", "c c X _ _ _", "d d X _ _ _")
    (doc,) = read(tmp_path, partial)
    assert [token.dep_ for token in doc] == ["det", "nsubj", "", ""]
    assert [token.head.i for token in doc[:2]] == [1, 2]
    assert len(list(doc.sents)) == 1


def test_heads_without_relation_are_counted(tmp_path):
    with pytest.warns(UserWarning, match="W111.*1 left out: heads without a relation, in line 1"):
        (doc,) = read(tmp_path, sentence("a a X _ 2 _", "b b X _ 0 _"))
    assert not doc.has_annotation("DEP")


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        (["1", "0"], "line 1: the head '1' is not the number of another word"),
        (["3", "0"], "'3' is not the number"),
        (["x", "0"], "'x' is not the number"),
        (["0", "0"], "line 2: the head '0' is that of a second root"),
        (["2", "1"], "line 2: the head '1' is part of a cycle"),
    ],
)
def test_wrong_trees(tmp_path, heads, reason):
    text = sentence(f"a a X _ {heads[0]} x", f"b b X _ {heads[1]} x")
    with pytest.raises(ValueError, match=f"M144.*{reason}"):
        read(tmp_path, text)
    with pytest.warns(UserWarning, match="W112.*1 left out by --skip-errors: trees, in line 1"):
        (doc,) = read(tmp_path, text, skip_errors=True)
    assert [token.lemma_ for token in doc] == ["a", "b"]
    assert not doc.has_annotation("DEP")


def test_all_mentions_as_spans(tmp_path: Path) -> None:
    """Nested and unnamed mentions are spans. Entities stay, and undeclared documents have none."""
    news, vlog = read(tmp_path, GUM, spans="sc")
    assert [(span.text, span.label_) for span in news.spans["sc"]] == [
        ("Duke University of York", "person"),
        ("University", "place"),
        ("York", "place"),
        ("They", "person"),
        ("Anna", "person"),
        ("Rome", "place"),
    ]
    assert ents(news) == ents(read(tmp_path, GUM)[0])
    assert not vlog.spans
    (empty,) = read(tmp_path, f"{ENTITY}\n{rows('a')}", spans="sc")
    assert len(empty.spans["sc"]) == 0


def test_mentions_beside_tags_of_entities(tmp_path: Path) -> None:
    """No warning says that they are unread."""
    text = f"{ENTITY}\n" + rows("Rome", misc=("NER=B-LOC|Entity=(1-place-new-Rome)",))
    (doc,) = read(tmp_path, text, spans="m")
    assert [span.label_ for span in (*doc.ents, *doc.spans["m"])] == ["LOC", "place"]


def test_spans_need_declared_fields(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"M136.*--spans"):
        read(tmp_path, rows("a"), spans="sc")
