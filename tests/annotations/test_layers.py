"""What all annotation layers have in common, and what each reads."""

import json
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.scorer import Scorer
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_mtl.annotations import (
    AnnotationLayer,
    find_scored_layers,
    get_layers,
    name_scores,
    relations,
    spans,
    tokens,
    trees,
)
from spacy_mtl.annotations.categories import Categories
from spacy_mtl.annotations.documents import SCORES, Numbers, Texts
from spacy_mtl.annotations.relations import Relation, get_relations, set_relations
from spacy_mtl.annotations.spans import Entities, SpanGroups
from spacy_mtl.annotations.tokens import Tags
from spacy_mtl.annotations.trees import Sentences, Trees
from spacy_mtl.heads.relation.scorer import score_relations
from spacy_mtl.heads.seq2seq.scorer import score_texts

VOCAB = spacy.blank("en").vocab
LAYERS = get_layers()
WORDS = ["Cats", "sleep", ".", "Big", "dogs", "bark"]
SPACES = [True, False, True, True, True, False]


def make_bare(start: int = 0, end: int | None = None) -> Doc:
    return Doc(VOCAB, words=WORDS[start:end], spaces=SPACES[start:end])


def make_full() -> Doc:
    """A doc with every annotation."""
    doc = Doc(
        VOCAB,
        words=WORDS,
        spaces=SPACES,
        tags=["NNS", "VBP", ".", "JJ", "NNS", "VBP"],
        pos=["NOUN", "VERB", "PUNCT", "ADJ", "NOUN", "VERB"],
        morphs=["Number=Plur", "", "", "Degree=Pos", "Number=Plur", ""],
        lemmas=["cat", "sleep", ".", "big", "dog", "bark"],
        heads=[1, 1, 1, 4, 5, 5],
        deps=["nsubj", "ROOT", "punct", "amod", "nsubj", "ROOT"],
    )
    ents = [Span(doc, 0, 1, "CAT", kb_id="Q1", span_id="a"), Span(doc, 3, 5, "DOG", kb_id="Q2")]
    doc.set_ents(ents, missing=[doc[1:2]], default="outside")
    doc.cats = {"pets": 1.0, "cars": 0.0}
    doc.spans["sc"] = [Span(doc, 0, 2, "FACT", kb_id="Q3", span_id="b"), Span(doc, 3, 6, "FACT")]
    doc.spans["none"] = []
    set_relations(
        doc, [Relation((0, 1), (3, 5), "FEARS", 0.5), Relation((3, 5), (0, 2), "CHASES", 0.75)]
    )
    SCORES.write(doc, {"size": 2.5, "age": None})
    Texts().write(doc, {"generated": "Dogs bark", "title": ""})
    return doc


def read_all(doc: Doc) -> dict[str, Any]:
    return {name: layer.get_answer(doc) for name, layer in LAYERS.items()}


def differ(found: dict[str, Any], expected: dict[str, Any]) -> set[str]:
    return {name for name in expected if found[name] != expected[name]}


def test_labels() -> None:
    labels = {name: layer.get_labels(make_full()) for name, layer in LAYERS.items()}
    assert labels == {
        "tags": ["NNS", "VBP", ".", "JJ", "NNS", "VBP"],
        "pos": ["NOUN", "VERB", "PUNCT", "ADJ", "NOUN", "VERB"],
        "morphs": ["Number=Plur", "_", "_", "Degree=Pos", "Number=Plur", "_"],
        "lemmas": ["cat", "sleep", ".", "big", "dog", "bark"],
        "trees": ["nsubj", "ROOT", "punct", "amod", "nsubj", "ROOT"],
        "sents": ["S", "S"],
        "ents": ["CAT", "DOG"],
        "links": ["Q1", "Q2", "Q2"],
        "cats": ["pets"],
        "spans": ["FACT", "FACT"],
        "relations": ["FEARS", "CHASES"],
        "scores": ["size"],
        "texts": ["Dogs bark", ""],
    }


