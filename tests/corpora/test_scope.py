"""Which components a gold doc is for, from the reader to wherever labels are read."""

from typing import Any

import pytest
import spacy
from conftest import STOCK_MODELS, make_gold
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_mtl.annotations import find_layers
from spacy_mtl.corpora.counts import count_docs
from spacy_mtl.corpora.mixed import create_mixed_corpus_v1
from spacy_mtl.corpora.scope import is_for, mark


def read(nlp: Language, *components: str, reader: Any = None) -> list[Example]:
    """All labelled texts, from a corpus with labels for some components."""
    golds = [make_gold(nlp.vocab, i) for i in range(4)]
    examples = [Example(Doc(nlp.vocab, words=[t.text for t in gold]), gold) for gold in golds]
    corpora = {"main": reader or (lambda nlp: examples)}
    return list(create_mixed_corpus_v1(corpora, {"main": list(components)})(nlp))


@pytest.fixture
def nlp() -> Language:
    nlp = spacy.blank("en")
    for name in ("people", "places"):
        nlp.add_pipe("mtl_ner", name=name)
    nlp.add_pipe("mtl_tagger", name="tagger")
    return nlp


def test_unmarked_docs_are_for_all(nlp: Language) -> None:
    assert is_for(nlp.make_doc("a b"), "people")


def test_a_corpus_is_for_its_components_only(nlp: Language) -> None:
    for eg in read(nlp, "people"):
        assert [is_for(eg.reference, name) for name in nlp.pipe_names] == [True, False, False]
        assert eg.reference.has_annotation("ENT_IOB") and not eg.reference.has_annotation("TAG")


def test_inside_another_mixed_corpus(nlp: Language) -> None:
    (eg, *_) = read(nlp, "places", "tagger", reader=lambda nlp: read(nlp, "people", "tagger"))
    assert [is_for(eg.reference, name) for name in nlp.pipe_names] == [False, False, True]


def test_copies_keep_the_mark(nlp: Language) -> None:
    doc = nlp.make_doc("a b")
    mark(doc, ["people"])
    stored = DocBin(docs=[doc], store_user_data=True).to_bytes()
    (loaded,) = DocBin().from_bytes(stored).get_docs(nlp.vocab)
    copies = [doc.copy(), Doc(nlp.vocab).from_bytes(doc.to_bytes()), loaded]
    for copy in copies:
        assert is_for(copy, "people") and not is_for(copy, "places")


def test_counts_are_of_the_docs_for_a_task(nlp: Language) -> None:
    docs = [eg.reference for eg in [*read(nlp, "people"), *read(nlp, "places", "tagger")]]
    docs += [make_gold(nlp.vocab, 0)]
    tasks = {name: find_layers(nlp, name)[0] for name in nlp.pipe_names}
    counts = count_docs(docs, tasks).tasks
    assert {task: (n.units, n.missing) for task, n in counts.items()} == {
        "people": (9, 4),
        "places": (9, 4),
        "tagger": (42, 4),
    }


def test_stock_heads_cannot_leave_labels_out(nlp: Language) -> None:
    nlp.add_pipe("ner", config={"model": STOCK_MODELS["ner"]})
    with pytest.warns(UserWarning, match=r"W012.*'main' .*\['people'\], but \['ner'\]"):
        (eg, *_) = read(nlp, "people")
    assert is_for(eg.reference, "ner") and not is_for(eg.reference, "places")
    read(nlp, "people", "ner")  # both are meant
    nlp.config["training"]["frozen_components"] = ["ner"]
    read(nlp, "people")  # it learns nothing


def test_kinds_that_no_component_reads_are_removed_for_stock_heads(nlp: Language) -> None:
    nlp.add_pipe("ner", config={"model": STOCK_MODELS["ner"]})
    (eg, *_) = read(nlp, "tagger")
    assert not eg.reference.has_annotation("ENT_IOB")
