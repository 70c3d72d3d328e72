from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import make_examples
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from spacy_mtl.corpora.documents import set_document
from spacy_mtl.heads.rating import Rating
from spacy_mtl.training.calibration import find_examples, keep_scores
from spacy_mtl.validation.suspects import RATINGS, find_suspects, list_suspects

# the two text categorizers share their categories
pytestmark = pytest.mark.filterwarnings("ignore:.W014:UserWarning")


@pytest.fixture(scope="module")
def nlp(make_nlp: Any) -> Any:
    """Return a pipeline with random heads."""
    nlp = make_nlp("tagger", "ner", "textcat", "textcat_multilabel", "lemmatizer")
    random = numpy.random.default_rng(0)
    for name in nlp.pipe_names[1:]:
        output = nlp.get_pipe(name).model.get_ref("output_layer")
        weights = output.get_param("W")
        output.set_param("W", random.normal(size=weights.shape).astype("f"))
    return nlp


def rate(nlp: Any, name: str, examples: list[Example]) -> tuple[list[list[Rating]], Any]:
    with keep_scores(nlp) as scored:
        for _ in nlp.pipe(eg.predicted for eg in examples):
            pass
    ((batch, scores),) = find_examples(examples, scored[name])
    return nlp.get_pipe(name).rate_labels(batch, scores), scores


def softmax(x: Any) -> Any:
    p = numpy.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_tags(nlp: Any, temperature: float) -> None:
    head = nlp.get_pipe("tagger")
    head.set_temperature(temperature)
    examples = make_examples(nlp)
    ratings, scores = rate(nlp, "tagger", examples)
    head.set_temperature(1.0)
    p, row, n = softmax(scores / temperature), 0, 0
    for eg, own in zip(examples, ratings, strict=True):
        found = {rating.start: rating for rating in own}
        for token, gold in zip(eg.predicted, eg.reference, strict=True):
            best = head.labels[p[row].argmax()]
            assert (token.i in found) == (best != gold.tag_)
            if token.i in found:
                n += 1
                rating = found[token.i]
                assert rating[:4] == (token.i, token.i + 1, gold.tag_, best)
                expected = p[row, head.labels.index(gold.tag_)], p[row].max()
                assert rating[4:] == pytest.approx(expected, rel=1e-4)
            row += 1
    assert n


def test_missing_tags_are_not_rated(nlp: Any) -> None:
    ratings, _ = rate(nlp, "tagger", make_examples(nlp, "ner"))
    assert ratings == [[], [], [], []]


def test_categories(nlp: Any) -> None:
    examples = make_examples(nlp, "textcat")
    ratings, scores = rate(nlp, "textcat", examples)
    labels, p = nlp.get_pipe("textcat").labels, softmax(scores)
    n = 0
    for eg, own, row in zip(examples, ratings, p, strict=True):
        gold = max(eg.reference.cats, key=eg.reference.cats.__getitem__)
        best = labels[row.argmax()]
        assert [rating[:4] for rating in own] == (
            [(0, len(eg.predicted), gold, best)] if best != gold else []
        )
        n += len(own)
    assert n


def test_independent_categories(nlp: Any) -> None:
    examples = make_examples(nlp, "textcat")
    examples[0].reference.cats = {"travel": 0.0, "food": 1.0}
    ratings, scores = rate(nlp, "textcat_multilabel", examples)
    p = 1 / (1 + numpy.exp(-scores[0]))
    labels = nlp.get_pipe("textcat_multilabel").labels
    expected = {}
    for label, gold in (("travel", False), ("food", True)):
        likely = float(p[labels.index(label)])
        if (likely > 0.5) != gold:
            names = (label, f"not {label}") if gold else (f"not {label}", label)
            expected[names] = (likely, 1 - likely) if gold else (1 - likely, likely)
    found = {(rating.gold, rating.predicted): rating[4:] for rating in ratings[0]}
    assert found.keys() == expected.keys()
    assert all(found[names] == pytest.approx(expected[names], abs=1e-5) for names in found)


