"""Layers of components, and layers of other packages."""

from collections.abc import Iterator, Sequence
from typing import Any

import catalogue
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.annotations import (
    AnnotationLayer,
    Comparison,
    Item,
    annotation_layers,
    find_layers,
    get_layers,
)
from spacy_mtl.corpora.chunks import cut_doc
from spacy_mtl.corpora.counts import count_docs
from spacy_mtl.corpora.mixed import create_mixed_corpus_v1

KEY = "mood"


class Mood(AnnotationLayer[str | None]):
    """One word for a doc, as another package may have it."""

    name = "mood"
    attributes = ("doc.user_data",)
    unit = "docs"
    score_key = "mood_acc"

    def is_annotated(self, doc: Doc) -> bool:
        return KEY in doc.user_data

    def get_labels(self, doc: Doc) -> list[str] | None:
        return [doc.user_data[KEY]] if self.is_annotated(doc) else None

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        if self.is_annotated(source):
            target.user_data[KEY] = source.user_data[KEY]

    def strip(self, doc: Doc) -> None:
        doc.user_data.pop(KEY, None)

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        if doc.user_data.get(KEY) in labels:
            self.strip(doc)

    def read_gold(self, example: Example) -> str | None:
        return example.reference.user_data.get(KEY)

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        n, sides = len(example.reference), (example.reference, example.predicted)
        gold, found = ({Item(0, n, doc.user_data.get(KEY, ""))} for doc in sides)
        return Comparison(gold, found)

    def get_answer(self, doc: Doc) -> str | None:
        return doc.user_data.get(KEY)

    def set_answer(self, doc: Doc, answer: str) -> None:
        doc.user_data[KEY] = answer


@Language.factory("test_mood", assigns=["doc.user_data"])
def make_mood(nlp: Language, name: str) -> Any:
    return lambda doc: doc


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[None]:
    name, value = getattr(request, "param", ("mood", Mood))
    annotation_layers.register(name, func=value)
    yield
    del catalogue.REGISTRY["spacy_mtl", "annotation_layers", name]


def make_doc(nlp: Language, mood: str = "glad") -> Doc:
    doc = Doc(nlp.vocab, words=["a", "b", "c"], tags=["X"] * 3, sent_starts=[True, True, True])
    doc.user_data[KEY] = mood
    return doc


@pytest.mark.parametrize(
    ("factory", "names"),
    [
        ("mtl_tagger", ["tags"]),
        ("mtl_ner", ["ents"]),
        ("mtl_textcat", ["cats"]),
        ("morphologizer", ["morphs", "pos"]),
        ("parser", ["trees", "sents"]),
        ("senter", ["sents"]),
        ("trainable_lemmatizer", ["lemmas"]),
        ("entity_linker", ["links", "ents"]),
        ("spancat", ["spans_sc"]),
        ("mtl_spancat", ["spans_sc"]),
        ("merge_entities", []),
        ("mtl_vectors", []),
    ],
)
def test_layers_of_a_component(factory: str, names: list[str]) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe(factory, name="it")
    assert [layer.name for layer in find_layers(nlp, "it")] == names


def test_names_are_those_of_the_registry() -> None:
    assert {name: layer.name for name, layer in get_layers().items()} == {
        name: name for name in annotation_layers.get_all()
    }


def test_a_layer_of_another_package(registered: None) -> None:
    """Counts, chunks and mixing know it."""
    nlp = spacy.blank("en")
    nlp.add_pipe("test_mood", name="mood")
    nlp.add_pipe("mtl_tagger", name="tagger")
    (layer,) = find_layers(nlp, "mood")
    docs = [make_doc(nlp), make_doc(nlp, "sad"), Doc(nlp.vocab)]
    counts = count_docs(docs, {"mood": layer}).tasks["mood"]
    assert (counts.units, dict(counts.labels), counts.missing) == (2, {"glad": 1, "sad": 1}, 1)
    assert [chunk.user_data[KEY] for chunk in cut_doc(docs[0], 2)] == ["glad"] * 2
    for task, mood, tag in [("mood", "glad", ""), ("tagger", None, "X")]:
        reader = create_mixed_corpus_v1(
            {"main": lambda nlp: [Example(make_doc(nlp), make_doc(nlp))]}, {"main": [task]}
        )
        (example,) = reader(nlp)
        assert layer.get_answer(example.reference) == mood
        assert [token.tag_ for token in example.reference] == [tag] * 3


@pytest.mark.parametrize(
    "registered", [("mood", Mood()), ("temper", Mood), ("mood", "Mood")], indirect=True
)
def test_something_else_is_registered(registered: None) -> None:
    with pytest.raises(ValueError, match=r"M127.*'(mood|temper)'.*AnnotationLayer"):
        get_layers()
