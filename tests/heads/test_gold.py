"""Gold labels are those that spaCy's alignment finds."""

from itertools import pairwise
from typing import Any

import numpy
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.ml.models.tok2vec import build_hash_embed_cnn_tok2vec as build_hash_embed_cnn
from spacy.strings import get_string_id
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.annotations import has_same_tokens
from spacy_mtl.annotations.spans import Entities
from spacy_mtl.annotations.tokens import Tags
from spacy_mtl.corpora.scope import mark
from spacy_mtl.heads.ner.model import build_ner_head_v1
from spacy_mtl.heads.ner.pipe import MultiTaskNER
from spacy_mtl.heads.tagger import MultiTaskTagger, build_tagger_head_v1
from spacy_mtl.heads.textcat.model import build_textcat_head_v1
from spacy_mtl.heads.textcat.pipe import MultiTaskTextCategorizer

TAGS, ENTITIES = Tags(), Entities()
VOCAB = spacy.blank("en").vocab
WORDS = st.sampled_from(["Ada", "in", "New", "York", " ", "\n", "\u200b", "a b", ""]).filter(bool)
TAG_NAMES = st.sampled_from(["NN", "VB", "", "!NN"])
STATES = st.sampled_from(["B-PER", "I-PER", "U-LOC", "O", ""])


def check(example: Example) -> None:
    tags = [tag or 0 for tag in example.get_aligned("TAG")]
    assert TAGS.read_gold(example).tolist() == tags
    assert ENTITIES.read_gold(example) == example.get_aligned_ner()


@st.composite
def docs(draw: Any) -> Doc:
    tokens = draw(st.lists(st.tuples(WORDS, st.booleans(), TAG_NAMES, STATES), max_size=8))
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
    assert TAGS.read_gold(example).tolist() == [0]
    check(example)


def test_nothing_is_aligned_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Doc(VOCAB, words=["New", "York"], tags=["NN", ""], ents=["B-LOC", "I-LOC"])
    example = Example(Doc(VOCAB, words=["New", "York"]), reference)

    class Aligned:
        predicted, reference = example.predicted, example.reference

    assert TAGS.read_gold(Aligned()).tolist() == [get_string_id("NN"), 0]  # type: ignore[arg-type]
    assert ENTITIES.read_gold(Aligned()) == ["B-LOC", "L-LOC"]  # type: ignore[arg-type]
    assert TAGS.read_gold(example).dtype == numpy.uint64


def test_labels_for_another_component_are_missing() -> None:
    """Missing labels allow all outputs of a head."""
    reference = Doc(VOCAB, words=["New", "York"], tags=["NN", "VB"], ents=["B-LOC", "I-LOC"])
    reference.cats = {"travel": 1.0, "food": 0.0}
    mark(reference, ["b"])
    vectors = build_hash_embed_cnn(
        width=4,
        depth=1,
        embed_size=8,
        window_size=1,
        maxout_pieces=1,
        subword_features=False,
        pretrained_vectors=None,
    )
    ner_model = build_ner_head_v1(vectors)
    textcat_model = build_textcat_head_v1(vectors)
    for name in "ab":
        tagger = MultiTaskTagger(VOCAB, build_tagger_head_v1(vectors), name, neg_prefix="!")
        ner = MultiTaskNER(VOCAB, ner_model, name)
        textcat = MultiTaskTextCategorizer(VOCAB, textcat_model, name)
        labels = {tagger: ["NN", "VB"], ner: ["LOC"], textcat: ["travel", "food"]}
        for words in (["New", "York"], ["New York"]):
            example = Example(Doc(VOCAB, words=words), reference)
            for head, own in labels.items():
                for label in own:
                    head.add_label(label)
                targets = head.get_targets([example])
                is_aligned = len(words) == 2 or head is not tagger
                assert targets.all() == (name == "a" or not is_aligned)
