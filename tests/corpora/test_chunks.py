import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mtl.corpora.chunks import cut_doc


def make_doc(*lengths: int, **annotations) -> Doc:
    """A doc with sentences of these lengths, whose words count from 0."""
    starts = [i == 0 for length in lengths for i in range(length)]
    words = [f"w{i}" for i in range(len(starts))]
    return Doc(Vocab(), words=words, sent_starts=starts, **annotations)


def lengths(doc: Doc, words: int) -> list[int]:
    return [len(chunk) for chunk in cut_doc(doc, words)]


def test_chunks_are_greedy():
    assert lengths(make_doc(2, 2, 2, 1), 4) == [4, 3]
    assert lengths(make_doc(3, 2, 2), 4) == [3, 4]


def test_long_sentence_stays_whole():
    assert lengths(make_doc(1, 9, 1, 1), 4) == [1, 9, 2]
    assert lengths(make_doc(9, 1), 4) == [9, 1]
    assert lengths(make_doc(9), 4) == [9]


def test_nothing_to_cut():
    assert lengths(make_doc(2, 2, 2), 0) == [6]
    assert lengths(make_doc(2, 2, 2), 6) == [6]
    assert lengths(Doc(Vocab()), 3) == [0]


def test_doc_without_sentences_is_not_cut():
    assert lengths(Doc(Vocab(), words=list("abcdef")), 2) == [6]
    starts = [None, None, True, None, None, None]
    assert lengths(Doc(Vocab(), words=list("abcdef"), sent_starts=starts), 2) == [2, 4]


def test_no_cut_inside_an_entity():
    ents = ["O", "B-x", "I-x", "O", "O", "O"]
    assert lengths(make_doc(2, 2, 2, ents=ents), 2) == [4, 2]


def test_annotations_are_kept():
    doc = make_doc(
        2,
        2,
        tags=["A", "", "B", "C"],
        pos=["NOUN", "VERB", "", "X"],
        spaces=[False, True, True, False],
        ents=["B-x", "I-x", "", "O"],
    )
    doc.cats = {"y": 1.0, "z": 0.0}
    first, second = DocBin(docs=cut_doc(doc, 2)).get_docs(Vocab())
    assert (first.text, second.text) == ("w0w1 ", "w2 w3")
    assert [t.tag_ for t in first] + [t.tag_ for t in second] == ["A", "", "B", "C"]
    assert [t.pos_ for t in first] + [t.pos_ for t in second] == ["NOUN", "VERB", "", "X"]
    assert [(e.text, e.label_) for e in first.ents] == [("w0w1", "x")]
    assert [t.ent_iob for t in second] == [0, 2]
    assert [[t.is_sent_start for t in d] for d in (first, second)] == [[True, False]] * 2
    assert first.cats == second.cats == {"y": 1.0, "z": 0.0}
    assert first.cats is not second.cats


def test_missing_stays_missing():
    for chunk in DocBin(docs=cut_doc(make_doc(2, 2), 2)).get_docs(Vocab()):
        assert [t.ent_iob for t in chunk] == [0, 0]
        assert not chunk.has_annotation("TAG")
        assert not chunk.has_annotation("POS")
        assert chunk.cats == {}


def test_tokenised_text_is_kept():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    doc = nlp("One  two.\nThree isn't, four. Five.")
    chunks = list(cut_doc(doc, 4))
    assert len(chunks) > 1
    assert "".join(token.text_with_ws for chunk in chunks for token in chunk) == doc.text


@st.composite
def docs(draw) -> Doc:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=12))
    total = sum(sizes)

    def column(*values):
        return draw(st.lists(st.sampled_from(values), min_size=total, max_size=total))

    iob = column("O", "I-x", "I-y", "B-x", "")
    iob[0] = iob[0].replace("I", "B")
    return make_doc(*sizes, tags=column("A", "B", ""), ents=iob, spaces=column(True, False))


@given(docs(), st.integers(0, 12))
def test_chunks_make_up_the_doc(doc, words):
    chunks = list(cut_doc(doc, words))

    def columns(tokens):
        return [(t.text_with_ws, t.tag_, t.ent_iob, t.ent_type_, t.is_sent_start) for t in tokens]

    assert columns(token for chunk in chunks for token in chunk) == columns(doc)
    spans = [(ent.text, ent.label_) for chunk in chunks for ent in chunk.ents]
    assert spans == [(ent.text, ent.label_) for ent in doc.ents]
    for chunk in chunks if words else []:
        cuts = [t.i for t in chunk[1:] if t.is_sent_start and t.ent_iob_ != "I"]
        assert len(chunk) <= words or not cuts
