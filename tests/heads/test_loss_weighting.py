"""Hard examples and rare classes: the loss of units, alone and through the heads."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import CATS, make_examples
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import load_config, load_model_from_config
from thinc.api import NumpyOps, compounding

from spacy_mtl.heads.loss_weighting import create_unit_loss_v1
from spacy_mtl.heads.losses import ExampleWeights, binary_cross_entropy, cross_entropy

HEADS = ["tagger", "ner", "textcat", "textcat_multilabel"]

WEIGHTS = numpy.array([1.0, 3.0, 0.5, 0.0], dtype="f")
ONES = numpy.ones(4, dtype="f")
WEIGHTINGS = [
    ExampleWeights(gamma, keep, only_wrong, weights)
    for gamma, keep, only_wrong, weights in product(
        [0.0, 0.5, 2.0], [1.0, 0.4], [False, True], [ONES, WEIGHTS]
    )
]
EVERYTHING = {"gamma": 2.0, "keep": 0.5, "only_wrong": True, "class_weights": "balanced"}


def make_units(n: int = 12) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Scores in float64, and which labels are allowed: one, some, none or all."""
    rng = numpy.random.default_rng(3)
    allowed = numpy.eye(4, dtype=bool)[rng.integers(4, size=n)]
    allowed[:3] = [[True, True, False, False], [True, True, True, False], [False, True, True, True]]
    allowed[3:5] = [[True] * 4, [False] * 4]
    return rng.normal(size=(n, 4)) * 2, allowed


def get_expected(
    weighting: ExampleWeights,
    losses: torch.Tensor,
    p: torch.Tensor,
    is_right: torch.Tensor,
    weights: Any,
) -> tuple[torch.Tensor | None, int]:
    """RETURNS (Tuple[Optional[Tensor], int]): The mean as it is said to be, unit by unit."""
    left = [
        i
        for i in range(len(losses))
        if weights[i] > 0 and not (weighting.only_wrong and is_right[i])
    ]
    n = max(round(weighting.keep * len(left)), min(1, len(left)))
    kept = sorted(left, key=lambda i: -losses[i].item())[:n]
    if not kept:
        return None, 0
    total = sum(weights[i] * (1 - p[i]) ** weighting.gamma * losses[i] for i in kept)
    return total / sum(weights[i] for i in kept), n


def assert_exact(
    result: tuple[float, Any, int], leaf: torch.Tensor, expected: tuple[torch.Tensor | None, int]
) -> None:
    value, n = expected
    assert result[2] == n
    if value is None:
        assert result[0] == 0.0 and not result[1].any()
    else:
        value.backward()
        assert leaf.grad is not None
        assert result[0] == pytest.approx(value.item(), rel=1e-6)
        numpy.testing.assert_allclose(result[1], leaf.grad.numpy(), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_cross_entropy(weighting, smoothing):
    logits, allowed = make_units()
    rows = numpy.flatnonzero(allowed.any(axis=1) & ~allowed.all(axis=1))
    leaf = torch.tensor(logits, requires_grad=True)
    log_p, mask = leaf.log_softmax(1)[rows], torch.tensor(allowed[rows])
    p = (log_p.exp() * mask).sum(1)
    losses = -(1 - smoothing) * p.log() - smoothing * log_p.mean(1)
    is_right = mask[torch.arange(len(rows)), log_p.argmax(1)]
    weights = [float(weighting.class_weights[row].mean()) for row in allowed[rows]]
    result = cross_entropy(logits, allowed, label_smoothing=smoothing, weights=weighting)
    assert_exact(result, leaf, get_expected(weighting, losses, p, is_right, weights))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_binary_cross_entropy(weighting, smoothing):
    logits, truths = make_units()
    labelled = numpy.random.default_rng(4).random(logits.shape) < 0.6
    leaf = torch.tensor(logits, requires_grad=True)
    gold, x = torch.tensor(truths, dtype=torch.float64)[labelled], leaf[labelled]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        x, (1 - smoothing) * gold + smoothing / 2, reduction="none"
    )
    p = torch.where(gold > 0, x.sigmoid(), (-x).sigmoid())
    weights = numpy.where(truths, weighting.class_weights, 1.0)[labelled].tolist()
    result = binary_cross_entropy(
        logits, truths, labelled, label_smoothing=smoothing, weights=weighting
    )
    assert_exact(result, leaf, get_expected(weighting, losses, p, (x > 0) == (gold > 0), weights))


