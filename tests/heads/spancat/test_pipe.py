from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import srsly
import torch
import torch.nn.functional as F
from conftest import SPANS, TEXTS, make_examples, make_gold
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.corpora.scope import mark
from spacy_mtl.heads.losses import sigmoid
from spacy_mtl.heads.spancat.pipe import limit_labels, make_truths
from spacy_mtl.heads.spancat.scoring import Hits, Scores
from spacy_mtl.training.calibration import calibrate
from spacy_mtl.training.thresholds import find_thresholds

Make = Callable[..., Language]
LABELS = sorted({label for spans in SPANS for _, _, label in spans})
WIDTH = 6  # of the longest span in SPANS
PLACE = tuple[int, int, str]


def make_doc(nlp: Language, n: int, spans: Iterable[PLACE] | None, key: str = "sc") -> Doc:
    """RETURNS: A doc of n words. Its group is missing if the spans are None."""
    doc = Doc(nlp.vocab, words=[f"t{i}" for i in range(n)])
    if spans is not None:
        doc.spans[key] = [Span(doc, *span) for span in spans]
    return doc


def make_example(nlp: Language, n: int, spans: Iterable[PLACE] | None) -> Example:
    gold = make_doc(nlp, n, spans)
    return Example(Doc(nlp.vocab, words=[t.text for t in gold]), gold)


def make_scores(n: int, scale: float = 1.0) -> Scores:
    random = numpy.random.default_rng(0)
    shapes = (n, 4), (n, 4), (5, len(LABELS), 5), (WIDTH, len(LABELS))
    return Scores(*((scale * random.normal(size=shape)).astype("f") for shape in shapes))


def read(doc: Doc, key: str = "sc") -> list[PLACE]:
    return [(span.start, span.end, span.label_) for span in doc.spans[key]]


def train(nlp: Language, examples: list[Example], steps: int = 60) -> float:
    sgd, losses = Adam(0.005), {}
    for _ in range(steps):
        losses = nlp.update(examples, sgd=sgd, losses={})
    return losses[nlp.pipe_names[-1]]


@pytest.fixture
def nlp(make_nlp: Make) -> Language:
    return make_nlp("spancat")


def test_learns_nested_spans_and_several_labels(nlp: Language) -> None:
    head: Any = nlp.get_pipe("spancat")
    assert head.labels == tuple(LABELS) and head.key == "sc"
    assert head.cfg["max_width"] == WIDTH
    assert train(nlp, make_examples(nlp)) < 0.15
    scores = nlp.evaluate(make_examples(nlp))
    assert [scores[f"spans_sc_{kind}"] for kind in "fpr"] == [1.0] * 3
    assert {label: own["f"] for label, own in scores["spans_sc_per_type"].items()} == dict.fromkeys(
        LABELS, 1.0
    )
    for i, doc in enumerate(nlp.pipe(TEXTS)):
        assert sorted(read(doc)) == sorted(SPANS[i])
        probabilities = doc.spans["sc"].attrs["scores"]
        assert probabilities.dtype == "float32" and len(probabilities) == len(SPANS[i])
        assert ((probabilities >= 0.5) & (probabilities <= 1)).all()


def test_loss_is_a_sum_over_candidates_and_a_mean_over_tokens(nlp: Language) -> None:
    gold = [[(0, 2, LABELS[0]), (0, 2, LABELS[1]), (1, 2, LABELS[0]), (0, 9, LABELS[2])], None, []]
    examples = [make_example(nlp, n, spans) for n, spans in zip((9, 4, 3), gold, strict=True)]
    scores = make_scores(16)
    loss, gradient, n = nlp.get_pipe("spancat").loss(examples, scores)  # type: ignore[attr-defined]
    leaves = [torch.tensor(array, requires_grad=True) for array in scores]
    starts, ends, weights, bias = leaves
    ones = torch.ones(16, 1)
    pairs = torch.einsum(
        "ia,alb,jb->ijl", torch.cat([starts, ones], 1), weights, torch.cat([ends, ones], 1)
    )
    total = torch.zeros(())
    for first, length, spans in ((0, 9, gold[0]), (13, 3, gold[2])):
        for start in range(length):
            for end in range(start, min(length, start + WIDTH)):
                found = [label for s, e, label in spans or () if (s, e) == (start, end + 1)]
                truth = torch.tensor([float(label in found) for label in LABELS])
                logits = pairs[first + start, first + end] + bias[end - start]
                total = total + F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    expected = total / 12
    expected.backward()
    assert n == 12
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for found, leaf in zip(gradient, leaves, strict=True):
        numpy.testing.assert_allclose(found, leaf.grad, atol=2e-5)