def test_labels_of_a_head() -> None:
    docs = [make_bare(), make_full(), make_full()]
    assert Tags().find_labels(docs) == [".", "JJ", "NNS", "VBP"]
    assert Entities().find_labels(docs) == ["CAT", "DOG"]
    assert Categories().find_labels(docs) == ["pets", "cars"]


def test_missing() -> None:
    """In a doc of one word it is clear where sentences start."""
    docs = [Doc(VOCAB), make_bare()]
    wrong = [
        name
        for name, layer in LAYERS.items()
        for doc in docs
        if layer.is_annotated(doc)
        or layer.get_labels(doc) is not None
        or layer.find_labels([doc])
        or layer.compare(Example(make_bare() if len(doc) else Doc(VOCAB), doc), ["pets"])
    ]
    assert not wrong


def test_annotated_without_labels() -> None:
    doc = make_bare()
    doc.set_ents([])
    doc.cats = {"pets": 0.0}
    doc.spans["sc"] = []
    for layer in (Entities(), Categories(), SpanGroups()):
        assert layer.is_annotated(doc) and layer.get_labels(doc) == []


def test_copies_have_this_annotation_alone() -> None:
    full, bare = read_all(make_full()), read_all(make_bare())
    for name, layer in LAYERS.items():
        target = make_bare()
        layer.copy(make_full(), target)
        expected = {**bare, name: full[name]}
        if name == "trees":  # spaCy finds sentences by them
            expected["sents"] = full["sents"]
        assert not differ(read_all(target), expected), name
        layer.copy(make_bare(), target := make_bare())
        assert not differ(read_all(target), bare), name


def test_copies_of_all_annotation() -> None:
    full, target = make_full(), make_bare()
    for layer in LAYERS.values():
        layer.copy(full, target)
    assert target.to_json() == full.to_json()
    expected = [(s.kb_id_, s.id_) for s in [*full.ents, *full.spans["sc"]]]
    assert [(s.kb_id_, s.id_) for s in [*target.ents, *target.spans["sc"]]] == expected
    assert [t.ent_iob for t in target] == [t.ent_iob for t in full]


def test_copies_to_a_part() -> None:
    target = make_bare(3)
    for layer in LAYERS.values():
        layer.copy(make_full(), target, start=3)
    found = read_all(target)
    assert found["trees"] == [(1, "amod"), (2, "nsubj"), (2, "ROOT")]
    assert found["tags"] == ["JJ", "NNS", "VBP"]
    assert found["ents"] == [(0, 8, "DOG")] and found["links"] == ["Q2", "Q2", ""]
    assert found["spans"] == {"sc": [(0, 13, "FACT")], "none": []}
    assert found["cats"] == {"pets": 1.0, "cars": 0.0}
    assert found["texts"] == {"generated": "Dogs bark", "title": ""}
    assert found["relations"] == [] and found["scores"] == {"size": 2.5, "age": None}
    assert [[t.text for t in sent] for sent in target.sents] == [WORDS[3:]]


def test_stripped_annotation_is_missing() -> None:
    full = read_all(make_full())
    for name, layer in LAYERS.items():
        layer.strip(doc := make_full())
        assert not layer.is_annotated(doc) and layer.get_labels(doc) is None, name
        # Links belong to entities.
        assert differ(read_all(doc), full) <= {name, *(["links"] if name == "ents" else [])}, name


def test_stripped_trees_leave_no_children() -> None:
    Trees().strip(doc := make_full())
    assert [list(token.children) for token in doc] == [[]] * len(doc)
    assert [sent.start for sent in doc.sents] == [0, 3]


def test_removed_labels() -> None:
    labels = {"NNS", "NOUN", "Number=Plur", "dog", "nsubj", "DOG", "Q2", "pets", "FACT"}
    labels |= {"FEARS", "size", "Dogs bark"}
    found = {}
    for name, layer in LAYERS.items():
        layer.remove_labels(doc := make_full(), labels)
        found[name] = layer.get_labels(doc)
    assert found == {
        "tags": ["VBP", ".", "JJ", "VBP"],
        "pos": ["VERB", "PUNCT", "ADJ", "VERB"],
        "morphs": ["_", "_", "Degree=Pos", "_"],
        "lemmas": ["cat", "sleep", ".", "big", "bark"],
        "trees": ["ROOT", "punct", "amod", "ROOT"],
        "sents": ["S", "S"],
        "ents": ["CAT"],
        "links": ["Q1"],
        "cats": [],
        "spans": [],
        "relations": ["CHASES"],
        "scores": None,
        "texts": [""],
    }
    Sentences().remove_labels(doc := make_full(), {"S"})
    assert not Sentences().is_annotated(doc)