def test_the_plain_weighting_is_the_plain_loss():
    logits, allowed = make_units()
    weighting = create_unit_loss_v1().get_weights(0, ONES, NumpyOps())
    for result, plain in [
        (cross_entropy(logits, allowed, weights=weighting), cross_entropy(logits, allowed)),
        (
            binary_cross_entropy(logits, allowed, allowed, weights=weighting),
            binary_cross_entropy(logits, allowed, allowed),
        ),
    ]:
        assert result[0] == pytest.approx(plain[0], rel=1e-6)
        numpy.testing.assert_allclose(result[1], plain[1], atol=1e-7)
        assert result[2] == plain[2]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_scores(weighting, sign):
    logits = sign * numpy.array([[1e4, -1e4, 0.0, 0.0], [30.0, 0.0, 0.0, 0.0]], dtype="f")
    allowed = numpy.array([[True, False, False, False]] * 2)
    for result in [
        cross_entropy(logits, allowed, label_smoothing=0.1, weights=weighting),
        binary_cross_entropy(logits, allowed, allowed, label_smoothing=0.1, weights=weighting),
    ]:
        assert numpy.isfinite(result[0]) and numpy.isfinite(result[1]).all()
        assert result[1].dtype == "float32"
        assert (result[2] == 0) == (weighting.only_wrong and sign == 1)


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_labelled(n):
    weighting = ExampleWeights(2.0, 0.5, True, WEIGHTS)
    logits = numpy.zeros((n, 4), dtype="f")
    for result in [
        cross_entropy(logits, numpy.ones((n, 4), dtype=bool), weights=weighting),
        binary_cross_entropy(logits, logits, numpy.zeros((n, 4), dtype=bool), weights=weighting),
    ]:
        assert (result[0], result[1].shape, result[2]) == (0.0, (n, 4), 0)


def test_a_schedule_moves_on_and_ends():
    loss = create_unit_loss_v1(keep=iter([1.0, 0.5, 0.25]))
    shares = [loss.get_weights(step, ONES, NumpyOps()).keep for step in [0, 0, 1, 2, 9]]
    assert shares == [1.0, 1.0, 0.5, 0.25, 0.25]
    schedule = create_unit_loss_v1(keep=compounding(1.0, 0.3, 0.9))
    assert schedule.get_weights(0, ONES, NumpyOps()).keep == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": -1.0},
        {"gamma": float("nan")},
        {"keep": 0.0},
        {"keep": 1.5},
        {"keep": "half"},
        {"keep": iter([0.0])},
        {"keep": iter([])},
        {"class_weights": "even"},
        {"class_weights": {}},  # a config drops the keys that it cannot hold
        {"class_weights": [["a", 1.0, 2]]},
        {"class_weights": {"a": -1.0}},
        {"class_weights": {"a": True}},
    ],
)
def test_values_out_of_range(options):
    with pytest.raises(ValueError, match=r"\[M058\]"):
        create_unit_loss_v1(**options)


