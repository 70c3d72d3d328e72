"""Temperatures of heads: probabilities change, decisions and losses do not."""

import math

import numpy
import pytest
from conftest import CATS, make_examples
from spacy.tokens import Doc
from spacy.training import Example

HEADS = {
    "tagger": ("tagger", {}),
    "crf": ("ner", {}),
    "tokens": ("ner", {"model": {"crf": False}}),
    "exclusive": ("textcat", {}),
    "multilabel": ("textcat_multilabel", {}),
}
PARTIAL = ({"travel": 1.0, "food": 0.0}, {}, {"sport": 0.0}, dict.fromkeys(CATS, 0.0))


@pytest.fixture
def make_head(make_nlp):
    """A function that makes a pipeline and its head, with random weights."""

    def make(kind: str, **config):
        name, options = HEADS[kind]
        nlp = make_nlp(name, config={name: {**options, **config}})
        head = nlp.get_pipe(name)
        random = numpy.random.default_rng(0)
        for node, param in get_params(head):
            shape = node.get_param(param).shape
            node.set_param(param, 2 * random.normal(size=shape).astype("f"))
        return nlp, head

    return make


def get_params(head):
    """What scores are linear in."""
    output = head.model.get_ref("output_layer")
    params = [(output, "W"), (output, "b")]
    return [*params, (head.model, "transitions")] if "ner" in head.name else params


def annotate(nlp) -> list[Doc]:
    return list(nlp.pipe([eg.predicted for eg in make_examples(nlp)]))


def get_decisions(docs: list[Doc]) -> list:
    return [
        (
            [token.tag_ for token in doc],
            [(ent.start, ent.end, ent.label_) for ent in doc.ents],
            max(doc.cats, key=lambda cat: doc.cats[cat], default=None),
        )
        for doc in docs
    ]


def get_probabilities(docs: list[Doc]) -> list[float]:
    spans = [p for doc in docs if "ner" in doc.spans for p in doc.spans["ner"].attrs["scores"]]
    return [*spans, *(p for doc in docs for p in doc.cats.values())]


def get_batch(nlp, head, examples):
    """The examples with the scores that predictions are made of."""
    kept = []
    head.prediction_callback = lambda docs, scores: kept.append(scores)
    assert [eg.predicted for eg in examples] == list(nlp.pipe([eg.predicted for eg in examples]))
    head.prediction_callback = None
    (scores,) = kept
    return examples, scores


@pytest.mark.parametrize("threshold", [1e-16, 0.01, 0.9, 0.999])
def test_decisions_stay_however_cold(make_head, threshold):
    """Where float32 would take probabilities for 1, the temperature is less cold."""
    _, head = make_head("multilabel", threshold=threshold)
    raw = math.log(threshold / (1 - threshold)) + numpy.linspace(-1, 1, 40)
    before = head.to_probabilities(raw.astype("f")) >= head.cfg["threshold"]
    head.set_temperature(0.05)
    after = head.to_probabilities((raw / head.temperature).astype("f")) >= head.cfg["threshold"]
    assert before.sum() == after.sum() == 20 and 0 < head.cfg["threshold"] < 1
    assert head.temperature >= 0.05


@pytest.mark.parametrize("temperature", [0.4, 3.0])
@pytest.mark.parametrize("kind", HEADS)
def test_the_same_as_scores_divided_by_it(make_head, kind, temperature):
    nlp, head = make_head(kind)
    before = annotate(nlp)
    head.set_temperature(temperature)
    after = annotate(nlp)
    head.set_temperature(1.0)
    for node, param in get_params(head):
        node.set_param(param, node.get_param(param) / temperature)
    divided = annotate(nlp)
    assert get_decisions(before) == get_decisions(after) == get_decisions(divided)
    found = get_probabilities(after)
    assert found == pytest.approx(get_probabilities(divided), abs=1e-4)
    if kind == "tagger":
        assert found == []
    else:
        assert len(found) > 2
        assert found != pytest.approx(get_probabilities(before), abs=0.01)