def test_tokens_of_removed_entities_are_outside() -> None:
    Entities().remove_labels(doc := make_full(), {"DOG"})
    assert [t.ent_iob_ for t in doc] == ["B", "", "O", "O", "O", "O"]


def test_answers_can_be_stored() -> None:
    for name, layer in LAYERS.items():
        doc = make_bare()
        if name == "links":
            Entities().copy(make_full(), doc)
        layer.set_answer(doc, json.loads(json.dumps(layer.get_answer(make_full()))))
        assert layer.get_answer(doc) == layer.get_answer(make_full()), name


def test_answers_after_tokens_have_been_merged() -> None:
    full = read_all(make_full())
    doc = make_bare()
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[3:5])
    for name, layer in LAYERS.items():
        layer.set_answer(doc, full[name])
    assert [ent.text for ent in doc.ents] == ["Cats", "Big dogs"]
    assert [span.text for span in doc.spans["sc"]] == ["Cats sleep", "Big dogs bark"]
    assert doc.cats == {"pets": 1.0, "cars": 0.0}
    assert get_relations(doc) == [((0, 1), (3, 4), "FEARS", 0.5), ((3, 4), (0, 2), "CHASES", 0.75)]
    assert not any(doc.has_annotation(attr) for attr in ("TAG", "DEP", "LEMMA"))


def test_where_a_cut_would_split_a_span() -> None:
    found = {name: layer.find_joined(make_full()) for name, layer in LAYERS.items()}
    expected = {name: set[int]() for name in LAYERS} | {"ents": {4}, "spans": {1, 4, 5}}
    expected["relations"] = {1, 2, 3, 4}  # from "Cats" to "dogs"
    assert found == expected


# Gold labels for predicted tokens


@pytest.fixture
def always_align(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tokens, trees, spans, relations):
        monkeypatch.setattr(module, "has_same_tokens", lambda example: False)


def read_gold(layer: AnnotationLayer[object], example: Example) -> Any:
    gold = layer.read_gold(example)
    return gold.tolist() if isinstance(gold, numpy.ndarray) else gold


def test_gold_is_the_same_without_alignment(request: pytest.FixtureRequest) -> None:
    docs = [Doc(VOCAB), make_bare(), make_full()]
    examples = [Example(Doc(VOCAB, words=[t.text for t in doc]), doc) for doc in docs]
    fast = [[read_gold(layer, eg) for eg in examples] for layer in LAYERS.values()]
    request.getfixturevalue("always_align")
    slow = [[read_gold(layer, eg) for eg in examples] for layer in LAYERS.values()]
    assert fast == slow


def test_gold_for_other_tokens() -> None:
    words, spaces = ["Cats", "sleep.", "Big", "do", "gs", "bark"], [True, True, True, False, True]
    predicted = Doc(VOCAB, words=words, spaces=[*spaces, False])
    example = Example(predicted, make_full())
    strings = VOCAB.strings
    found = {name: read_gold(layer, example) for name, layer in LAYERS.items()}
    assert [strings[tag] for tag in found["tags"]] == ["NNS", "", "JJ", "NNS", "NNS", "VBP"]
    assert found["sents"] == [True, False, True, False, False, False]
    assert found["ents"] == ["U-CAT", None, "B-DOG", "I-DOG", "L-DOG", "O"]
    heads, labels = found["trees"]
    assert heads == [1, None, None, 5, 5, 5]
    assert labels == ["nsubj", None, "amod", "nsubj", "nsubj", "ROOT"]
    assert found["spans"] == {"sc": [(2, 6, "FACT")], "none": []}
    assert found["cats"] == {"pets": 1.0, "cars": 0.0}
    assert found["relations"] == [
        ((0, 1), (2, 5), "FEARS", 0.5),
        ((2, 5), (0, 2), "CHASES", 0.75),
    ]
    assert found["scores"] == {"size": 2.5}
    assert found["texts"] == {"generated": "Dogs bark", "title": ""}


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=6))
def test_missing_boundaries_stay_missing(starts: list[bool | None]) -> None:
    words = list("abcdef")[: len(starts)]
    gold = Doc(VOCAB, words=words, sent_starts=starts)
    assert Sentences().read_gold(Example(Doc(VOCAB, words=words), gold)) == starts