def test_a_schedule_that_leaves_its_range():
    loss = create_unit_loss_v1(keep=iter([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"\[M058\].*2\.0"):
        loss.get_weights(1, ONES, NumpyOps())


# Through the heads


@pytest.fixture
def make(make_nlp: Callable[..., Language]) -> Callable[..., Language]:
    """A function that makes a pipeline with one head and these options of its loss."""

    def make_one(head: str, initialize: bool = True, **options: Any) -> Language:
        config: dict[str, Any] = {"loss": {"@misc": "spacy-mtl.UnitLoss.v1", **options}}
        if head == "ner":
            config["model"] = {"crf": False}
        return make_nlp(head, config={head: config}, initialize=initialize)

    return make_one


def make_examples_of(nlp: Language, head: str) -> list[Example]:
    return make_examples(nlp, head.removesuffix("_multilabel"))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_learns(make, head, options):
    nlp = make(head, **options)
    examples, sgd = make_examples_of(nlp, head), nlp.create_optimizer()
    sgd.learn_rate = 0.005
    for _ in range(50):
        nlp.update(examples, sgd=sgd)
    scores = nlp.evaluate(make_examples_of(nlp, head))
    key = {"tagger": "tag_acc", "ner": "ents_f"}.get(head, "cats_score")
    assert scores[key] > 0.95


def test_units_that_are_right_are_silent(make: Callable[..., Language]) -> None:
    nlp = make("textcat", only_wrong=True)
    examples = make_examples(nlp, "textcat")
    scores = numpy.array([[eg.reference.cats[cat] for cat in CATS] for eg in examples], dtype="f")
    head: Any = nlp.get_pipe("textcat")
    cats = [list(CATS).index(label) for label in head.labels]
    loss, gradient, n = head.loss(examples, scores[:, cats])
    assert (loss, n) == (0.0, 0)
    assert not gradient.any()


def make_counted(nlp: Language) -> list[Example]:
    """Seven tokens: two O, three P, one Q, one without any annotation; with categories."""
    words = list("abcdefg")
    gold = Doc(nlp.vocab, words=words, tags=["x", "x", "x", "y", "!x", "", "z"])
    spans = [Span(gold, 2, 5, label="P"), Span(gold, 5, 6, label="Q")]
    gold.set_ents(spans, missing=[gold[6:7]])
    golds = [gold, *(Doc(nlp.vocab, words=words) for _ in range(3))]
    for doc, cat in zip(golds, ["a", "a", "a", "b"], strict=True):
        doc.cats = {label: float(label == cat) for label in "ab"}
    return [Example(Doc(nlp.vocab, words=words), doc) for doc in golds]


@pytest.mark.parametrize(
    "head, weights",
    [
        ("tagger", {"x": 5 / 9, "y": 5 / 3, "z": 5 / 3}),
        ("ner", {"O": 1.0, "P": 6 / 9, "Q": 2.0}),
        ("textcat", {"a": 4 / 6, "b": 2.0}),
        ("textcat_multilabel", {"a": 1 / 3, "b": 3.0}),
    ],
)
def test_class_weights_from_counts(
    make: Callable[..., Language], head: str, weights: dict[str, float]
) -> None:
    nlp = make(head, initialize=False, class_weights="balanced")
    nlp.initialize(lambda: make_counted(nlp))
    pipe: Any = nlp.get_pipe(head)
    assert pipe.cfg["class_weights"] == pytest.approx(weights)
    found = dict(zip(pipe.get_outputs(), pipe.get_weights().class_weights.tolist(), strict=True))
    assert found == pytest.approx({**dict.fromkeys(found, 1.0), **weights})


@pytest.mark.parametrize("head", HEADS)
def test_a_class_of_no_weight_is_not_learned(make, head):
    classes = dict.fromkeys(make(head).get_pipe(head).get_outputs(), 0.0)
    nlp = make(head, class_weights=classes)
    losses = nlp.update(make_examples_of(nlp, head), losses={})
    # Only the absent categories are left, and no present one moves the bias.
    expected = -numpy.log(4 / 5) if head == "textcat_multilabel" else 0.0
    assert losses[head] == pytest.approx(expected, rel=1e-6)


def test_weights_and_counts_of_labels_that_are_no_keys(make_nlp, tmp_path):
    """Pairs keep the edits of lemmas, which contain brackets, in saved configs."""
    labels = make_nlp("lemmatizer").get_pipe("lemmatizer").label_data
    pairs = [[label, 2.0] for label in labels["labels"]]
    loss = {"@misc": "spacy-mtl.UnitLoss.v1", "class_weights": pairs}
    nlp = make_nlp("lemmatizer", config={"lemmatizer": {"loss": loss}}, initialize=False)
    nlp.config["initialize"]["components"]["lemmatizer"] = {"labels": labels}
    nlp.config.to_disk(tmp_path / "config.cfg")
    config = load_config(tmp_path / "config.cfg")
    loaded = load_model_from_config(config, auto_fill=True)
    loaded.initialize(lambda: make_examples_of(loaded, "tagger"))
    head = loaded.get_pipe("lemmatizer")
    assert head.cfg["class_weights"] == dict(pairs)
    assert head.label_data == labels


@pytest.mark.parametrize("head", HEADS)
def test_a_weight_for_an_unknown_label(make, head):
    with pytest.raises(ValueError, match=r"\[M038\].*UNHEARD"):
        make(head, class_weights={"UNHEARD": 2.0})


def test_not_with_a_crf(make_nlp):
    config = {"loss": {"@misc": "spacy-mtl.UnitLoss.v1", "gamma": 2.0}}
    with pytest.raises(ValueError, match=r"\[M036\].*'ner'"):
        make_nlp("ner", config={"ner": config})


@pytest.mark.parametrize("head", HEADS)
def test_round_trips(make: Callable[..., Language], head: str, tmp_path: Path) -> None:
    keep = {"@schedules": "compounding.v1", "start": 1.0, "stop": 0.2, "compound": 0.5}
    nlp = make(head, keep=keep, class_weights="balanced")
    sgd = nlp.create_optimizer()
    nlp.update(make_examples_of(nlp, head), sgd=sgd)
    nlp.update(make_examples_of(nlp, head), sgd=sgd)
    nlp.update(make_examples(nlp, "nothing"), sgd=sgd)  # without labels it stays where it is
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    weighting: ExampleWeights = nlp.get_pipe(head).get_weights()  # type: ignore[attr-defined]
    loaded: ExampleWeights = again.get_pipe(head).get_weights()  # type: ignore[attr-defined]
    assert weighting.keep == loaded.keep == 0.25
    assert weighting.class_weights.tolist() == loaded.class_weights.tolist()
    assert again.config["components"] == nlp.config["components"]
    before = nlp.update(make_examples_of(nlp, head), losses={})
    after = again.update(make_examples_of(again, head), losses={})
    assert after[head] == pytest.approx(before[head], rel=1e-6)