@pytest.mark.parametrize("kind", HEADS)
def test_training_knows_nothing_of_it(make_head, kind):
    gradients = []
    for temperature in (1.0, 3.0):
        nlp, head = make_head(kind)
        head.set_temperature(temperature)
        losses = nlp.update(make_examples(nlp), sgd=None)
        node, param = get_params(head)[0]
        gradients.append((losses, node.get_grad(param).tobytes()))
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize("kind", HEADS)
def test_round_trip(make_head, make_nlp, kind, tmp_path):
    nlp, head = make_head(kind)
    assert head.temperature == 1.0
    head.set_temperature(2.5)
    expected = get_probabilities(annotate(nlp))
    nlp.to_disk(tmp_path)
    name, options = HEADS[kind]
    for load in (lambda n: n.from_disk(tmp_path), lambda n: n.from_bytes(nlp.to_bytes())):
        loaded = load(make_nlp(name, config={name: options}))
        assert loaded.get_pipe(name).temperature == 2.5
        assert get_probabilities(annotate(loaded)) == expected


def test_threshold_moves_along(make_head):
    """The same categories are above it, also after a second time and back."""
    nlp, head = make_head("multilabel", threshold=0.3)
    given = []
    for temperature in (1.0, 4.0, 0.5, 1.0):
        head.set_temperature(temperature)
        threshold = head.cfg["threshold"]
        cats = [cat for doc in annotate(nlp) for cat in doc.cats.items()]
        given.append([cat for cat, p in cats if p >= threshold])
    assert 0 < len(given[0]) < 16
    assert given == given[:1] * 4
    assert head.cfg["threshold"] == pytest.approx(0.3)
    for edge in (0.0, 1.0):
        head.cfg["threshold"] = edge
        head.set_temperature(2.0)
        assert head.cfg["threshold"] == edge