# Predictions against gold labels, as spaCy scores them


def corrupt(generator: numpy.random.Generator) -> Doc:
    """A doc with some errors of each kind."""
    doc = make_full()
    for name in ("tags", "pos", "morphs", "lemmas"):
        answer = LAYERS[name].get_answer(doc)
        LAYERS[name].set_answer(doc, [answer[i] for i in generator.integers(0, 6, 6)])
    heads = [1, 1, 1, 5, 5, 5] if generator.random() < 0.5 else [1, 1, 1, 4, 5, 5]
    deps = [str(generator.choice(["nsubj", "amod", "dep"])) for _ in WORDS]
    Trees().set_answer(doc, list(zip(heads, deps, strict=True)))
    labels = [str(generator.choice(["CAT", "DOG"])) for _ in WORDS]
    doc.ents = [Span(doc, 0, 1, labels[0], kb_id="Q1"), Span(doc, 3, 5, labels[1], kb_id="Q9")]
    doc.spans["sc"] = [Span(doc, 0, 2, labels[2]), Span(doc, 3, 6, "FACT"), Span(doc, 1, 6, "X")]
    set_relations(doc, [Relation((0, 1), (3, 5), labels[0]), Relation((3, 5), (0, 2), "CHASES")])
    title = str(generator.choice(["Dogs bark", "Cats sleep"]))
    Texts().write(doc, {"generated": title, "title": title})
    return doc


def score(examples: list[Example]) -> Iterator[tuple[str, float]]:
    for attr in ("tag", "pos", "lemma"):
        yield from Scorer.score_token_attr(examples, f"{attr}_").items()
    yield from Scorer.score_token_attr(examples, "morph").items()
    yield from Scorer.score_deps(examples, "dep", getter=lambda token, attr: token.dep_).items()
    yield from Scorer.score_spans(examples, "sents").items()
    yield from Scorer.score_spans(examples, "ents").items()
    yield from Scorer.score_links(examples, negative_labels=["NIL", ""]).items()
    yield from Scorer.score_spans(
        examples,
        "spans_sc",
        getter=lambda doc, attr: doc.spans["sc"],
        allow_overlap=True,
    ).items()
    yield from score_relations(examples).items()
    yield from score_texts(examples).items()


def test_comparisons_sum_up_to_the_scores() -> None:
    generator = numpy.random.default_rng(0)
    examples = [Example(corrupt(generator), make_full()) for _ in range(8)]
    scores = {key.replace("__", "_"): value for key, value in score(examples)}
    for layer in LAYERS.values():
        if isinstance(layer, Categories | Numbers):
            continue
        if isinstance(layer, Texts):
            layer = Texts("generated")  # whose score it is
        pairs = [pair for eg in examples if (pair := layer.compare(eg, [])) is not None]
        right = sum(len(gold & found) for gold, found in pairs)
        total = sum(len(gold) + len(found) for gold, found in pairs)
        assert 2 * right / total == pytest.approx(scores[layer.comparison_key]), layer.name


def compare_cats(gold: dict[str, float], found: dict[str, float], *rest: Any) -> Any:
    example = Example(make_bare(), make_bare())
    example.reference.cats, example.predicted.cats = gold, found
    pair = Categories().compare(example, ["a", "b"], *rest)
    return pair and tuple(sorted(item.label for item in side) for side in pair)


