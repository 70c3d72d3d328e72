"""Gold labels are those that spaCy's alignment finds."""

from itertools import pairwise
from typing import Any

import numpy
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.strings import get_string_id
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.corpora.scope import mark
from spacy_mtl.heads import gold
from spacy_mtl.heads.gold import get_cats, get_entity_tags, get_tags, has_same_tokens

VOCAB = spacy.blank("en").vocab
WORDS = st.sampled_from(["Ada", "in", "New", "York", " ", "\n", "\u200b", "a b", ""]).filter(bool)
TAGS = st.sampled_from(["NN", "VB", "", "!NN"])
STATES = st.sampled_from(["B-PER", "I-PER", "U-LOC", "O", ""])


def check(example: Example) -> None:
    tags = [tag or 0 for tag in example.get_aligned("TAG")]
    assert get_tags(example, "a").tolist() == tags
    assert get_entity_tags(example, "a") == example.get_aligned_ner()


@st.composite
def docs(draw: Any) -> Doc:
    tokens = draw(st.lists(st.tuples(WORDS, st.booleans(), TAGS, STATES), max_size=8))
    words, spaces, tags, states = zip(*tokens, strict=True) if tokens else ([], [], [], [])
    bio, before = [], ""
    for state in states:  # an entity begins before it goes on
        fits = state != "I-PER" or before in ("B-PER", "I-PER")
        before = state if fits else "O"
        bio.append(before.replace("U-", "B-"))
    return Doc(VOCAB, words=list(words), spaces=list(spaces), tags=list(tags), ents=bio)


@given(docs())
def test_the_same_tokens(doc: Doc) -> None:
    words, spaces = [t.text for t in doc], [bool(t.whitespace_) for t in doc]
    example = Example(Doc(VOCAB, words=words, spaces=spaces), doc)
    assert has_same_tokens(example)
    check(example)


@given(docs(), st.data())
def test_other_tokens(doc: Doc, data: st.DataObject) -> None:
    text = doc.text
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)))) | {0, len(text)})
    words = [text[a:b] for a, b in pairwise(cuts) if text[a:b]]
    check(Example(Doc(VOCAB, words=words, spaces=[False] * len(words)), doc))


def test_what_cannot_be_aligned() -> None:
    reference = Doc(VOCAB, words=["New", "York"], tags=["NN", "VB"], ents=["B-LOC", "I-LOC"])
    example = Example(Doc(VOCAB, words=["New York"]), reference)
    assert not has_same_tokens(example)
    assert get_tags(example, "a").tolist() == [0]
    check(example)


def test_nothing_is_aligned_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Doc(VOCAB, words=["New", "York"], tags=["NN", ""], ents=["B-LOC", "I-LOC"])
    example = Example(Doc(VOCAB, words=["New", "York"]), reference)

    class Aligned:
        predicted, reference = example.predicted, example.reference

    assert get_tags(Aligned(), "a").tolist() == [get_string_id("NN"), 0]  # type: ignore[arg-type]
    assert get_entity_tags(Aligned(), "a") == ["B-LOC", "L-LOC"]  # type: ignore[arg-type]
    assert gold.get_tags(example, "a").dtype == numpy.uint64


def test_labels_for_another_component_are_missing() -> None:
    reference = Doc(VOCAB, words=["New", "York"], tags=["NN", "NN"], ents=["B-LOC", "I-LOC"])
    reference.cats = {"travel": 1.0}
    mark(reference, ["b"])
    for words in (["New", "York"], ["New York"]):
        example = Example(Doc(VOCAB, words=words), reference)
        assert get_tags(example, "a").tolist() == [0] * len(words)
        assert get_entity_tags(example, "a") == [None] * len(words)
        assert get_cats(example, "a") == {}
    assert get_tags(example, "b").tolist() == example.get_aligned("TAG")
    assert get_entity_tags(example, "b") == example.get_aligned_ner()
    assert get_cats(example, "b") == {"travel": 1.0}
