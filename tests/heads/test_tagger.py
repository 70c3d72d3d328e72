"""The tagger."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from conftest import TAGS, make_examples, make_gold
from spacy.language import Language
from spacy.pipeline.tagger import Tagger
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Adam

LABELS = sorted({tag for tags in TAGS for tag in tags})


def make_example(nlp: Language, tags: Iterable[str], words: Iterable[str] | None = None) -> Example:
    """RETURNS: A doc of t0, t1, ... or of the given words, with these tags. "" is a missing tag."""
    tags = list(tags)
    gold = Doc(nlp.vocab, words=[f"t{i}" for i in range(len(tags))], tags=tags)
    return Example(Doc(nlp.vocab, words=list(words or [t.text for t in gold])), gold)


def make_scores(n_tokens: int, n_labels: int = len(LABELS)) -> numpy.ndarray:
    return numpy.random.default_rng(0).normal(size=(n_tokens, n_labels)).astype("f")


def get_targets(nlp: Language, example: Example) -> list[list[str] | None]:
    """RETURNS (List[Optional[List[str]]]): The labels that the gradient of each token favours,
    None for a zero gradient.
    """
    tagger: Any = nlp.get_pipe("tagger")
    labels = numpy.array(tagger.labels)
    scores = numpy.zeros((len(example.predicted), len(labels)), dtype="f")
    _, gradient = tagger.get_loss([example], scores)
    return [sorted(labels[row < 0]) if row.any() else None for row in gradient]


@pytest.fixture
def nlp(make_nlp: Callable[..., Language]) -> Language:
    return make_nlp("tagger")


def test_learns(nlp):
    assert isinstance(nlp.get_pipe("tagger"), Tagger)
    assert nlp.get_pipe("tagger").labels == tuple(LABELS)
    examples, sgd = make_examples(nlp, "tagger"), Adam(0.005)
    for _ in range(50):
        losses = nlp.update(examples, sgd=sgd, losses={})
    assert losses["tagger"] < 0.1
    assert nlp.evaluate(make_examples(nlp, "tagger"))["tag_acc"] == 1.0
    docs = nlp.pipe(make_gold(nlp.vocab, i, ()) for i in range(4))
    assert [[token.tag_ for token in doc] for doc in docs] == TAGS


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_mean_over_tagged_tokens(make_nlp, smoothing):
    nlp = make_nlp("tagger", config={"tagger": {"label_smoothing": smoothing}})
    tags = ["NN", "", "VBD", "", "NN"]
    scores = make_scores(5)
    loss, gradient = nlp.get_pipe("tagger").get_loss([make_example(nlp, tags)], scores)
    tagged = [0, 2, 4]
    leaf = torch.tensor(scores[tagged], requires_grad=True)
    target = torch.tensor([LABELS.index(tags[i]) for i in tagged])
    expected = F.cross_entropy(leaf, target, label_smoothing=smoothing)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    numpy.testing.assert_allclose(gradient[tagged], leaf.grad, atol=1e-6)
    assert not gradient[[1, 3]].any()


def test_unknown_and_missing_tags_ask_for_nothing(nlp):
    example = make_example(nlp, ["NN", "", "UNHEARD", "!UNHEARD", "!"])
    assert get_targets(nlp, example) == [["NN"], None, None, None, None]


def test_tokens_that_do_not_align(nlp):
    """All parts of a split token get its tag. A joined token gets a tag if its parts agree."""
    split = make_example(nlp, ["NN", "VBD"], ["t", "0", "t1"])
    assert get_targets(nlp, split) == [["NN"], ["NN"], ["VBD"]]
    joined = make_example(nlp, ["NN", "VBD", "NN", "NN"], ["t0t1", "t2t3"])
    assert get_targets(nlp, joined) == [None, ["NN"]]


@pytest.mark.parametrize("prefix", ["!", "not-"])
def test_negative_tags(make_nlp, prefix):
    """Such a tag rules out a label, even if it has become a label itself."""
    nlp = make_nlp("tagger", initialize=False, config={"tagger": {"neg_prefix": prefix}})
    examples = [make_example(nlp, ["NN", "!", f"{prefix}NN", f"{prefix}!", "VBD"])]
    nlp.initialize(lambda: examples)
    labels = nlp.get_pipe("tagger").labels
    assert set(labels) == {"NN", "!", f"{prefix}NN", f"{prefix}!", "VBD"}
    assert get_targets(nlp, examples[0]) == [
        ["NN"],
        ["!"],
        sorted({*labels} - {"NN"}),
        sorted({*labels} - {"!"}),
        ["VBD"],
    ]
    scores = make_scores(1, len(labels))
    loss, _ = nlp.get_pipe("tagger").get_loss([make_example(nlp, [f"{prefix}NN"])], scores)
    p = torch.tensor(scores[0]).softmax(0)[labels.index("NN")]
    assert loss == pytest.approx(-numpy.log(1 - p.item()), rel=1e-5)


@pytest.mark.parametrize("overwrite", [False, True])
def test_overwrite(make_nlp, overwrite):
    nlp = make_nlp("tagger", config={"tagger": {"overwrite": overwrite}})
    doc = Doc(nlp.vocab, words=["a", "b"], tags=["UNHEARD", ""])
    tags = [token.tag_ for token in nlp(doc)]
    assert (tags[0] == "UNHEARD") == (not overwrite)
    assert tags[1] in LABELS


def test_docs_without_tokens(nlp):
    docs = [Doc(nlp.vocab), make_gold(nlp.vocab, 0, ()), Doc(nlp.vocab)]
    assert [len(doc) for doc in nlp.pipe(docs)] == [0, 8, 0]
    assert docs[1].has_annotation("TAG", require_complete=True)
    tagger = nlp.get_pipe("tagger")
    assert [tags.tolist() for tags in tagger.predict([Doc(nlp.vocab)] * 2)] == [[], []]
    empty = Example(Doc(nlp.vocab), Doc(nlp.vocab))
    assert nlp.update([empty], losses={})["tagger"] == 0.0


def test_labels_from_initialize(make_nlp):
    nlp = make_nlp("tagger", initialize=False)
    nlp.config["initialize"]["components"]["tagger"] = {"labels": ["NN", "UNSEEN", "VBD"]}
    nlp.initialize(lambda: make_examples(nlp))
    assert nlp.get_pipe("tagger").labels == ("NN", "UNSEEN", "VBD")
    losses = nlp.update(make_examples(nlp), losses={})
    # Four tokens are NN and three VBD. The bias adds one to each label.
    expected = -(4 * numpy.log(5 / 10) + 3 * numpy.log(4 / 10)) / 7
    assert losses["tagger"] == pytest.approx(expected, rel=1e-6)