def test_compared_categories() -> None:
    assert compare_cats({"a": 1.0, "b": 0.0}, {"a": 0.4, "b": 0.6}) == (["a"], ["b"])
    assert compare_cats({"a": 0.0, "b": 0.0}, {"a": 0.4, "b": 0.6}) is None
    assert compare_cats({"c": 1.0}, {"a": 1.0}) is None
    assert compare_cats({"a": 1.0}, {"a": 0.4, "b": 0.6}, 0.3) == (["a"], ["a"])
    assert compare_cats({"a": 0.0}, {"a": 0.2, "b": 0.6}, 0.3) == ([], [])


def test_keys() -> None:
    """All are scores that spaCy's factories weigh."""
    nlp = spacy.blank("en")
    factories = ["tagger", "morphologizer", "trainable_lemmatizer", "parser", "senter", "ner"]
    known = {
        key
        for factory in [*factories, "entity_linker", "textcat", "spancat"]
        for key in nlp.get_factory_meta(factory).default_score_weights
    }
    for factory in ("mtl_relation", "mtl_regression", "mtl_seq2seq"):
        known |= nlp.get_factory_meta(factory).default_score_weights.keys()
    used = {key for layer in LAYERS.values() for key in (layer.score_key, *layer.detail_keys)}
    assert used <= known | {"sents_f"}
    assert {layer.comparison_key for layer in LAYERS.values()} <= known


def test_one_group_of_spans() -> None:
    """A layer of one group leaves the others alone."""
    doc = Doc(spacy.blank("en").vocab, words=["a", "b", "c"])
    doc.spans["x"] = [Span(doc, 0, 2, "A"), Span(doc, 1, 2, "B")]
    doc.spans["y"] = [Span(doc, 0, 1, "C")]
    layer = SpanGroups("x")
    assert layer.name == "spans_x"
    assert (layer.score_key, *layer.detail_keys) == ("spans_x_f", "spans_x_p", "spans_x_r")
    assert layer.get_labels(doc) == ["A", "B"] and layer.find_joined(doc) == {1}
    assert layer.read_gold(Example(doc.copy(), doc)) == {"x": [(0, 2, "A"), (1, 2, "B")]}
    target = Doc(doc.vocab, words=["a", "b", "c"])
    layer.copy(doc, target)
    assert [*target.spans] == ["x"] and layer.is_annotated(target)
    assert layer.get_answer(target) == layer.get_answer(doc)
    layer.remove_labels(doc, {"A", "C"})
    assert [len(doc.spans[key]) for key in "xy"] == [1, 1]
    layer.strip(doc)
    assert [*doc.spans] == ["y"] and not layer.is_annotated(doc)
    assert layer.compare(Example(target, doc), ["A"]) is None
    assert SpanGroups("y").compare(Example(target, doc), ["C"]) == ({(0, 1, "C", -1)}, set())


def test_scores_of_groups_of_spans() -> None:
    keys = ["tag_acc", "spans_a_f", "spans_a_p", "spans_b_c_f", "ents_f"]
    found = [layer.score_key for layer in find_scored_layers(keys)]
    assert {"spans_a_f", "spans_b_c_f", "ents_f", "tag_acc"} < {*found}
    assert "spans_sc_f" not in found
    assert "spans_sc_f" in [layer.score_key for layer in find_scored_layers(["ents_f"])]
    defaults = {"spans_sc_f": 1.0, "speed": None}
    assert name_scores([SpanGroups("a")], defaults) == {"spans_a_f": 1.0, "speed": None}
    assert name_scores([SpanGroups()], defaults) == defaults


def test_texts_of_an_attribute() -> None:
    title = Texts().get_part({"attribute": "title"})
    assert title.name_score("texts_generated_exact") == title.comparison_key == "texts_title_exact"
    assert title.name_score("ents_f") == "ents_f"
    found = Texts().find_parts(["ents_f", "texts_title_chrf", "texts_topic_chrf"])
    assert [layer.name for layer in found] == ["texts_title", "texts_topic"]
    assert [layer.name for layer in Texts().find_parts(["ents_f"])] == ["texts"]
    doc = make_full()
    assert title.get_answer(doc) == {"title": ""} and title.get_labels(doc) == [""]
    title.strip(doc)
    assert Texts().get_answer(doc) == {"generated": "Dogs bark"}
