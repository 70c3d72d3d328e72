"""The tagger, and properties of all heads."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy
import pytest
import spacy
import torch
import torch.nn.functional as F
from conftest import CATS, ENTS, TAGS, TEXTS, WIDTH, encoder_weights, make_examples, make_gold
from spacy.language import Language
from spacy.pipeline.tagger import Tagger
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed
from thinc.api import SGD, Adam, Optimizer

LABELS = sorted({tag for tags in TAGS for tag in tags})
HEADS = ["tagger", "ner", "textcat", "textcat_multilabel"]
TASKS = {"textcat_multilabel": "textcat"}


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


# All heads


def make_head_examples(nlp: Language, head: str) -> list[Example]:
    """RETURNS: The labelled texts with the labels of one head only."""
    return make_examples(nlp, TASKS.get(head, head))


def make_unlabelled(nlp: Language) -> list[Example]:
    golds = [make_gold(nlp.vocab, i, ()) for i in range(4)]
    return [Example(Doc(nlp.vocab, words=[t.text for t in gold]), gold) for gold in golds]


def update(nlp: Language, examples: list[Example], sgd: Optimizer) -> dict[str, float]:
    """Make one step of spaCy's training loop."""
    losses = nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
    pipes: Any = nlp.pipeline
    for _, pipe in pipes:
        pipe.finish_update(sgd)
    return losses


def get_weights(nlp: Language, head: str) -> numpy.ndarray:
    """RETURNS (Floats1d): All of a head's weights."""
    pipe: Any = nlp.get_pipe(head)
    return numpy.concatenate(
        [
            node.get_param(name).ravel().copy()
            for node in pipe.model.walk()
            for name in node.param_names
            if node.has_param(name)
        ]
    )


def make_stock_encoder(kind: str, encoder: str, *heads: str) -> Language:
    """Our heads with an encoder and listener of spaCy."""
    fix_random_seed(0)
    nlp = spacy.blank("en")
    listener: dict[str, Any] = {"@architectures": "spacy-transformers.TransformerListener.v1"}
    listener |= {"grad_factor": 1.0, "pooling": {"@layers": "reduce_mean.v1"}}
    if kind == "transformer":
        nlp.add_pipe("transformer", config={"model": {"name": encoder}})
    else:
        listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": WIDTH}
        embed = {"width": WIDTH, "depth": 1, "embed_size": 500, "window_size": 1}
        embed |= {"maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None}
        architecture = {"@architectures": "spacy.HashEmbedCNN.v2", **embed}
        nlp.add_pipe("tok2vec", config={"model": architecture})
    for head in heads:
        nlp.add_pipe(f"mtl_{head}", name=head, config={"model": {"tok2vec": listener}})
    nlp.initialize(lambda: make_examples(nlp))
    return nlp


def get_encoder_bytes(nlp: Language) -> bytes:
    name, pipe = nlp.pipeline[0]
    return encoder_weights(nlp) if name == "transformer" else pipe.model.to_bytes()  # type: ignore


@pytest.mark.parametrize("head", HEADS)
def test_unlabelled_docs_add_nothing(make_nlp, head):
    """Such a doc changes neither the loss nor the gradients of head and encoder."""
    runs = []
    for beside in (lambda nlp: [], make_unlabelled):
        nlp = make_nlp(head)
        before = numpy.frombuffer(encoder_weights(nlp), dtype="f")
        examples, sgd = make_head_examples(nlp, head) + beside(nlp), SGD(0.1)
        losses = [update(nlp, examples, sgd)[head] for _ in range(4)]
        learnt = numpy.frombuffer(encoder_weights(nlp), dtype="f") - before
        runs.append((losses, get_weights(nlp, head), learnt))
    for with_them, without in zip(*runs, strict=True):
        numpy.testing.assert_allclose(with_them, without, atol=1e-5)
    assert runs[0][0][0] > runs[0][0][-1] > 0
    assert numpy.abs(runs[0][2]).max() > 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_silent_head_stays_as_it_is(make_nlp, head):
    """Its weights stay byte-equal despite momentum, and its loss is reported as 0."""
    other = "ner" if head == "tagger" else "tagger"
    nlp = make_nlp(other, head)
    sgd = Adam(0.01)
    for _ in range(2):
        losses = update(nlp, make_examples(nlp), sgd)
        assert losses[head] > 0
    before, encoder = get_weights(nlp, head), get_encoder_bytes(nlp)
    losses = update(nlp, make_examples(nlp, other), sgd)
    assert losses[head] == 0.0
    assert losses[other] > 0
    assert get_weights(nlp, head).tobytes() == before.tobytes()
    assert get_encoder_bytes(nlp) != encoder


@pytest.mark.parametrize(
    "head, undo",
    [
        ("tagger", lambda doc: doc.from_array("TAG", numpy.zeros(len(doc), dtype="uint64"))),
        ("ner", lambda doc: (doc.set_ents([], default="missing"), doc.spans.clear())),
        ("textcat", lambda doc: doc.cats.clear()),
        ("textcat_multilabel", lambda doc: doc.cats.clear()),
    ],
)
def test_writes_only_its_own(make_nlp, head, undo):
    nlp = make_nlp(head)
    doc = nlp.get_pipe("transformer")(make_gold(nlp.vocab, 0, ()))
    before = doc.to_bytes(exclude=["user_data"])
    nlp.get_pipe(head)(doc)
    assert doc.to_bytes(exclude=["user_data"]) != before
    undo(doc)
    assert doc.to_bytes(exclude=["user_data"]) == before
    assert not doc.user_data  # the rows have been read


@pytest.mark.parametrize("kind", ["transformer", "tok2vec"])
def test_learns_behind_stock_encoders(encoder, kind):
    nlp = make_stock_encoder(kind, encoder, "tagger", "ner", "textcat")
    examples, sgd = make_examples(nlp), Adam(0.005)
    before = get_encoder_bytes(nlp)
    for _ in range(40):
        losses = update(nlp, examples, sgd)
    assert all(losses[head] < 0.1 for head in ("tagger", "ner", "textcat"))
    assert get_encoder_bytes(nlp) != before
    scores = nlp.evaluate(make_examples(nlp))
    assert (scores["tag_acc"], scores["ents_f"], scores["cats_score"]) == (1.0, 1.0, 1.0)
    *docs, empty = nlp.pipe([*TEXTS, ""])
    for i, doc in enumerate(docs):
        assert [token.tag_ for token in doc] == TAGS[i]
        assert [(ent.start, ent.end, ent.label_) for ent in doc.ents] == ENTS[i]
        assert max(doc.cats, key=doc.cats.__getitem__) == CATS[i]
    assert (len(empty), set(empty.cats.values())) == (0, {0.0})


@pytest.mark.parametrize("kind", ["transformer", "tok2vec"])
def test_silent_head_loses_no_gradient_behind_stock_encoders(encoder, kind):
    """With spaCy's encoder the last listener runs the backward, so it must always be called."""
    nlp = make_stock_encoder(kind, encoder, "tagger", "ner")
    sgd = Adam(0.01)
    update(nlp, make_examples(nlp), sgd)
    head, before = get_weights(nlp, "ner"), get_encoder_bytes(nlp)
    losses = update(nlp, make_examples(nlp, "tagger"), sgd)
    assert losses["ner"] == 0.0
    assert get_encoder_bytes(nlp) != before
    assert get_weights(nlp, "ner").tobytes() == head.tobytes()
