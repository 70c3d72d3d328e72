"""`mtl_paircat`: the comparison of two texts, and pairs without an order."""

from collections.abc import Callable

import numpy
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.heads.paircat import compare
from spacy_mtl.pairs import SEPARATOR, UNORDERED, make_pair

Make = Callable[..., Language]
NLP = spacy.blank("en")
PAIRS = [("a b", "a b", "same"), ("c", "c", "same"), ("a b", "c", "other"), ("c", "a b", "other")]


def make_pairs(nlp: Language, *, ordered: bool = True) -> list[Example]:
    examples = []
    for first, second, label in PAIRS:
        gold = make_pair(nlp, first, second, ordered=ordered)
        gold.cats = {name: float(name == label) for name in ("same", "other")}
        examples.append(Example(Doc(nlp.vocab, words=[t.text for t in gold]), gold))
    return examples


def test_features_and_gradients() -> None:
    docs = [make_pair(NLP, "a b", "c d e"), NLP("no pair")]
    rows = numpy.random.default_rng(0).normal(size=(8, 3)).astype("f")
    for symmetric in (False, True):
        tensor = torch.tensor(rows, requires_grad=True)
        features = []
        for a, b in [(tensor[:2], tensor[3:6]), (tensor[6:], tensor[6:])]:
            u, v = a.mean(dim=0), b.mean(dim=0)
            own = [u + v] if symmetric else [u, v]
            features.append(torch.cat([*own, (u - v).abs(), u * v]))
        expected = torch.stack(features)
        found, backprop = compare(rows, docs, symmetric)
        numpy.testing.assert_allclose(found, expected.detach(), atol=1e-6)
        d_features = numpy.random.default_rng(1).normal(size=found.shape).astype("f")
        expected.backward(torch.tensor(d_features))
        numpy.testing.assert_allclose(backprop(d_features), tensor.grad, atol=1e-5)


def test_learns_pairs(make_nlp: Make) -> None:
    nlp = make_nlp("paircat", initialize=False)
    nlp.initialize(lambda: make_pairs(nlp))
    sgd = Adam(0.005)
    for _ in range(60):
        losses = nlp.update(make_pairs(nlp), sgd=sgd, losses={})
    assert losses["paircat"] < 0.3
    assert nlp.evaluate(make_pairs(nlp))["cats_score"] == 1.0
    doc = nlp(f"a b {SEPARATOR} c")
    assert doc.cats["other"] > 0.5
    for text in ("", SEPARATOR, f"a {SEPARATOR}", f"{SEPARATOR} a", "a"):
        assert set(nlp(text).cats) == {"same", "other"}


def test_pairs_without_an_order(make_nlp: Make) -> None:
    """With a symmetric model the scores of both orders are the same."""
    model = {
        "@architectures": "spacy-mtl.PairCatHead.v1",
        "symmetric": True,
        "tok2vec": {"@architectures": "spacy-mtl.TaskListener.v1"},
    }
    nlp = make_nlp("paircat", initialize=False, config={"paircat": {"model": model}})
    nlp.initialize(lambda: make_pairs(nlp, ordered=False))
    sgd = Adam(0.005)
    for _ in range(10):
        nlp.update(make_pairs(nlp, ordered=False), sgd=sgd)
    for mark, is_same in ((UNORDERED, True), (SEPARATOR, False)):
        found, other = nlp(f"a b {mark} c").cats, nlp(f"c {mark} a b").cats
        gap = max(abs(found[label] - other[label]) for label in found)
        assert (gap < 1e-6) == is_same