def test_starts_at_the_frequencies_of_widths(make_nlp: Make) -> None:
    nlp = make_nlp("spancat", initialize=False)
    spans = [(i, i + 1, "A") for i in range(0, 100, 2)] + [(i, i + 3, "B") for i in range(10)]
    golds = (100, spans), (100, []), (9, None)
    examples = [make_example(nlp, n, gold) for n, gold in golds]
    nlp.initialize(lambda: examples)
    head: Any = nlp.get_pipe("spancat")
    assert head.counts["A 1"] == [50, 150] and head.counts["B 3"] == [10, 186]
    assert head.counts["A 3"] == [0, 196] and len(head.counts) == 6
    bias = head.model.get_ref("output_layer").get_param("b").reshape(3, 2)
    expected = [[51 / 202, 1 / 202], [1 / 200, 1 / 200], [1 / 198, 11 / 198]]
    numpy.testing.assert_allclose(sigmoid(bias), expected, rtol=1e-4)
    loss = nlp.update(examples, losses={})["spancat"]
    p = numpy.clip(numpy.array([[50, 0], [0, 0], [0, 10]]) / [[200], [198], [196]], 1e-9, 1)
    entropy = -(p * numpy.log(p) + (1 - p) * numpy.log(1 - p))
    assert loss == pytest.approx((entropy.sum(axis=1) @ [200, 198, 196]) / 200, rel=0.03)


def test_max_width(make_nlp: Make, tmp_path: Path) -> None:
    """Longer gold spans are counted in a warning, and not predicted."""
    nlp = make_nlp("spancat", initialize=False, config={"spancat": {"max_width": 2}})
    with pytest.warns(UserWarning, match=r"W124.*2 of 10 .*max_width = 2.*6 tokens"):
        nlp.initialize(lambda: make_examples(nlp))
    train(nlp, make_examples(nlp))
    docs = list(nlp.pipe(TEXTS))
    for doc, spans in zip(docs, SPANS, strict=True):
        assert sorted(read(doc)) == sorted(span for span in spans if span[1] - span[0] <= 2)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert [read(doc) for doc in loaded.pipe(TEXTS)] == [read(doc) for doc in docs]
    with pytest.warns(UserWarning, match=r"W125.*at most 2 tokens"):
        loaded.update(make_examples(loaded), losses={})


def test_width_from_files_of_labels(make_nlp: Make, nlp: Language, tmp_path: Path) -> None:
    data = nlp.get_pipe("spancat").label_data  # type: ignore[attr-defined]
    assert data["max_width"] == WIDTH
    for width, error in (("x", "M058"), (0, "M058"), (3, "M170")):
        srsly.write_json(tmp_path / "labels.json", {**data, "max_width": width})
        other = make_nlp("spancat", initialize=False)
        reader = {"@readers": "spacy.read_labels.v1", "path": str(tmp_path / "labels.json")}
        other.config["initialize"]["components"]["spancat"] = {"labels": reader}
        with pytest.raises(ValueError, match=error):
            other.initialize(lambda: make_examples(other)[3:])  # noqa: B023


def test_no_labels(make_nlp: Make) -> None:
    nlp = make_nlp("spancat", initialize=False)
    examples = [make_example(nlp, 3, []), make_example(nlp, 3, None)]
    with pytest.raises(ValueError, match="E143"):
        nlp.initialize(lambda: examples)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"threshold": 2.0}, "threshold"),
        ({"max_width": 0}, "max_width"),
        ({"max_positive": 0}, "max_positive"),
        ({"model": {"hidden_width": 0}}, "hidden_width"),
    ],
)
def test_wrong_settings(make_nlp: Make, config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=f"M058.*{expected}"):
        make_nlp("spancat", initialize=False, config={"spancat": config})


def test_odd_docs(nlp: Language) -> None:
    """No token, one token, white space, control characters, labels and widths never seen."""
    texts = ["", "a", " ", "\n\n \t", "\x00 \u200d", TEXTS[0] * 40]
    for alone, piped in zip(map(nlp, texts), nlp.pipe(texts), strict=True):
        assert read(alone) == read(piped)
    head: Any = nlp.get_pipe("spancat")
    assert [len(found.places) for found in head.predict([Doc(nlp.vocab)] * 2)] == [0, 0]
    odd = [make_example(nlp, 9, [(0, 9, LABELS[0]), (1, 2, "UNHEARD"), (3, 3, LABELS[0])])]
    odd += [make_example(nlp, 0, []), make_example(nlp, 1, [(0, 1, LABELS[0])])]
    assert numpy.isfinite(nlp.update(odd, losses={})["spancat"])


