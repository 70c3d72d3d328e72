"""The parser's loss, sentences and odd gold trees."""

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from conftest import TREES, make_examples
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.heads.parser.model import NO_HEAD, Arcs, Relations, make_batches
from spacy_mtl.heads.parser.pipe import find_sentences
from spacy_mtl.training.adamw import create_adamw_v1

Make = Callable[..., Language]


def normal(*shape: int) -> Any:
    return numpy.random.default_rng(0).normal(size=shape).astype("f")


def set_random(model: Any) -> dict[str, torch.Tensor]:
    """RETURNS (Dict[str, Tensor]): Random parameters, which the model gets too."""
    model.initialize()
    params = {}
    for name in model.param_names:
        model.set_param(name, normal(*model.get_param(name).shape))
        params[name] = torch.tensor(model.get_param(name), requires_grad=True)
    return params


def test_arcs_and_their_gradients() -> None:
    """Equal to autograd, for sentences of 3 and 2 tokens."""
    model = Arcs(4)
    params = set_random(model)
    D, H = (torch.tensor(normal(5, 4) * scale, requires_grad=True) for scale in (1, 0.5))
    (rows,) = make_batches(numpy.array([[0, 3], [3, 5]]))
    assert rows.tolist() == [[3, 4, -1], [0, 1, 2]]
    vectors = (D.detach().numpy(), H.detach().numpy())
    found, backprop = model((vectors, rows), True)
    expected = []
    for start, end in ((3, 5), (0, 3)):
        heads = torch.cat([params["root"][None], H[start:end]])
        scores = D[start:end] @ params["W"] @ heads.T + heads @ params["b"]
        expected.append(scores)
    gradient = numpy.zeros_like(found)
    total = torch.tensor(0.0)
    for i, scores in enumerate(expected):
        n = len(scores)
        allowed = ~numpy.eye(n, n + 1, k=1, dtype=bool)
        numpy.testing.assert_allclose(
            found[i, :n, : n + 1][allowed], scores.detach().numpy()[allowed], rtol=1e-4
        )
        weights = normal(n, n + 1) * allowed
        gradient[i, :n, : n + 1] = weights
        total = total + (scores * torch.tensor(weights)).sum()
    assert (found[1][[0, 1, 2], [1, 2, 3]] == NO_HEAD).all() and found[0, 0, 3] == NO_HEAD
    total.backward()
    d_vectors = numpy.zeros((5, 4), dtype="f"), numpy.zeros((5, 4), dtype="f")
    backprop((gradient, d_vectors))
    for tensor, array in zip((D, H), d_vectors, strict=True):
        numpy.testing.assert_allclose(array, tensor.grad, rtol=1e-4, atol=1e-5)
    for name, param in params.items():
        numpy.testing.assert_allclose(model.get_grad(name), param.grad, rtol=1e-4, atol=1e-5)