def test_entities(nlp: Any) -> None:
    """Parts that both sides divide in the same way are left out. The probabilities of the others
    are those of the tag sequences, so that of the best one is not lower.
    """
    examples = make_examples(nlp, "ner")
    predicted = [nlp(eg.predicted.copy()) for eg in examples]
    golds = [doc.copy() for doc in predicted]
    for gold in golds:
        gold.set_ents(list(gold.ents))  # no missing ones
    same = [Example(doc.copy(), gold) for doc, gold in zip(predicted, golds, strict=True)]
    for eg in same:
        eg.predicted = nlp.make_doc(eg.predicted.text)
    ratings, _ = rate(nlp, "ner", same)
    assert ratings == [[], [], [], []]
    ratings, _ = rate(nlp, "ner", examples)
    assert any(ratings)
    for eg, doc, own in zip(examples, predicted, ratings, strict=True):
        sides = [{(e.start, e.end, e.label_) for e in d.ents} for d in (eg.reference, doc)]
        different = sides[0] ^ sides[1]
        for start, end, _ in different:
            assert any(rating.start <= start and end <= rating.end for rating in own)
        for rating in own:
            assert rating.gold != rating.predicted
            assert 0 <= rating.p_gold < rating.p_predicted <= 1.0001


def test_names_of_entities(nlp: Any) -> None:
    """An entity that covers only some words of a part is named with its text."""
    doc = Doc(nlp.vocab, words=["Maria", "Keller", "flew"])
    gold = doc.copy()
    gold.set_ents([Span(gold, 0, 2, "PERSON")])
    ner = nlp.get_pipe("ner")
    tags = ner.tags
    emissions = numpy.zeros((3, len(tags)), dtype="f")
    for row, tag in enumerate(["U-PERSON", "U-PLACE", "O"]):
        emissions[row, tags.index(tag)] = 20
    scores = emissions, numpy.zeros((len(tags), len(tags)), dtype="f")
    (own,) = ner.rate_labels([Example(doc, gold)], scores)
    ((start, end, label, found, p_gold, p_found),) = own
    assert (start, end, label) == (0, 2, "PERSON")
    assert found == "PERSON (Maria), PLACE (Keller)"
    assert p_gold < 1e-6 and p_found == pytest.approx(1, abs=1e-4)


def test_rank() -> None:
    doc = Doc(spacy.blank("en").vocab, words=[f"w{i}" for i in range(40)])
    set_document(doc, "x")
    doc.user_data[RATINGS] = {
        "tagger": [[20, 21, "NN", "VB", 0.4, 0.6], [0, 1, "NN", "JJ", 0.1, 0.8]],
        "ner": [[2, 4, "O", "PLACE", 0.0, 0.99]],
    }
    found = list_suspects([Doc(doc.vocab, words=["a"]), doc])
    assert [(s.task, s.words) for s in found] == [
        ("ner", "w2 w3"),
        ("tagger", "w0"),
        ("tagger", "w20"),
    ]
    assert [round(s.score, 2) for s in found] == [0.99, 0.7, 0.2]
    assert {(s.doc, s.document) for s in found} == {(2, "x")}
    assert found[2].text == " ".join(f"w{i}" for i in range(8, 33))


def test_pipeline_and_data(nlp: Any, tmp_path: Path) -> None:
    nlp.to_disk(tmp_path / "model")
    docs = [eg.reference for eg in make_examples(nlp)]
    set_document(docs[0], "first")
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "gold.spacy")
    found = find_suspects(tmp_path / "model", tmp_path / "gold.spacy")
    assert {s.task for s in found} == {"tagger", "ner", "textcat", "textcat_multilabel"}
    assert {s.document for s in found if s.doc == 1} == {"first"}
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