def test_spans_that_do_not_align(nlp: Language) -> None:
    """A span that begins inside a predicted token is no target."""
    gold = make_doc(nlp, 4, [(0, 2, LABELS[0]), (2, 4, LABELS[0]), (1, 3, LABELS[1])])
    predicted = Doc(nlp.vocab, words=["t", "0", "t1", "t2t3"], spaces=[False, True, True, False])
    gold = Doc(nlp.vocab, words=["t0", "t1", "t2", "t3"], spaces=[True, True, False, False])
    gold.spans["sc"] = [Span(gold, 0, 2, "A"), Span(gold, 2, 4, "A"), Span(gold, 1, 3, "A")]
    head: Any = nlp.get_pipe("spancat")
    assert head.read_places(Example(predicted, gold)) == [(0, 3, "A"), (3, 4, "A")]


def test_group_is_replaced(nlp: Language) -> None:
    doc = make_gold(nlp.vocab, 0, ["spancat"])
    doc.spans["sc"] = [Span(doc, 2, 3, "OLD")]
    doc.spans["other"] = [Span(doc, 2, 3, "OLD")]
    assert "OLD" not in {span.label_ for span in nlp(doc).spans["sc"]}
    assert read(doc, "other") == [(2, 3, "OLD")]


@pytest.mark.parametrize("n", [1, 2, None])
def test_max_positive(make_nlp: Make, n: int | None) -> None:
    config = {"threshold": 0.0, "max_positive": n, "max_width": WIDTH}
    doc = make_nlp("spancat", config={"spancat": config})(TEXTS[0])
    n_spans = sum(min(i + 1, WIDTH) for i in range(len(doc)))
    assert len(doc.spans["sc"]) == n_spans * (n or len(LABELS))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(-9, 9)), max_size=30))
def test_labels_with_the_highest_scores(spans: list[tuple[int, int, float]]) -> None:
    last, width = (numpy.array([span[i] for span in spans], dtype="int64") for i in (0, 1))
    score, label = numpy.array([span[2] for span in spans]), numpy.arange(len(spans))
    found = limit_labels(Hits(last, width, label, score), 2)
    for place in {span[:2] for span in spans}:
        own = sorted((s for *p, s in spans if tuple(p) == place), reverse=True)
        is_own = (found.last == place[0]) & (found.width == place[1])
        assert sorted(found.score[is_own].tolist(), reverse=True) == own[:2]