def test_relations_and_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to autograd, in products of two pairs."""
    monkeypatch.setattr("spacy_mtl.heads.parser.model.MAX_PAIRS", 2)
    model = Relations(3, 4)
    params = set_random(model)
    D, H = (torch.tensor(normal(5, 3) * scale, requires_grad=True) for scale in (1, 0.5))
    rows, heads = numpy.array([0, 1, 3, 4, 2]), numpy.array([1, -1, 1, 2, -1])
    vectors = (D.detach().numpy(), H.detach().numpy())
    found, backprop = model((vectors, rows, heads), True)
    picked = torch.stack([params["root"] if head < 0 else H[head] for head in heads])
    W = params["W"].view(3, 4, 3)
    expected = torch.einsum("pi,ilj,pj->pl", D[rows], W, picked)
    expected = expected + torch.cat([D[rows], picked], dim=1) @ params["V"] + params["b"]
    numpy.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    weights = normal(5, 4)
    (expected * torch.tensor(weights)).sum().backward()
    d_vectors = numpy.zeros((5, 3), dtype="f"), numpy.zeros((5, 3), dtype="f")
    backprop((weights, d_vectors))
    for tensor, array in zip((D, H), d_vectors, strict=True):
        numpy.testing.assert_allclose(array, tensor.grad, rtol=1e-4, atol=1e-5)
    for name, param in params.items():
        numpy.testing.assert_allclose(model.get_grad(name), param.grad, rtol=1e-4, atol=1e-5)


def test_loss_before_training(make_nlp: Make) -> None:
    """Relations start at their frequencies, and starts as likely as not."""
    nlp = make_nlp("parser")
    parser: Any = nlp.get_pipe("parser")
    arcs = parser.model.layers[-2]
    arcs.set_param("W", arcs.get_param("W") * 0)
    examples = make_examples(nlp)
    losses = nlp.update(examples, losses={})
    found = [label for _, labels in TREES for label in labels.split()]
    counts = {label: found.count(label) + 1 for label in parser.labels}
    total = sum(counts.values())
    relations = -sum(numpy.log(counts[label] / total) for label in found)
    # Each token chooses among the root and the other tokens of its sentence.
    heads = sum(n * numpy.log(n) for n in (8, 10, 5, 4, 7))
    starts = (len(found) - 4) * numpy.log(2)
    expected = (relations + heads + starts) / len(found)
    assert losses["parser"] == pytest.approx(expected, rel=1e-4)


def test_sentences_are_bucketed_by_length() -> None:
    ends = numpy.cumsum([0, 3, 90, 2, 200, 4, 300])
    sentences = numpy.stack([ends[:-1], ends[1:]], axis=1)
    batches = list(make_batches(sentences))
    assert [batch.shape for batch in batches] == [(4, 90), (1, 200), (1, 300)]
    rows = numpy.concatenate([batch.ravel() for batch in batches])
    assert sorted(rows[rows >= 0].tolist()) == list(range(599))


def test_sentences_of_docs() -> None:
    starts = numpy.array([0, 0, 1, 0, 1])
    assert find_sentences(starts, [1, 0, 4]).tolist() == [[0, 1], [1, 2], [2, 4], [4, 5]]
    assert find_sentences(starts[:0], [0]).tolist() == []


def test_sentences_that_a_doc_has(make_nlp: Make) -> None:
    nlp = make_nlp("parser")
    doc = Doc(nlp.vocab, words=["a", "b", "c", "d", "e"], sent_starts=[1, -1, 1, -1, -1])
    nlp(doc)
    assert [sent.start for sent in doc.sents] == [0, 2]
    assert [sum(token.head == token for token in sent) for sent in doc.sents] == [1, 1]


@pytest.mark.parametrize("projective", [False, True])
def test_each_sentence_has_one_root(make_nlp: Make, projective: bool) -> None:
    nlp = make_nlp("parser", config={"parser": {"projective": projective}})
    docs = [
        Doc(nlp.vocab, words=["a"] * n, sent_starts=[True] + [False] * (n - 1)) for n in (1, 300)
    ]
    for doc in nlp.pipe(docs):
        assert doc.has_annotation("DEP", require_complete=True)
        assert len(list(doc.sents)) == 1
        assert sum(token.head == token for token in doc) == 1


def update(nlp: Language, **annotation: Any) -> float:
    words = ["a", "b", "c", "d"]
    gold = Doc(nlp.vocab, words=words, **annotation)
    example = Example(Doc(nlp.vocab, words=words), gold)
    return nlp.update([example], sgd=create_adamw_v1(), losses={})["parser"]


def test_odd_gold_trees(make_nlp: Make) -> None:
    nlp = make_nlp("parser")
    crossing = update(nlp, heads=[2, 3, 3, 3], deps=["det", "obj", "nsubj", "ROOT"])
    two_roots = update(nlp, heads=[1, 1, 3, 3], deps=["det", "ROOT", "det", "ROOT"])
    partial = update(nlp, heads=[1, 1, 2, 3], deps=["det", "ROOT", "", ""])
    unheard = update(nlp, heads=[1, 1, 1, 1], deps=["x", "ROOT", "x", "x"])
    for loss in (crossing, two_roots, partial, unheard):
        assert numpy.isfinite(loss) and loss > 0
    assert update(nlp) == 0.0


def test_partial_trees_count_known_heads_only(make_nlp: Make) -> None:
    nlp = make_nlp("parser")
    parser: Any = nlp.get_pipe("parser")
    words = ["a", "b", "c", "d"]
    gold = Doc(nlp.vocab, words=words, heads=[1, 1, 2, 3], deps=["det", "ROOT", "", ""])
    heads, relations = parser.read_trees([Example(Doc(nlp.vocab, words=words), gold)])
    assert heads.tolist() == [1, -1, -2, -2]
    assert [parser.labels[i] if i >= 0 else None for i in relations] == ["det", "ROOT", None, None]


def test_targets_against_torch(make_nlp: Make) -> None:
    """The loss of the arcs is the cross-entropy over the heads of a sentence."""
    nlp = make_nlp("parser")
    parser: Any = nlp.get_pipe("parser")
    examples = make_examples(nlp)[:1]
    encoder: Any = nlp.get_pipe("transformer")
    docs = [eg.predicted for eg in examples]
    encoder.set_annotations(docs, encoder.predict(docs))
    scores = parser.model.predict(docs)
    (arcs,) = scores.score_arcs(numpy.array([[0, 8]]))
    loss, _, n = parser.loss(examples, scores)
    gold, relations = parser.read_trees(examples)
    expected = F.cross_entropy(torch.tensor(arcs.values[0]), torch.tensor(gold + 1))
    values = scores.score_relations(numpy.arange(8), gold).values
    expected = expected + F.cross_entropy(torch.tensor(values), torch.tensor(relations))
    starts = F.cross_entropy(torch.tensor(scores.starts[1:]), torch.zeros(7, dtype=torch.long))
    assert n == 8
    assert loss == pytest.approx(float(expected + starts * 7 / 8), rel=1e-5)
