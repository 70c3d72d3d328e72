from collections import Counter

import pytest
from conftest import make_gold
from spacy.tokens import Doc, Span
from spacy.vocab import Vocab

from spacy_mtl.annotations import get_layers
from spacy_mtl.corpora.counts import Counts, TaskCounts, add_counts
from spacy_mtl.corpora.counts import count_docs as count_layers

LAYERS = get_layers()
TASKS = {name: LAYERS[name] for name in ("tags", "ents", "cats")}


def count_docs(docs: list[Doc]) -> Counts:
    return count_layers(docs, TASKS)


def make_parsed(vocab: Vocab) -> Doc:
    doc = Doc(
        vocab,
        words=["Anna", "sleeps", "here"],
        tags=["NNP", "", "RB"],
        pos=["PROPN", "", "ADV"],
        lemmas=["Anna", "sleep", ""],
        deps=["nsubj", "ROOT", "advmod"],
        heads=[1, 1, 1],
    )
    doc.spans["a"] = [Span(doc, 0, 2, label="x"), Span(doc, 1, 3, label="y")]
    doc.spans["b"] = [Span(doc, 0, 1, label="x")]
    return doc


def test_docs_of_all_tasks():
    vocab = Vocab()
    assert count_docs([make_gold(vocab, i) for i in range(4)]) == Counts(
        docs=4,
        words=34,
        tasks={
            "tags": TaskCounts(
                34,
                Counter(
                    {"NNP": 8, "VBD": 3, "IN": 5, ".": 4, "DT": 2, "JJ": 2, "NN": 4}
                    | {"VBZ": 2, "NNS": 1, "PRP": 2, "CC": 1}
                ),
                0,
            ),
            "ents": TaskCounts(6, Counter(PERSON=2, PLACE=2, DATE=1, ORG=1), 0),
            "cats": TaskCounts(4, Counter(travel=1, technology=1, food=1, sport=1), 0),
        },
    )


def test_missing_is_not_none_of_them():
    vocab = Vocab()
    unlabelled, negative = make_gold(vocab, 0, ()), make_gold(vocab, 0, ())
    negative.set_ents([])
    negative.cats = {"travel": 0.0}
    assert count_docs([unlabelled, negative]).tasks == {
        "tags": TaskCounts(0, Counter(), 2),
        "ents": TaskCounts(0, Counter(), 1),
        "cats": TaskCounts(1, Counter(), 1),
    }


@pytest.mark.parametrize(
    ("name", "unit", "labels"),
    [
        ("tags", "tokens", {"NNP": 1, "RB": 1}),
        ("pos", "tokens", {"PROPN": 1, "ADV": 1}),
        ("lemmas", "tokens", {"Anna": 1, "sleep": 1}),
        ("trees", "tokens", {"nsubj": 1, "ROOT": 1, "advmod": 1}),
        ("sents", "sentences", {"S": 1}),
        ("spans", "spans", {"x": 2, "y": 1}),
    ],
)
def test_layers(name, unit, labels):
    docs = [make_parsed(vocab := Vocab()), Doc(vocab, words=["a", "b"])]
    assert LAYERS[name].unit == unit
    expected = TaskCounts(sum(labels.values()), Counter(labels), 1)
    assert count_layers(docs, {"task": LAYERS[name]}).tasks == {"task": expected}


def test_morphology_and_links():
    doc = Doc(Vocab(), words=["Anna", "sleeps"])
    doc[0].set_morph("Number=Sing")
    doc.set_ents([Span(doc, 0, 1, label="PERSON", kb_id="Q1")])
    counts = count_layers([doc], {"morph": LAYERS["morphs"], "link": LAYERS["links"]})
    assert counts.tasks == {
        "morph": TaskCounts(1, Counter({"Number=Sing": 1}), 0),
        "link": TaskCounts(1, Counter({"Q1": 1}), 0),
    }


def test_nothing_to_count():
    empty = {task: TaskCounts(0, Counter(), 0) for task in ("tags", "ents", "cats")}
    assert count_docs([]) == Counts(0, 0, empty)
    blank = Doc(Vocab())
    missing = {task: TaskCounts(0, Counter(), 1) for task in ("tags", "ents", "cats")}
    assert count_docs([blank]) == Counts(1, 0, missing)


def test_sum_is_the_count_of_both():
    vocab = Vocab()
    docs = [make_gold(vocab, i, tasks) for i in range(4) for tasks in [("tagger",), ("ner",), ()]]
    parts = [count_docs(docs[:5]), count_docs(docs[5:])]
    assert add_counts(parts) == count_docs(docs)
    assert add_counts(parts[:1]) == parts[0]
