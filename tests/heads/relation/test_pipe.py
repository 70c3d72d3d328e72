"""`mtl_relation`: candidates, targets, predictions, labels and what cannot be learned."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import srsly
from conftest import ARGUMENTS, make_examples, make_gold, make_predicted
from spacy import displacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.annotations.relations import (
    Relation,
    Relations,
    get_relations,
    make_relation_arcs,
    set_relations,
)
from spacy_mtl.heads.relation.pipe import MultiTaskRelationExtractor
from spacy_mtl.heads.relation.scorer import score_relations
from spacy_mtl.training.thresholds import find_thresholds

Make = Callable[..., Language]
NAME = "relation"


def get_head(nlp: Language) -> MultiTaskRelationExtractor:
    head = nlp.get_pipe(NAME)
    assert isinstance(head, MultiTaskRelationExtractor)
    return head


def train(nlp: Language, examples: list[Example], steps: int = 60) -> float:
    sgd = Adam(0.005)
    losses = {}
    for _ in range(steps):
        losses = nlp.update(examples, sgd=sgd, losses={})
    return losses[NAME]


def make_doc(nlp: Language, relations: list[Relation], key: str = "arguments") -> Doc:
    doc = Doc(nlp.vocab, words=[*"abcdef"])
    doc.spans[key] = [Span(doc, i, i + 1, "X") for i in range(4)]
    set_relations(doc, relations)
    return doc


def test_labels_types_and_counts(make_nlp: Make) -> None:
    head = get_head(make_nlp(NAME))
    assert head.labels == ("eats", "is there on", "makes", "visits")
    assert head.cfg["types"] == ["DATE", "ORG", "PERSON", "PLACE", "THING"]
    pairs = [("ORG", "THING"), ("PERSON", "DATE"), ("PERSON", "PLACE"), ("PERSON", "THING")]
    assert [*map(tuple, head.cfg["type_pairs"])] == pairs
    # Candidates have a pair of these types.
    assert head.counts == {
        "eats": [1, 5],
        "is there on": [1, 5],
        "makes": [1, 5],
        "visits": [2, 4],
    }


def test_labels_of_init_labels(make_nlp: Make, tmp_path: Path) -> None:
    expected = get_head(make_nlp(NAME))
    srsly.write_json(tmp_path / "labels.json", expected.label_data)
    nlp = make_nlp(NAME, initialize=False)
    labels = {"@readers": "spacy.read_labels.v1", "path": str(tmp_path / "labels.json")}
    nlp.config["initialize"]["components"][NAME] = {"labels": labels}
    nlp.initialize(lambda: make_examples(nlp, "tagger"))
    assert get_head(nlp).label_data == srsly.read_json(tmp_path / "labels.json")
    bias = [get_head(n).model.get_ref("output_layer").get_param("b") for n in (nlp, make_nlp(NAME))]
    numpy.testing.assert_array_equal(*bias)


def test_spans_of_both_docs_are_candidates(make_nlp: Make) -> None:
    """Found spans that are not in the gold doc are negative examples."""
    head = get_head(make_nlp(NAME, config={NAME: {"all_types": True}}))
    gold = make_gold(head.vocab, 0, [NAME])
    predicted = make_predicted(gold)
    predicted.spans["arguments"] = [Span(predicted, 0, 2, "ORG"), Span(predicted, 2, 3, "THING")]
    (found,), cells = head.get_targets([Example(predicted, gold)])
    types = dict(zip(found.spans, found.types, strict=True))
    assert types == {(0, 2): "PERSON", (2, 3): "THING", (4, 5): "PLACE", (6, 7): "DATE"}
    assert len(found.pairs) == 12
    assert len(cells) == 2


def test_gold_of_other_tokens(make_nlp: Make) -> None:
    """Spans and relations are found again where the predicted doc has more tokens or fewer."""
    head = get_head(make_nlp(NAME, config={NAME: {"all_types": True}}))
    gold = make_gold(head.vocab, 0, [NAME])
    words = ["Mar", "ia", "Keller", "flew to", "Lis", "bon", "on", "Friday", "."]
    spaces = [False, True, True, True, False, True, True, True, False]
    predicted = Doc(head.vocab, words=words, spaces=spaces)
    (found,), cells = head.get_targets([Example(predicted, gold)])
    assert found.spans == [(0, 3), (4, 6), (7, 8)]
    assert found.types == ["PERSON", "PLACE", "DATE"]
    related = {(found.pairs[row], head.labels[column]) for row, column in cells}
    assert related == {((0, 1), "visits"), ((0, 2), "is there on")}


def test_entities(make_nlp: Make) -> None:
    """Without `spans_key` relations are between entities."""
    nlp = make_nlp("ner", NAME, config={NAME: {"spans_key": None}}, initialize=False)

    def make() -> list[Example]:
        examples = make_examples(nlp, "ner", NAME)
        for i, eg in enumerate(examples):
            eg.reference.set_ents([Span(eg.reference, *span) for span in ARGUMENTS[i]])
        return examples

    nlp.initialize(make)
    train(nlp, make(), 80)
    scores = nlp.evaluate(make())
    assert scores["rel_micro_f"] == 1.0 and scores["rel_per_type"]["makes"]["f"] == 1.0


def test_negatives_are_sampled_without_bias(make_nlp: Make) -> None:
    """On average the loss and gradient of samples are those of all pairs."""
    nlp = make_nlp(NAME, config={NAME: {"all_types": True}})
    head, examples = get_head(nlp), make_examples(nlp)
    docs = [eg.predicted for eg in examples]
    encoder: Any = nlp.get_pipe("transformer")
    encoder.set_annotations(docs, encoder.predict(docs))
    scores = head.model.predict(docs)
    expected, gradient, n = head.loss(examples, scores)
    head.cfg["negatives"] = 1
    numpy.random.seed(0)
    losses, gradients = [], []
    for _ in range(400):
        loss, found, n_found = head.loss(examples, scores)
        losses.append(loss)
        gradients.append(found.bias)
        assert n_found == n
    assert numpy.mean(losses) == pytest.approx(expected, rel=0.02)
    numpy.testing.assert_allclose(numpy.mean(gradients, axis=0), gradient.bias, atol=0.02)


def test_exclusive(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, config={NAME: {"all_types": True, "threshold": 0.0}})
    doc = nlp(make_predicted(make_gold(nlp.vocab, 0, [NAME])))
    n_labels = len(get_head(nlp).labels)
    assert len(get_relations(doc) or ()) == 6 * n_labels
    get_head(nlp).cfg["exclusive"] = True
    doc = nlp(make_predicted(make_gold(nlp.vocab, 0, [NAME])))
    assert len({relation[:2] for relation in get_relations(doc) or ()}) == 6 == len(doc._.relations)


def test_relations_that_no_candidate_has(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, config={NAME: {"max_distance": 1}}, initialize=False)
    far, no_span = Relation((0, 1), (3, 4), "far"), Relation((0, 1), (5, 6), "no span")
    near = Relation((0, 1), (1, 2), "near")
    example = Example(Doc(nlp.vocab, words=["a"]), make_doc(nlp, [far, no_span, near]))
    example = Example(make_predicted(example.reference), example.reference)
    with pytest.warns(UserWarning, match=r"W141.*2 of 3 gold.*at most 1 tokens.*far.*no span"):
        nlp.initialize(lambda: [example])
    assert numpy.isfinite(nlp.update([example], losses={})[NAME])


def test_a_relation_of_a_span_to_itself(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, initialize=False)
    gold = make_doc(nlp, [Relation((0, 1), (0, 1), "self")])
    with pytest.raises(ValueError, match=r"M292.*'relation'.*0 to 1.*a b c"):
        nlp.initialize(lambda: [Example(make_predicted(gold), gold)])


def test_docs_without_spans(make_nlp: Make) -> None:
    nlp = make_nlp(NAME)
    docs = list(nlp.pipe(["", "No spans here."]))
    assert [doc._.relations for doc in docs] == [[], []]
    gold = make_doc(nlp, [], key="other")
    losses = nlp.update([Example(make_predicted(gold), gold)], losses={})
    assert losses[NAME] == 0.0


def test_storage_of_relations(make_nlp: Make) -> None:
    """DocBin, JSON, pickles and other processes keep them."""
    nlp = make_nlp(NAME)
    train(nlp, make_examples(nlp))
    expected = [strip(doc) for doc in nlp.pipe(eg.predicted for eg in make_examples(nlp))]
    assert any(expected)
    found = list(nlp.pipe((eg.predicted for eg in make_examples(nlp)), n_process=2))
    assert [strip(doc) for doc in found] == expected
    stored = DocBin(docs=found, store_user_data=True).to_bytes()
    loaded = list(DocBin().from_bytes(stored).get_docs(nlp.vocab))
    assert [strip(doc) for doc in loaded] == [strip(doc) for doc in found]
    assert strip(pickle.loads(pickle.dumps(found[0]))) == strip(found[0])
    json = found[0].to_json(underscore=["relations"])
    again = Doc(nlp.vocab).from_json(json)
    assert strip(again) == strip(found[0])


def strip(doc: Doc) -> list[Any]:
    return [relation[:3] for relation in get_relations(doc) or ()]


def test_relations_of_a_span() -> None:
    nlp = spacy.blank("en")
    doc = make_doc(nlp, [Relation((0, 1), (3, 4), "far"), Relation((2, 3), (0, 1), "near")])
    assert [r["label"] for r in doc[0:1]._.relations] == ["far", "near"]
    assert [r["label"] for r in doc[3:4]._.relations] == ["far"]
    assert doc[1:2]._.relations == []


def test_arcs_for_displacy() -> None:
    nlp = spacy.blank("en")
    doc = make_doc(nlp, [Relation((0, 2), (3, 4), "far"), Relation((3, 4), (2, 3), "near")])
    doc.ents = [Span(doc, 0, 2, "X")]
    found = make_relation_arcs(doc)
    assert [(word["text"], word["tag"]) for word in found["words"]] == [
        ("a b", "X"),
        *((text, "") for text in "cdef"),
    ]
    arcs = [(arc["start"], arc["end"], arc["label"], arc["dir"]) for arc in found["arcs"]]
    assert arcs == [(0, 2, "far", "right"), (1, 2, "near", "left")]
    html = displacy.render(found, style="dep", manual=True)
    assert "near" in html and ">a b<" in html


def test_two_heads(make_nlp: Make) -> None:
    """Each keeps the relations of the other."""
    nlp = make_nlp(NAME, "more=mtl_relation", initialize=False, config={"more": {"spans_key": "b"}})
    layer = Relations()

    def make() -> list[Example]:
        gold = make_doc(nlp, [Relation((0, 1), (1, 2), "x"), Relation((1, 2), (2, 3), "y")])
        gold.spans["b"] = [Span(gold, 0, 1, "Z")]
        return [Example(make_predicted(gold), gold)]

    nlp.config["initialize"]["components"] = {
        NAME: {"labels": {"labels": ["x"], "types": ["X"], "type_pairs": [["X", "X"]]}},
        "more": {"labels": {"labels": ["y"], "types": ["X"], "type_pairs": [["X", "X"]]}},
    }
    with pytest.warns(UserWarning, match="W141"):
        nlp.initialize(make)
    doc = make()[0].predicted
    set_relations(doc, [Relation((0, 1), (1, 2), "y")])
    get_head(nlp).annotate([doc], [[Relation((0, 1), (1, 2), "x")]])
    assert layer.get_labels(doc) == ["x", "y"]


def test_scores() -> None:
    nlp = spacy.blank("en")
    gold = make_doc(nlp, [Relation((0, 1), (1, 2), "x"), Relation((1, 2), (2, 3), "y")])
    found = make_doc(
        nlp,
        [
            Relation((0, 1), (1, 2), "x", 0.9),
            Relation((2, 3), (1, 2), "y"),
            Relation((0, 1), (2, 3), "z"),
        ],
    )
    scores = score_relations([Example(found, gold), Example(found.copy(), nlp("a b c d e f"))])
    assert (scores["rel_micro_p"], scores["rel_micro_r"]) == (1 / 3, 1 / 2)
    assert scores["rel_macro_f"] == 0.5
    assert {label: own["f"] for label, own in scores["rel_per_type"].items()} == {
        "x": 1.0,
        "y": 0.0,
        "z": 0.0,
    }
    assert set(score_relations([Example(found, nlp("a b c d e f"))]).values()) == {None}


def test_the_best_threshold(make_nlp: Make) -> None:
    """`find-threshold` finds one that separates the gold relations from the others."""
    nlp = make_nlp(NAME)
    train(nlp, make_examples(nlp), 30)
    get_head(nlp).cfg["threshold"] = 1.0
    examples = make_examples(nlp)
    found = find_thresholds(nlp, examples, NAME)
    assert found.score == (0.0, 1.0)
    get_head(nlp).cfg["threshold"] = found.threshold[1]
    assert nlp.evaluate(make_examples(nlp))["rel_micro_f"] == 1.0
