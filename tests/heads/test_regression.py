"""`mtl_regression`: losses, scaling, missing and wrong numbers, scores."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import srsly
import torch
from conftest import make_examples
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.annotations.documents import Numbers, write_numbers
from spacy_mtl.heads.regression import (
    MultiTaskRegressor,
    gaussian_nll,
    rank,
    score_numbers,
    squared_error,
)

Make = Callable[..., Language]
NAME = "regression"
TARGETS = numpy.array([[1.0, numpy.nan], [-0.5, 2.0], [numpy.nan, numpy.nan]], dtype="f")


def get_head(nlp: Language, name: str = NAME) -> MultiTaskRegressor:
    head = nlp.get_pipe(name)
    assert isinstance(head, MultiTaskRegressor)
    return head


def test_losses_are_those_of_torch() -> None:
    rng = numpy.random.default_rng(0)
    known = torch.tensor(~numpy.isnan(TARGETS))
    gold = torch.tensor(TARGETS)[known]
    scores = torch.tensor(rng.normal(size=(3, 4)).astype("f"), requires_grad=True)
    means, logs = scores[:, :2], scores[:, 2:]
    expected = torch.nn.functional.gaussian_nll_loss(
        means[known], gold, logs[known].exp(), full=True, eps=1e-12
    )
    expected.backward()
    loss, gradient, n = gaussian_nll(scores.detach().numpy(), TARGETS)
    assert (loss, n) == (pytest.approx(expected.item()), 3)
    numpy.testing.assert_allclose(gradient, scores.grad, atol=1e-6)
    scores = scores.detach()[:, :2].requires_grad_()
    expected = torch.nn.functional.mse_loss(scores[known], gold) / 2
    expected.backward()
    loss, gradient, n = squared_error(scores.detach().numpy(), TARGETS)
    assert (loss, n) == (pytest.approx(expected.item()), 3)
    numpy.testing.assert_allclose(gradient, scores.grad, atol=1e-6)


def test_variance_has_a_least_value() -> None:
    scores = numpy.array([[0.0, -1e3]], dtype="f")
    loss, gradient, _ = gaussian_nll(scores, numpy.zeros((1, 1), dtype="f"))
    assert math.isfinite(loss) and gradient[0, 1] == 0.0


@pytest.mark.parametrize("objective", ["squared_error", "gaussian"])
def test_learns_numbers_of_any_scale(make_nlp: Make, objective: str) -> None:
    nlp = make_nlp(NAME, config={NAME: {"objective": objective}}, initialize=False)

    def make() -> list[Example]:
        examples = make_examples(nlp, NAME)
        for i, eg in enumerate(examples):
            write_numbers(eg.reference, [("big", 1e6 + 1e4 * i), ("even", 3.0)])
        return examples

    nlp.initialize(make)
    head, sgd = get_head(nlp), Adam(0.005)
    assert head.labels == ("big", "even", "length", "mood")
    for _ in range(80):
        nlp.update(make(), sgd=sgd)
    scores = nlp.evaluate(make())["scores_per_name"]
    assert scores["big"]["scores_mae"] < 3e3 and scores["big"]["scores_pearson"] > 0.95
    assert scores["even"]["scores_mae"] < 0.5 and scores["even"]["scores_pearson"] == 0.0
    empty = nlp("")
    means = {label: float(mean) for label, (mean, _) in head.cfg["scaling"].items()}
    assert empty._.scores == pytest.approx(means)


def test_scaling_is_saved(make_nlp: Make, tmp_path: Path) -> None:
    nlp = make_nlp(NAME)
    data = get_head(nlp).label_data
    assert data["labels"] == ["length", "mood"]
    assert [(name, float(mean)) for name, mean, _ in data["scaling"]] == [
        ("length", pytest.approx(25 / 3)),
        ("mood", pytest.approx(-0.5)),
    ]
    nlp.to_disk(tmp_path)
    assert get_head(spacy.load(tmp_path)).label_data == data
    srsly.write_json(tmp_path / "labels.json", data)
    again = make_nlp(NAME, initialize=False)
    labels = {"@readers": "spacy.read_labels.v1", "path": str(tmp_path / "labels.json")}
    again.config["initialize"]["components"][NAME] = {"labels": labels}
    again.initialize(lambda: make_examples(again, "tagger"))
    assert get_head(again).label_data == data


def test_wrong_scaling(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, initialize=False)
    for row in (["length", "1"], ["length", "1", "wide"], ["length", 1, 2]):
        nlp.config["initialize"]["components"][NAME] = {
            "labels": {"labels": ["length"], "scaling": [row]}
        }
        with pytest.raises(ValueError, match=r"M049.*regression\.labels\.scaling"):
            nlp.initialize(lambda: make_examples(nlp))


def test_numbers_smaller_than_json_holds(make_nlp: Make, tmp_path: Path) -> None:
    nlp = make_nlp(NAME, initialize=False)
    examples = make_examples(nlp)
    for i, eg in enumerate(examples):
        write_numbers(eg.reference, [("length", i * 1e-14), ("mood", None)])
    nlp.initialize(lambda: examples)
    nlp.to_disk(tmp_path)
    found = spacy.load(tmp_path)("a")._.scores["length"]
    assert found == pytest.approx(nlp("a")._.scores["length"], rel=1e-5) and 0 < found < 1e-13


@pytest.mark.parametrize("value", [math.inf, "3", True])
def test_wrong_numbers(make_nlp: Make, value: Any) -> None:
    nlp = make_nlp(NAME, initialize=False)
    examples = make_examples(nlp)
    write_numbers(examples[1].reference, [("mood", value)])
    with pytest.raises(ValueError, match=r"M291.*'mood'.*The new camera"):
        nlp.initialize(lambda: examples)


def test_missing_numbers() -> None:
    doc = Doc(spacy.blank("en").vocab, words=["a"])
    for numbers in ([], [("mood", None)], [("mood", math.nan)]):
        write_numbers(doc, numbers)
        assert not Numbers().is_annotated(doc)


def test_two_heads(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, "other=mtl_regression", initialize=False)
    nlp.config["initialize"]["components"] = {
        NAME: {"labels": ["length"]},
        "other": {"labels": ["mood"]},
    }
    nlp.initialize(lambda: make_examples(nlp))
    for _ in range(60):
        nlp.update(make_examples(nlp), sgd=Adam(0.005))
    scores = nlp.evaluate(make_examples(nlp))
    assert set(scores["scores_per_name"]) == {"length", "mood"}
    assert set(scores["other_scores_per_name"]) == {"mood"}
    assert set(nlp("A text.")._.scores) == {"length", "mood"}


def test_scores() -> None:
    vocab = spacy.blank("en").vocab
    examples = []
    for found, gold in [(1.0, 2.0), (2.0, 4.0), (3.0, 5.0), (4.0, None)]:
        eg = Example(Doc(vocab, words=["a"]), Doc(vocab, words=["a"]))
        write_numbers(eg.predicted, [("x", found), ("other", 1.0)])
        write_numbers(eg.reference, [("x", gold)])
        examples.append(eg)
    scores = score_numbers(examples)
    assert scores["scores_pearson"] == pytest.approx(numpy.corrcoef([1, 2, 3], [2, 4, 5])[0, 1])
    assert scores["scores_spearman"] == pytest.approx(1.0)
    assert scores["scores_mae"] == pytest.approx(5 / 3)
    assert set(scores["scores_per_name"]) == {"x"}
    assert set(score_numbers(examples[3:]).values()) == {None}


def test_ranks() -> None:
    assert rank(numpy.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
