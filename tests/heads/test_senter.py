"""The sentence recognizer."""

from collections.abc import Callable, Sequence

import numpy
import pytest
import torch
import torch.nn.functional as F
from conftest import TEXTS, make_examples, make_gold
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.pipeline.senter import SentenceRecognizer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Adam


def make_example(
    nlp: Language, starts: Sequence[bool | None], words: Sequence[str] = ()
) -> Example:
    """RETURNS (Example): A doc of t0, t1, ... or of the given words, with these starts."""
    gold = Doc(nlp.vocab, words=[f"t{i}" for i in range(len(starts))])
    for token, is_start in zip(gold, starts, strict=True):
        if is_start is not None:
            token.is_sent_start = is_start
    return Example(Doc(nlp.vocab, words=list(words or [t.text for t in gold])), gold)


def make_scores(n_tokens: int) -> numpy.ndarray:
    return numpy.random.default_rng(0).normal(size=(n_tokens, 2)).astype("f")


def get_targets(nlp: Language, example: Example) -> list[str | None]:
    """RETURNS (List[Optional[str]]): The label that the gradient of each token favours, None for a
    zero gradient.
    """
    scores = numpy.zeros((len(example.predicted), 2), dtype="f")
    _, gradient = nlp.get_pipe("senter").get_loss([example], scores)
    return ["IS"[int(row[1] < 0)] if row.any() else None for row in gradient]


@pytest.fixture(scope="module")
def nlp(make_nlp: Callable[..., Language]) -> Language:
    nlp = make_nlp("senter")
    examples, sgd = make_examples(nlp, "senter"), Adam(0.005)
    for _ in range(40):
        nlp.update(examples, sgd=sgd)
    return nlp


def test_finds_sentences(nlp):
    senter = nlp.get_pipe("senter")
    assert isinstance(senter, SentenceRecognizer)
    assert senter.labels == ("I", "S")
    assert senter.hide_labels
    docs = list(nlp.pipe(TEXTS))
    assert [[sent.text for sent in doc.sents] for doc in docs][2] == [
        "We ate soup in Porto",
        "and liked it .",
    ]
    scores = nlp.evaluate(make_examples(nlp, "senter"))
    assert [scores[f"sents_{key}"] for key in "fpr"] == [1.0, 1.0, 1.0]


def test_loss_is_the_mean_over_known_tokens(nlp):
    """The first token of a doc always starts a sentence: there is nothing to learn."""
    starts = [True, None, True, False, False]
    scores = make_scores(5)
    loss, gradient = nlp.get_pipe("senter").get_loss([make_example(nlp, starts)], scores)
    leaf = torch.tensor(scores[2:], requires_grad=True)
    expected = F.cross_entropy(leaf, torch.tensor([1, 0, 0]))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    numpy.testing.assert_allclose(gradient[2:], leaf.grad, atol=1e-6)
    assert not gradient[:2].any()


def test_tokens_that_do_not_align(nlp):
    example = make_example(nlp, [True, False, True], ["t", "0t", "1", "t2"])
    assert get_targets(nlp, example) == [None, "I", "I", "S"]
    example = make_example(nlp, [True, None, True], ["t0", "t1t2"])
    assert get_targets(nlp, example) == [None, "S"]


@pytest.mark.parametrize("starts", [[None] * 4, [None], [True], []])
def test_nothing_to_learn(nlp, starts):
    example = make_example(nlp, starts)
    assert get_targets(nlp, example) == [None] * len(starts)
    assert nlp.update([example], losses={})["senter"] == 0.0


@given(st.floats(0, 1), st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 2), min_size=1))
def test_threshold(nlp, threshold, scores):
    senter = nlp.get_pipe("senter")
    doc, scores = Doc(nlp.vocab, words=["a"] * len(scores)), numpy.array(scores, dtype="f")
    before = senter.cfg["threshold"]
    senter.cfg["threshold"] = threshold
    starts = senter.decode([doc], scores)[0]
    senter.cfg["threshold"] = before
    p = torch.tensor(scores).softmax(1)[:, 1].numpy()
    certain = numpy.abs(p - threshold) > 1e-6
    assert starts[0] == 1
    assert (starts == (p >= threshold))[1:][certain[1:]].all()


def test_a_lower_threshold_finds_more_starts(make_nlp):
    found = []
    for threshold in (0.0, 0.5, 1.0):
        nlp = make_nlp("senter", config={"senter": {"threshold": threshold}})
        found.append([len(list(doc.sents)) for doc in nlp.pipe(TEXTS)])
    assert found == [[len(text.split()) for text in TEXTS], [1] * 4, [1] * 4]


@pytest.mark.parametrize("overwrite", [False, True])
def test_overwrite(make_nlp, overwrite):
    nlp = make_nlp("senter", config={"senter": {"overwrite": overwrite}})
    doc = Doc(nlp.vocab, words=["a", "b", "c", "d"])
    doc[2].is_sent_start = True
    starts = [token.is_sent_start for token in nlp(doc)]
    assert starts == [True, False, not overwrite, False]


def test_overwrite_keeps_the_trees(make_nlp):
    nlp = make_nlp("senter", config={"senter": {"overwrite": True}})
    doc = make_gold(nlp.vocab, 2, ["parser"])
    before = [(token.head.i, token.dep_) for token in doc]
    assert [(token.head.i, token.dep_) for token in nlp(doc)] == before


def test_docs_without_tokens(nlp):
    docs = [Doc(nlp.vocab), make_gold(nlp.vocab, 2, ()), Doc(nlp.vocab), nlp.make_doc("a")]
    assert [len(list(doc.sents)) if len(doc) else 0 for doc in nlp.pipe(docs)] == [0, 2, 0, 1]
    senter = nlp.get_pipe("senter")
    assert [starts.tolist() for starts in senter.predict([Doc(nlp.vocab)] * 2)] == [[], []]


def test_initialization_without_any_label(make_nlp):
    """As spaCy's: the labels are always the same."""
    nlp = make_nlp("senter", initialize=False)
    nlp.initialize(lambda: make_examples(nlp, "tagger"))
    assert nlp.get_pipe("senter").labels == ("I", "S")
    assert nlp("a b").has_annotation("SENT_START")


def test_bias_is_the_share_of_starts(make_nlp):
    nlp = make_nlp("senter")
    bias = nlp.get_pipe("senter").model.get_ref("output_layer").get_param("b")
    n_tokens = sum(len(text.split()) - 1 for text in TEXTS)
    shares = numpy.array([n_tokens, 2]) / (n_tokens + 2)
    numpy.testing.assert_allclose(numpy.exp(bias), shares, rtol=1e-6)


def test_labels_of_init_labels(make_nlp):
    """The counts give the bias when the examples have no labels."""
    data = make_nlp("senter").get_pipe("senter").label_data
    assert data == {"labels": ["I", "S"], "counts": [["I", 29, 1], ["S", 1, 29]]}
    nlp = make_nlp("senter", initialize=False)
    nlp.config["initialize"]["components"]["senter"] = {"labels": data}
    nlp.initialize(lambda: make_examples(nlp, "tagger"))
    assert nlp.get_pipe("senter").label_data == data


def test_other_labels(make_nlp):
    nlp = make_nlp("senter")
    senter = nlp.get_pipe("senter")
    assert senter.add_label("S") == 0
    with pytest.raises(ValueError, match="M097"):
        senter.add_label("start")
    nlp.config["initialize"]["components"]["senter"] = {"labels": ["S", "I", "E"]}
    with pytest.raises(ValueError, match="M097"):
        nlp.initialize(lambda: make_examples(nlp))
