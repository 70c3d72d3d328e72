"""Counts of the corpora of a config."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import make_examples
from spacy.language import Language
from spacy.training import Example
from spacy.util import registry

from spacy_mtl.corpora.inventory import count_training_corpora

MIXED = "spacy-mtl.MixedCorpus.v1"


@pytest.fixture
def nlp(make_nlp: Callable[..., Language]) -> Iterator[Language]:
    """Return a pipeline whose config reads examples with the reader `four.v1`."""

    @registry.readers("four.v1")
    def four(fails: bool = False) -> Callable[[Language], list[Example]]:
        def read(nlp: Language) -> list[Example]:
            assert not fails
            random.random()
            return make_examples(nlp)

        return read

    nlp = make_nlp("tagger", "ner", initialize=False)
    nlp.config["corpora"] = {"train": {"@readers": "four.v1"}, "dev": {"@readers": "four.v1"}}
    yield nlp
    del registry.readers.get_all()["four.v1"]


FOUR = {"docs": 4, "words": 34, "units": {"tagger": 34, "ner": 6}}


def mix(epochs: int) -> dict[str, Any]:
    corpora = {"a": {"@readers": "four.v1"}, "b": {"@readers": "four.v1"}}
    return {"@readers": MIXED, "corpora": corpora, "tasks": {"b": ["ner"]}, "epochs": epochs}


def test_plain_corpora(nlp: Language) -> None:
    random.seed(0)
    expected = random.Random(0).random()
    assert count_training_corpora(nlp) == {"train": {"train": FOUR}, "dev": {"dev": FOUR}}
    assert random.random() == expected


@pytest.mark.parametrize("epochs", [1, 0])
def test_mixed_corpora(nlp: Language, epochs: int) -> None:
    nlp.config["corpora"]["train"] = mix(epochs)
    nlp.config["training"]["max_epochs"] = -1 if epochs == 0 else 0
    found = count_training_corpora(nlp)["train"]
    assert found == {"a": FOUR, "b": {**FOUR, "units": {"tagger": 0, "ner": 6}}}


def test_streams_and_corpora_that_cannot_be_read(nlp: Language) -> None:
    nlp.config["training"]["max_epochs"] = -1
    assert count_training_corpora(nlp) == {"dev": {"dev": FOUR}}
    nlp.config["corpora"]["dev"]["fails"] = True
    assert count_training_corpora(nlp) == {}