@pytest.mark.parametrize("kind", HEADS)
def test_likelihood(make_head, kind):
    """That of the loss without its options, and its slope."""
    nlp, head = make_head(kind)
    examples, scores = get_batch(nlp, head, make_examples(nlp))
    nll = head.make_nll(examples, scores)
    loss, _, n = head.loss(examples, scores)
    assert nll(1.0)[::2] == (pytest.approx(loss, rel=1e-5), n)
    if kind != "crf":
        head.cfg["label_smoothing"] = 0.3
        assert head.loss(examples, scores)[0] != loss
        assert head.make_nll(examples, scores)(1.0)[0] == pytest.approx(loss, rel=1e-5)
    for t in (0.7, 3.0):
        step = 1e-2 / t
        higher, lower = (nll(1 / (1 / t + d))[0] for d in (step, -step))
        assert nll(t)[1] == pytest.approx((higher - lower) / (2 * step), rel=1e-2, abs=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_without_labels_there_is_nothing_to_be_sure_of(make_head, kind):
    nlp, head = make_head(kind)
    examples, scores = get_batch(nlp, head, make_examples(nlp, "none"))
    assert head.make_nll(examples, scores)(2.0) == (0.0, 0.0, 0)
    confidences, is_right = head.get_confidences(examples, scores, 2.0)
    assert len(confidences) == len(is_right) == 0


def test_confidences_of_tags(make_head):
    nlp, head = make_head("tagger")
    examples, scores = get_batch(nlp, head, make_examples(nlp))
    for token in examples[1].reference:
        token.tag_ = ""
    confidences, is_right = head.get_confidences(examples, scores, 2.0)
    docs = [eg.predicted for eg in examples]
    pairs = [(token, gold) for doc, eg in zip(docs, examples, strict=True) if eg is not examples[1]
             for token, gold in zip(doc, eg.reference, strict=True)]  # fmt: skip
    assert is_right.tolist() == [token.tag_ == gold.tag_ for token, gold in pairs]
    p = numpy.exp(scores / 2)
    p = (p / p.sum(axis=1, keepdims=True)).max(axis=1)
    first, second = len(docs[0]), len(docs[0]) + len(docs[1])
    assert confidences == pytest.approx(numpy.r_[p[:first], p[second:]], rel=1e-4)


@pytest.mark.parametrize("kind", ["crf", "tokens"])
def test_confidences_of_entities(make_head, kind):
    """Those of the spans, for each whether it is among the gold; none where gold is missing."""
    nlp, head = make_head(kind)
    examples, scores = get_batch(nlp, head, make_examples(nlp))
    golds = [eg.reference for eg in examples]
    docs = [eg.predicted for eg in examples]
    golds[0].set_ents(docs_ents(docs[0], golds[0])[:1], default="outside")
    golds[1].set_ents([], missing=[golds[1][:]])
    golds[2].set_ents([], default="outside")
    confidences, is_right = head.get_confidences(examples, scores, 1.0)
    expected = [
        (p, (ent.start, ent.end, ent.label_) in {(g.start, g.end, g.label_) for g in gold.ents})
        for doc, gold in zip(docs, golds, strict=True)
        if gold is not golds[1]
        for ent, p in zip(doc.spans["ner"], doc.spans["ner"].attrs["scores"], strict=True)
    ]
    assert [right for _, right in expected].count(True) >= 1
    assert [right for _, right in expected].count(False) >= 1
    assert len(docs[1].ents) > 0
    assert is_right.tolist() == [right for _, right in expected]
    assert confidences == pytest.approx([p for p, _ in expected], abs=1e-6)


def docs_ents(doc: Doc, gold: Doc) -> list:
    """The entities of a doc as those of another with the same tokens."""
    return [gold.char_span(e.start_char, e.end_char, label=e.label_) for e in doc.ents]


def test_white_space_at_the_ends_of_entities(make_head):
    """They are compared as they stand in doc.ents."""
    nlp, head = make_head("crf")
    words = ["Maria", "\n", "\n", "flew"]
    gold = Doc(nlp.vocab, words=words, ents=["B-PERSON", "O", "O", "O"])
    scores = numpy.full((4, len(head.tags)), -9.0, dtype="f")
    for i, tag in enumerate(["B-PERSON", "I-PERSON", "L-PERSON", "O"]):
        scores[i, head.tags.index(tag)] = 9.0
    zeros = numpy.zeros((len(head.tags), len(head.tags)), dtype="f")
    example = Example(Doc(nlp.vocab, words=words), gold)
    confidences, is_right = head.get_confidences([example], (scores, zeros), 1.0)
    assert is_right.tolist() == [True]
    assert confidences == pytest.approx([1.0], abs=1e-3)


def test_confidences_of_exclusive_categories(make_head):
    nlp, head = make_head("exclusive")
    examples, scores = get_batch(nlp, head, make_examples(nlp))
    examples[2].reference.cats = {}
    examples[3].reference.cats = dict.fromkeys(CATS, 0.0)
    confidences, is_right = head.get_confidences(examples, scores, 1.0)
    docs = [eg.predicted for eg in examples[:2]]
    assert confidences == pytest.approx([max(doc.cats.values()) for doc in docs], rel=1e-4)
    assert is_right.tolist() == [
        max(doc.cats, key=lambda cat: doc.cats[cat]) == CATS[i] for i, doc in enumerate(docs)
    ]


def test_confidences_of_other_categories(make_head):
    """Of each that is known, how probable it is, and whether it is right."""
    nlp, head = make_head("multilabel")
    examples, scores = get_batch(nlp, head, make_examples(nlp))
    for eg, cats in zip(examples, PARTIAL, strict=True):
        eg.reference.cats = cats
    confidences, is_right = head.get_confidences(examples, scores, 1.0)
    known = [(i, cat) for i, c in enumerate(PARTIAL) for cat in head.labels if cat in c]
    assert confidences == pytest.approx([examples[i].predicted.cats[cat] for i, cat in known])
    assert is_right.tolist() == [PARTIAL[i][cat] == 1.0 for i, cat in known]
    assert is_right.sum() == 1
