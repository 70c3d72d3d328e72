import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy
import pytest
import spacy
import srsly
import torch
import torch.nn.functional as F
from conftest import CATS, TEXTS, make_examples, make_gold
from spacy.cli.evaluate import evaluate
from spacy.language import Language
from spacy.pipeline.textcat import TextCategorizer, textcat_score
from spacy.pipeline.textcat_multilabel import MultiLabel_TextCategorizer
from spacy.tokens import DocBin
from spacy.training import Example
from thinc.api import Adam, Model, Ragged

from spacy_mtl.heads.textcat.model import LabelAttention, build_textcat_head_v1
from spacy_mtl.heads.textcat.scorer import make_textcat_scorer, score_textcat

POOLINGS = ["mean", "max", "first", "attention", "label_attention"]
LABELS = ["a", "b", "c", "d"]


def make_example(nlp: Language, cats: dict[str, float], text: str = "some words") -> Example:
    gold = nlp.make_doc(text)
    gold.cats = cats
    return Example(nlp.make_doc(text), gold)


def make_scores(n_docs: int) -> numpy.ndarray:
    return numpy.random.default_rng(0).normal(size=(n_docs, len(LABELS))).astype("f")


@pytest.fixture
def make_abcd(make_nlp: Callable[..., Language]) -> Callable[..., Language]:
    """A function that makes a pipeline with the categories a, b, c, d."""

    def make(name: str, **config: Any) -> Language:
        nlp = make_nlp(name, initialize=False, config={name: config})
        nlp.config["initialize"]["components"][name] = {"labels": LABELS}
        nlp.initialize(lambda: [make_example(nlp, {"a": 1.0, "z": 0.0})])
        return nlp

    return make


