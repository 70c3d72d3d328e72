"""Stock heads with our listener, and the rows for their initialization."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import TEXTS, WIDTH, encoder_weights
from spacy.kb import InMemoryLookupKB
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_mtl.encoder.listener import TaskListener
from spacy_mtl.training.adamw import create_adamw_v1

LISTENER = {"@architectures": "spacy-mtl.TaskListener.v1"}
REDUCER = {"@layers": "spacy.mean_max_reducer.v1", "hidden_size": 8}
BOW = {
    "@architectures": "spacy.TextCatBOW.v3",
    "exclusive_classes": False,
    "length": 64,
    "ngram_size": 1,
    "no_output_layer": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "spancat": {
        "@architectures": "spacy.SpanCategorizer.v1",
        "scorer": {"@layers": "spacy.LinearLogistic.v1"},
        "reducer": REDUCER,
    },
    "spancat_singlelabel": {
        "@architectures": "spacy.SpanCategorizer.v1",
        "scorer": {"@layers": "Softmax.v2"},
        "reducer": REDUCER,
    },
    "span_finder": {
        "@architectures": "spacy.SpanFinder.v1",
        "scorer": {"@layers": "spacy.LinearLogistic.v1", "nO": 2},
    },
    "textcat": {"@architectures": "spacy.TextCatCNN.v2", "exclusive_classes": True},
    "textcat_multilabel": {"@architectures": "spacy.TextCatEnsemble.v2", "linear_model": BOW},
    "morphologizer": {"@architectures": "spacy.Tagger.v2"},
    "tagger": {"@architectures": "spacy.Tagger.v2"},
    "senter": {"@architectures": "spacy.Tagger.v2"},
    "trainable_lemmatizer": {"@architectures": "spacy.Tagger.v2"},
    "parser": {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "parser",
        "extra_state_tokens": False,
        "hidden_width": 8,
        "maxout_pieces": 1,
        "use_upper": True,
    },
    "ner": {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 8,
        "maxout_pieces": 1,
        "use_upper": True,
    },
    "entity_linker": {"@architectures": "spacy.EntityLinker.v2"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "parser": {"min_action_freq": 1},
    "trainable_lemmatizer": {"min_tree_freq": 1},
}


def make_gold_of_all(nlp: Language) -> list[Example]:
    examples = []
    for text in TEXTS:
        words = text.split()
        n = len(words)
        gold = Doc(
            nlp.vocab,
            words=words,
            tags=["A", *["B"] * (n - 1)],
            pos=["NOUN"] * n,
            morphs=["Number=Sing"] * n,
            lemmas=[word.lower() for word in words],
            heads=[max(0, i - 1) for i in range(n)],
            deps=["ROOT", *["dep"] * (n - 1)],
            ents=["B-PERSON", *["O"] * (n - 1)],
        )
        gold.ents = [Span(gold, 0, 1, label="PERSON", kb_id="Q1")]
        gold.spans["sc"] = [Span(gold, 0, 2, label="NAME")]
        gold.cats = {"travel": float(text == TEXTS[0]), "other": float(text != TEXTS[0])}
        example = Example(Doc(nlp.vocab, words=words), gold)
        example.predicted.ents = [Span(example.predicted, 0, 1, label="PERSON")]
        examples.append(example)
    return examples


def make_kb(vocab: Any) -> InMemoryLookupKB:
    kb = InMemoryLookupKB(vocab, entity_vector_length=WIDTH)
    kb.add_entity(entity="Q1", freq=1, entity_vector=[1.0] * WIDTH)
    for text in TEXTS:
        kb.add_alias(alias=text.split()[0], entities=["Q1"], probabilities=[1.0])
    return kb


def add_head(nlp: Language, factory: str) -> Any:
    model = {**MODELS[factory], "tok2vec": LISTENER}
    head = nlp.add_pipe(factory, config={"model": model, **SETTINGS.get(factory, {})})
    if factory == "entity_linker":
        head.set_kb(make_kb)
    return head


@pytest.mark.parametrize("factory", MODELS)
def test_stock_heads_read_our_listener(make_nlp: Callable, factory: str) -> None:
    nlp: Language = make_nlp("tagger=mtl_tagger", initialize=False)
    nlp.remove_pipe("tagger")
    nlp.get_pipe("transformer").model.initialize()
    if factory == "entity_linker":
        nlp.add_pipe("sentencizer")
    head = add_head(nlp, factory)
    examples = make_gold_of_all(nlp)
    sgd = create_adamw_v1()
    nlp.initialize(lambda: examples)
    assert all(not doc.user_data for eg in examples for doc in (eg.predicted, eg.reference))
    listeners = [node for node in head.model.walk() if isinstance(node, TaskListener)]
    assert listeners and not any(listener.sample for listener in listeners)
    before = encoder_weights(nlp)
    for _ in range(2):
        losses = nlp.update(examples, sgd=sgd, losses={})
    nlp.get_pipe("transformer").flush()
    assert losses[head.name] >= 0 and encoder_weights(nlp) != before
    doc = nlp(TEXTS[0])
    assert factory == "entity_linker" or not doc.user_data  # it reads sentences only


def test_rows_of_initialize_are_freed(make_nlp: Callable) -> None:
    """Rows are also freed if a head is initialized alone, outside its pipeline."""
    nlp: Language = make_nlp("tagger", initialize=False)
    examples = make_gold_of_all(nlp)
    nlp.initialize(lambda: examples)
    head = nlp.get_pipe("tagger")
    head.initialize(lambda: examples, nlp=nlp)  # type: ignore[attr-defined]
    assert not any(eg.predicted.user_data for eg in examples)
    assert nlp.evaluate(examples)["tag_acc"] is not None
    listener = head.model.get_ref("tok2vec")  # type: ignore[attr-defined]
    assert isinstance(listener, TaskListener) and not listener.sample
    nlp.initialize(lambda: examples)
    with pytest.raises(ValueError, match="M012"):
        listener.predict([examples[0].predicted])


def test_features_of_another_encoder_do_not_matter(make_nlp: Callable) -> None:
    """Docs that an encoder has already read can be initialization examples."""
    nlp: Language = make_nlp("tagger", initialize=False)
    examples = make_gold_of_all(nlp)
    other = make_nlp("ner")
    other.get_pipe("transformer")(examples[0].predicted)
    nlp.initialize(lambda: examples)
    assert nlp.update(examples, sgd=False)["tagger"] > 0