def test_truths() -> None:
    is_wanted = numpy.array([[True, False], [True, True]])
    cells = numpy.array([[1, 1, 2], [0, 0, 0]]).T
    expected = [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert make_truths(is_wanted, cells, 3).tolist() == expected


def test_label_smoothing_and_weights(make_nlp: Make) -> None:
    gold = [(0, 2, LABELS[0]), (1, 4, LABELS[1])]
    losses = {}
    for name, settings in {
        "plain": {},
        "smooth": {"label_smoothing": 0.1},
        "weights": {"loss": {"@misc": "spacy-mtl.UnitLoss.v1", "class_weights": {LABELS[0]: 3.0}}},
        "focal": {"loss": {"@misc": "spacy-mtl.UnitLoss.v1", "gamma": 2.0}},
    }.items():
        nlp = make_nlp("spancat", config={"spancat": settings})
        losses[name] = nlp.get_pipe("spancat").get_loss(  # type: ignore[attr-defined]
            [make_example(nlp, 6, gold)], make_scores(6)
        )[0]
    assert losses["focal"] < losses["plain"] < losses["smooth"]
    assert losses["weights"] != losses["plain"]


# Other groups, and several heads


def test_another_key(make_nlp: Make) -> None:
    nlp = make_nlp("spancat", initialize=False, config={"spancat": {"spans_key": "mentions"}})
    examples = make_examples(nlp)
    for eg in examples:
        eg.reference.spans["mentions"] = eg.reference.spans.pop("sc")
    nlp.initialize(lambda: examples)
    train(nlp, examples)
    scores = nlp.evaluate(examples)
    assert scores["spans_mentions_f"] == 1.0 and "spans_sc_f" not in scores
    head: Any = nlp.get_pipe("spancat")
    assert head.layer.score_key == "spans_mentions_f"
    assert not head.has_labels(make_gold(nlp.vocab, 0, ["spancat"]))


def test_heads_with_different_keys_are_no_siblings(make_nlp: Make) -> None:
    nlp = make_nlp(
        "one=mtl_spancat", "two=mtl_spancat", initialize=False, config={"two": {"spans_key": "x"}}
    )
    examples = make_examples(nlp)
    for eg in examples:
        eg.reference.spans["x"] = [Span(eg.reference, 1, 2, "X")]
    nlp.initialize(lambda: examples)
    assert nlp.get_pipe("two").labels == ("X",)  # type: ignore[attr-defined]
    assert not nlp.get_pipe("one").siblings  # type: ignore[attr-defined]
    train(nlp, examples, 80)
    scores = nlp.evaluate(examples)
    assert scores["spans_sc_f"] == scores["spans_x_f"] == 1.0
    doc = nlp(TEXTS[0])
    assert read(doc, "x") == [(1, 2, "X")] and sorted(read(doc)) == sorted(SPANS[0])


def test_siblings_share_a_group(make_nlp: Make) -> None:
    nlp = make_nlp("one=mtl_spancat", "two=mtl_spancat", initialize=False)
    own = {"one": {"PERSON", "PLACE"}, "two": {*LABELS} - {"PERSON", "PLACE"}}
    examples = []
    for name, labels in own.items():
        for eg in make_examples(nlp):
            doc = eg.reference
            doc.spans["sc"] = [span for span in doc.spans["sc"] if span.label_ in labels]
            mark(doc, [name])
            examples.append(eg)
    nlp.initialize(lambda: examples)
    for name, labels in own.items():
        assert set(nlp.get_pipe(name).labels) == labels  # type: ignore[attr-defined]
    train(nlp, examples, 80)
    for doc, spans in zip(nlp.pipe(TEXTS), SPANS, strict=True):
        assert sorted(read(doc)) == sorted(spans)
        assert len(doc.spans["sc"].attrs["scores"]) == len(spans)
        assert read(nlp(doc)) == read(doc)
    scores = nlp.evaluate(examples)
    assert scores["one_spans_sc_f"] == scores["two_spans_sc_f"] == scores["spans_sc_f"] == 1.0


# Thresholds and calibration


def randomize(nlp: Language) -> None:
    output: Any = nlp.get_pipe("spancat").model.get_ref("output_layer")  # type: ignore[attr-defined]
    shape = output.get_param("W").shape
    output.set_param("W", numpy.random.default_rng(3).normal(size=shape).astype("f"))


def test_best_threshold(nlp: Language) -> None:
    randomize(nlp)
    examples = make_examples(nlp)
    found = find_thresholds(nlp, examples, "spancat")
    head: Any = nlp.get_pipe("spancat")
    assert found.threshold[0] == head.cfg["threshold"] == 0.5
    scores = {}
    for threshold in (*numpy.linspace(0.02, 0.98, 49).tolist(), *found.threshold):
        head.cfg["threshold"] = threshold
        scores[threshold] = nlp.evaluate(make_examples(nlp))["spans_sc_f"]
    assert found.score == pytest.approx([scores[t] for t in found.threshold])
    assert scores[found.threshold[1]] == max(scores.values())
    with pytest.raises(ValueError, match=r"M113.*spans_sc_f"):
        find_thresholds(nlp, examples, "spancat", "cats_macro_f")


def test_calibration_changes_no_decision(nlp: Language) -> None:
    randomize(nlp)
    nlp.get_pipe("spancat").cfg["threshold"] = 0.3  # type: ignore[attr-defined]
    before = [read(doc) for doc in nlp.pipe(TEXTS)]
    found = calibrate(nlp, make_examples(nlp))["spancat"]
    assert found.units == sum(len(text.split()) for text in TEXTS)
    assert found.temperature[1] > 1 and found.nll[1] < found.nll[0]
    assert [read(doc) for doc in nlp.pipe(TEXTS)] == before
    assert nlp.get_pipe("spancat").cfg["threshold"] > 0.3  # type: ignore[attr-defined]


def test_likelihood(nlp: Language) -> None:
    """At the temperature 1 it is the loss, and its slope is that of the loss."""
    head: Any = nlp.get_pipe("spancat")
    examples = [make_example(nlp, 9, [(0, 2, LABELS[0])]), make_example(nlp, 4, None)]
    scores = make_scores(13, 0.5)
    loss, _, n = head.loss(examples, scores)
    nll = head.make_nll(examples, scores)
    assert nll(1.0)[::2] == (pytest.approx(loss, rel=1e-4), n)
    step = 1e-3
    slope = (nll(1 / (1 + step))[0] - nll(1 / (1 - step))[0]) / (2 * step)
    assert nll(1.0)[1] == pytest.approx(slope, rel=1e-4)