@pytest.mark.parametrize("pooling", POOLINGS)
def test_learns(make_nlp, pooling):
    nlp = make_nlp("textcat", config={"textcat": {"model": {"pooling": pooling}}})
    assert nlp.get_pipe("textcat").labels == tuple(CATS)
    examples, sgd = make_examples(nlp, "textcat"), Adam(0.005)
    for _ in range(40):
        losses = nlp.update(examples, sgd=sgd, losses={})
    assert losses["textcat"] < 0.1
    assert nlp.evaluate(make_examples(nlp, "textcat"))["cats_score"] == 1.0
    for doc, cat in zip(nlp.pipe(TEXTS), CATS, strict=True):
        assert max(doc.cats, key=doc.cats.__getitem__) == cat
        assert sum(doc.cats.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("factories", [("", ""), ("", "_multilabel"), ("_multilabel", "")])
def test_several_heads_for_categories(make_nlp, factories, together, tmp_path):
    """Each has labels of its own, in the same docs or in others, and learns, scores and goes on
    learning after it was saved.
    """
    names = ("topic", "mood")
    pipes = [f"{name}=mtl_textcat{kind}" for name, kind in zip(names, factories, strict=True)]
    nlp = make_nlp(*pipes, initialize=False)
    moods = ["pos", "neg"]
    for name, labels in zip(names, (CATS, moods), strict=True):
        nlp.config["initialize"]["components"][name] = {"labels": labels}

    def get_examples() -> list[Example]:
        topics = [{cat: float(cat == own) for cat in CATS} for own in CATS]
        mood = [{"pos": i % 2, "neg": 1.0 - i % 2} for i in range(len(CATS))]
        if together:
            gold = [one | other for one, other in zip(topics, mood, strict=True)]
            return [make_example(nlp, cats, text) for cats, text in zip(gold, TEXTS, strict=True)]
        pairs = [*zip(topics, TEXTS, strict=True), *zip(mood, TEXTS, strict=True)]
        return [make_example(nlp, cats, text) for cats, text in pairs]

    nlp.initialize(get_examples)
    for _ in range(60):
        losses = nlp.update(get_examples(), sgd=Adam(0.005), losses={})
    assert losses["topic"] < 0.1 > losses["mood"]
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    found = loaded.update(get_examples(), sgd=False, losses={})
    assert found["topic"] < 0.1 > found["mood"]
    examples = get_examples()
    for example, doc in zip(examples, nlp.pipe([eg.text for eg in examples]), strict=True):
        example.predicted = doc
    for name in names:
        assert nlp.get_pipe(name).score(examples)["cats_score"] == 1.0
    new = make_example(nlp, {"pos": 1.0, "neg": 0.0, "new": 0.0})
    with pytest.raises(ValueError, match=r"M071.*\['new'\]"):
        loaded.update([new], sgd=False)


def test_categories_of_one_head_exclude_each_other(make_abcd):
    nlp = make_abcd("textcat")
    nlp.update([make_example(nlp, {"a": 1.0, "z": 1.0, "y": 0.5})], sgd=False)
    for cats, message in [
        ({"a": 1.0, "b": 1.0, "z": 0.0}, r"E895.*'b': 1.0\}"),
        ({"a": 0.5}, "E851"),
    ]:
        with pytest.raises(ValueError, match=message):
            nlp.update([make_example(nlp, cats)], sgd=False)


def test_learns_several_categories_per_doc(make_nlp):
    nlp = make_nlp("textcat_multilabel", initialize=False)

    def get_examples() -> list[Example]:
        examples = make_examples(nlp, "textcat")
        for i, eg in enumerate(examples):
            eg.reference.cats["long"] = float(len(eg.reference) > 8)
            del eg.reference.cats[CATS[i - 1]]  # one is not known
        return examples

    nlp.initialize(get_examples)
    examples, sgd = get_examples(), Adam(0.005)
    for _ in range(60):
        losses = nlp.update(examples, sgd=sgd, losses={})
    assert losses["textcat_multilabel"] < 0.1
    scores = nlp.evaluate(get_examples())
    assert (scores["cats_score"], scores["cats_micro_f"]) == (1.0, 1.0)
    for doc, eg in zip(nlp.pipe(TEXTS), get_examples(), strict=True):
        known = eg.reference.cats
        assert {cat: float(doc.cats[cat] > 0.5) for cat in known} == known


def test_they_are_spacys(make_nlp):
    nlp = make_nlp("textcat", "textcat_multilabel", initialize=False)
    exclusive, multilabel = nlp.get_pipe("textcat"), nlp.get_pipe("textcat_multilabel")
    assert isinstance(exclusive, TextCategorizer)
    assert not isinstance(exclusive, MultiLabel_TextCategorizer)
    assert isinstance(multilabel, MultiLabel_TextCategorizer)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_exclusive_loss_is_the_mean_over_labelled_docs(make_abcd, smoothing):
    """Given by its category alone, or with all others ruled out; some ruled out leave the rest."""
    nlp = make_abcd("textcat", label_smoothing=smoothing)
    cats: list[dict[str, float]] = [
        {"b": 1.0},
        {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0},
        {},
        {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0},
        {"z": 1.0},
        {"d": 1.0, "a": 0.0},
    ]
    scores = make_scores(6)
    examples = [make_example(nlp, gold) for gold in cats]
    loss, gradient = nlp.get_pipe("textcat").get_loss(examples, scores)
    labelled = [0, 1, 5]
    leaf = torch.tensor(scores[labelled], requires_grad=True)
    expected = F.cross_entropy(leaf, torch.tensor([1, 2, 3]), label_smoothing=smoothing)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    numpy.testing.assert_allclose(gradient[labelled], leaf.grad, atol=1e-6)
    assert not gradient[[2, 3, 4]].any()


def test_exclusive_loss_of_what_is_only_ruled_out(make_abcd):
    nlp = make_abcd("textcat")
    scores = make_scores(1)
    loss, gradient = nlp.get_pipe("textcat").get_loss(
        [make_example(nlp, {"a": 0.0, "c": 0.0})], scores
    )
    leaf = torch.tensor(scores, requires_grad=True)
    expected = -leaf.softmax(1)[:, [1, 3]].sum().log()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    numpy.testing.assert_allclose(gradient, leaf.grad, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multilabel_loss_is_the_mean_over_known_labels(make_abcd, smoothing):
    nlp = make_abcd("textcat_multilabel", label_smoothing=smoothing)
    cats = [{"a": 1.0, "c": 1.0, "d": 0.0}, {}, {"b": 0.0, "z": 1.0}]
    scores = make_scores(3)
    examples = [make_example(nlp, gold) for gold in cats]
    loss, gradient = nlp.get_pipe("textcat_multilabel").get_loss(examples, scores)
    known = (torch.tensor([0, 0, 0, 2]), torch.tensor([0, 2, 3, 1]))
    targets = (1 - smoothing) * torch.tensor([1.0, 1, 0, 0]) + smoothing / 2
    leaf = torch.tensor(scores, requires_grad=True)
    expected = F.binary_cross_entropy_with_logits(leaf[known], targets)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    numpy.testing.assert_allclose(gradient, leaf.grad, atol=1e-6)
    assert numpy.count_nonzero(gradient) == 4


@pytest.mark.parametrize("name", ["textcat", "textcat_multilabel"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_docs_without_tokens(make_abcd, name, pooling):
    """They get zeros and cost nothing, and the others get what they get without them."""
    nlp = make_abcd(name, model={"pooling": pooling})
    pipe = nlp.get_pipe(name)
    output = pipe.model.get_ref("output_layer")
    rng = numpy.random.default_rng(0)
    output.set_param("W", rng.normal(size=output.get_param("W").shape).astype("f"))

    first, empty, second, last = nlp.pipe([TEXTS[0], "", TEXTS[1], ""])
    assert empty.cats == last.cats == dict.fromkeys(LABELS, 0.0)
    for doc in (first, second):
        assert doc.cats == pytest.approx(nlp(doc.text).cats, abs=1e-6)
        assert min(doc.cats.values()) > 0
    assert nlp("").cats == dict.fromkeys(LABELS, 0.0)

    examples = [make_example(nlp, {"a": 1.0}, text) for text in (TEXTS[0], TEXTS[1])]
    empties = [make_example(nlp, {"b": 1.0}, "") for _ in range(2)]
    loss = nlp.update(examples, sgd=False, losses={})[name]
    beside = nlp.update([empties[0], *examples, empties[1]], sgd=False, losses={})[name]
    assert beside == pytest.approx(loss, rel=1e-5)
    assert nlp.update(empties, sgd=False, losses={})[name] == 0.0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(make_nlp, pooling):
    """Mean, maximum, first row, and means that are weighted by a softmax over the tokens, one for
    all labels or one for each.
    """
    nlp = make_nlp("textcat", config={"textcat": {"model": {"pooling": pooling}}})
    output = nlp.get_pipe("textcat").model.get_ref("output_layer")
    output.set_param("W", numpy.eye(4, output.get_dim("nI"), dtype="f"))
    doc = nlp.get_pipe("transformer")(make_gold(nlp.vocab, 0, ()))
    rows = doc._.trf_data.rows.copy()
    if pooling.endswith("attention"):
        (layer,) = (n for n in nlp.get_pipe("textcat").model.walk() if n.has_param("Q"))
        queries = numpy.random.default_rng(0).normal(size=layer.get_param("Q").shape).astype("f")
        layer.set_param("Q", queries)
        means = torch.tensor(queries @ rows.T).softmax(-1).numpy() @ rows
        expected = means.diagonal() if pooling == "label_attention" else means
    else:
        expected = {"mean": rows.mean(0), "max": rows.max(0), "first": rows[0]}[pooling]
    p = torch.tensor(expected[:4]).softmax(0).tolist()
    assert list(nlp.get_pipe("textcat")(doc).cats.values()) == pytest.approx(p, rel=1e-5)


def make_label_attention(n_labels: int = 3, width: int = 5) -> Model[Ragged, Any]:
    rng = numpy.random.default_rng(1)
    layer = LabelAttention(n_labels)
    layer.initialize(X=make_ragged(width, 2))
    for name, shape in [("Q", (n_labels, width)), ("W", (n_labels, width)), ("b", (n_labels,))]:
        layer.set_param(name, rng.normal(size=shape).astype("f"))
    return layer


def make_ragged(width: int, *lengths: int, scale: float = 1.0) -> Ragged:
    rows = scale * numpy.random.default_rng(0).normal(size=(sum(lengths), width))
    return Ragged(rows.astype("f"), numpy.array(lengths, dtype="i"))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 100.0])  # where a softmax overflows
def test_label_attention_is_torchs(scale):
    """Doc by doc, label by label, as in the paper: an attention, a vector, a score."""
    layer = make_label_attention()
    docs = make_ragged(5, 4, 0, 1, 7, 0, scale=scale)
    found, backprop = layer(docs, is_train=True)
    rows = torch.tensor(docs.data, requires_grad=True)
    Q, W, b = (torch.tensor(layer.get_param(name), requires_grad=True) for name in ("Q", "W", "b"))
    expected = []
    for doc in rows.split([4, 0, 1, 7, 0]):
        attention = (doc @ Q.T).softmax(0)
        vectors = attention.T @ doc  # zeros for an empty doc
        expected.append((vectors * W).sum(1) + b)
    output = torch.stack(expected)
    numpy.testing.assert_allclose(found, output.detach(), rtol=1e-5, atol=1e-4 * scale)
    d_output = numpy.random.default_rng(2).normal(size=(5, 3)).astype("f")
    (output * torch.tensor(d_output)).sum().backward()
    d_docs = backprop(d_output)
    assert d_docs.lengths.tolist() == docs.lengths.tolist()
    for array, leaf in [
        (d_docs.data, rows),
        *((layer.get_grad(n), leaf) for n, leaf in [("Q", Q), ("W", W), ("b", b)]),
    ]:
        assert leaf.grad is not None
        numpy.testing.assert_allclose(array, leaf.grad, rtol=1e-4, atol=1e-5 * scale**2)


def test_label_attention_batched_is_unbatched():
    layer = make_label_attention()
    docs = make_ragged(5, 4, 0, 1, 300, 2)
    starts = numpy.cumsum([0, *docs.lengths])
    alone = [
        layer.predict(Ragged(docs.data[start:end], docs.lengths[i : i + 1]))[0]
        for i, (start, end) in enumerate(pairwise(starts))
    ]
    numpy.testing.assert_allclose(layer.predict(docs), alone, rtol=1e-5, atol=1e-6)


def test_label_attention_begins_as_the_mean(make_nlp):
    """The first gradient is that of the mean, and the second goes into the attention too."""
    nlps = [make_nlp("textcat", config={"textcat": {"model": {"pooling": p}}}) for p in POOLINGS]
    models = {p: nlp.get_pipe("textcat").model for p, nlp in zip(POOLINGS, nlps, strict=True)}
    gradients = {}
    for pooling, nlp in zip(POOLINGS, nlps, strict=True):
        nlp.update(make_examples(nlp, "textcat"), sgd=False, drop=0.0)
        gradients[pooling] = models[pooling].get_ref("output_layer").get_grad("W").copy()
    mean, own = gradients["mean"], gradients["label_attention"]
    assert mean.any() and own == pytest.approx(mean, rel=1e-4, abs=1e-6)
    layer = models["label_attention"].get_ref("output_layer")
    assert not layer.get_grad("Q").any()
    for _ in range(2):
        nlps[-1].update(make_examples(nlps[-1], "textcat"), sgd=Adam(0.01), drop=0.0)
    assert layer.get_param("Q").any(axis=1).all()


def test_label_attention_of_a_long_doc():
    """No memory in proportion to the square of the tokens: that would be 40 GB."""
    layer = make_label_attention(20, 8)
    docs = make_ragged(8, 100_000, 3)
    tracemalloc.start()
    found, backprop = layer(docs, is_train=True)
    backprop(numpy.ones_like(found))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 100_000 * 20 * 4
    assert numpy.isfinite(found).all()


@pytest.mark.parametrize("name", ["textcat", "textcat_multilabel"])
def test_label_attention_is_saved(make_abcd, name, tmp_path):
    nlp = make_abcd(name, model={"pooling": "label_attention"})
    layer = nlp.get_pipe(name).model.get_ref("output_layer")
    assert (layer.get_dim("nO"), layer.get_dim("nI")) == (4, 32)
    examples, sgd = [make_example(nlp, {"a": 1.0}, TEXTS[0])], Adam(0.01)
    for _ in range(3):
        nlp.update(examples, sgd=sgd)
    expected = nlp(TEXTS[0]).cats
    assert max(expected.values()) > min(expected.values())
    nlp.to_disk(tmp_path)
    from_bytes = spacy.blank("en", config=nlp.config).from_bytes(nlp.to_bytes())
    for loaded in (spacy.load(tmp_path), from_bytes):
        assert loaded(TEXTS[0]).cats == expected


def test_label_attention_of_another_number_of_outputs(make_abcd):
    with pytest.raises(ValueError, match=r"M035.*5 outputs, but 4"):
        make_abcd("textcat", model={"pooling": "label_attention", "nO": 5})


def test_unknown_pooling():
    known = "'mean', 'max', 'first', 'attention', 'label_attention'"
    with pytest.raises(ValueError, match=f"M058.*'sum'.*{known}"):
        build_textcat_head_v1(Model("rows", lambda *_: None), pooling="sum")  # type: ignore


def test_two_exclusive_categories(make_abcd):
    nlp = make_abcd("textcat")
    with pytest.raises(ValueError, match="E895"):
        nlp.update([make_example(nlp, {"a": 1.0, "b": 1.0})])


def make_scored(nlp: Language, predicted: str, cats: dict[str, float]) -> Example:
    eg = make_example(nlp, cats)
    eg.predicted.cats = {label: 0.9 if label == predicted else 0.1 for label in LABELS}
    return eg


def test_scorer_leaves_out_docs_without_gold(make_abcd):
    """spaCy's own counts their predictions as wrong."""
    nlp = make_abcd("textcat")
    labelled = [
        make_scored(nlp, "a", {"a": 1.0}),
        make_scored(nlp, "b", {label: float(label == "b") for label in LABELS}),
        make_scored(nlp, "a", {"b": 1.0}),
    ]
    unlabelled = [
        make_scored(nlp, "a", {}),
        make_scored(nlp, "b", dict.fromkeys(LABELS, 0.0)),
        make_scored(nlp, "c", {"a": 0.0}),
    ]
    ours = score_textcat(labelled + unlabelled, labels=LABELS)
    assert ours == textcat_score(labelled, labels=LABELS)
    assert ours["cats_micro_p"] == ours["cats_micro_r"] == pytest.approx(2 / 3)
    stock = textcat_score(labelled + unlabelled, labels=LABELS)
    assert stock["cats_micro_p"] == pytest.approx(2 / 6)

    pipe = nlp.get_pipe("textcat")
    assert pipe.scorer is score_textcat is make_textcat_scorer()
    assert pipe.score(labelled + unlabelled) == ours


def test_scorer_without_any_gold(make_abcd):
    nlp = make_abcd("textcat")
    scores = score_textcat([make_scored(nlp, "a", {})], labels=LABELS)
    assert set(scores) == set(textcat_score([], labels=LABELS))
    assert scores.pop("cats_score_desc") == "macro F"
    assert set(scores.values()) == {None}
    assert nlp.evaluate([make_example(nlp, {})])["cats_score"] is None


def test_command_evaluate_without_any_gold(make_abcd, tmp_path):
    nlp = make_abcd("textcat")
    nlp.to_disk(tmp_path / "model")
    DocBin(docs=[nlp.make_doc(TEXTS[0])]).to_disk(tmp_path / "dev.spacy")
    evaluate(str(tmp_path / "model"), tmp_path / "dev.spacy", tmp_path / "scores.json")
    scores = srsly.read_json(tmp_path / "scores.json")
    assert scores["cats_score"] is None and scores["token_acc"] == 1.0


def test_labels_from_initialize(make_abcd):
    for name in ("textcat", "textcat_multilabel"):
        nlp = make_abcd(name)
        assert nlp.get_pipe(name).labels == tuple(LABELS)
        assert list(nlp("some words").cats) == LABELS
        assert nlp.update([make_example(nlp, {"z": 1.0})], losses={})[name] == 0.0
