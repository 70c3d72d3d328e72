"""The gradient cosines in the diagnostics."""

import math

import numpy
import pytest
from conftest import make_examples

from spacy_mtl.encoder.diagnostics import Diagnostics, get_cosines
from spacy_mtl.encoder.training_pass import PassResult, TaskBatch

WEIGHTS = {"a": 1.0, "b": 1.0, "c": 1.0}


def make_batch(**rows: list[float]) -> TaskBatch:
    """Each task's gradient at a single token."""
    return TaskBatch(dict.fromkeys(rows, 0.5), {k: numpy.array([v], "f") for k, v in rows.items()})


def test_by_hand():
    batch = make_batch(b=[3, 4], a=[1, 0], c=[-8, 6])
    assert get_cosines(batch) == {
        "a|b": pytest.approx(0.6),
        "a|c": pytest.approx(-0.8),
        "b|c": pytest.approx(0.0),
    }


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_scale_does_not_matter(scale):
    found = get_cosines(make_batch(a=[scale, 0], b=[3, 4]))
    assert found == {"a|b": pytest.approx(0.6)}


def test_same_and_opposite():
    """Rounding never gives more than 1."""
    row = numpy.random.default_rng(0).normal(size=999)
    found = get_cosines(make_batch(a=row, b=3 * row, c=-0.1 * row))
    assert found == {k: pytest.approx(v) for k, v in {"a|b": 1, "a|c": -1, "b|c": -1}.items()}
    assert max(map(abs, found.values())) <= 1


@pytest.mark.parametrize("rows", [{}, {"a": [1, 0]}, {"a": [1, 0], "b": [0, 0]}])
def test_no_pairs(rows):
    assert get_cosines(make_batch(**rows)) == {}


def make_result(batch, broken=()):
    others = [name for name in batch.names if name not in broken]
    return PassResult(batch.select(others), WEIGHTS, batch.select(broken))


def test_means_over_batches_with_labels_for_both():
    diagnostics = Diagnostics()
    diagnostics.add(make_result(make_batch(a=[1, 0], b=[1, 0], c=[0, 1])))
    diagnostics.add(make_result(make_batch(b=[0, 1], a=[1, 0])))
    diagnostics.add(make_result(make_batch(a=[1, 0])))
    assert diagnostics.take_cosines() == {"a|b": 0.5, "a|c": 0.0, "b|c": 0.0}
    assert diagnostics.take_cosines() == {}
    assert diagnostics.take()["a"]["updates"] == 3


@pytest.mark.filterwarnings("ignore:.W002.")
def test_broken_tasks_are_in_no_pair():
    diagnostics = Diagnostics()
    for broken in (math.nan, math.inf):
        batch = make_batch(a=[1, 0], b=[1, 1], c=[broken, 1])
        assert batch.broken == ["c"]
        diagnostics.add(make_result(batch, ["c"]))
    assert diagnostics.take_cosines() == {"a|b": pytest.approx(0.5**0.5)}


def test_docs_that_differ_have_no_angle(make_nlp):
    """The gradients of tasks labelled on different docs have no rows in common."""
    nlp = make_nlp("tagger", "ner")
    sgd = nlp.create_optimizer()
    examples = [*make_examples(nlp, "tagger")[:2], *make_examples(nlp, "ner")[2:]]
    encoder = nlp.get_pipe("transformer")
    for _ in range(3):
        nlp.update(examples, sgd=sgd)
    encoder.flush()
    assert encoder.diagnostics.take_cosines() == {"ner|tagger": 0.0}
    nlp.update(make_examples(nlp), sgd=sgd)
    encoder.flush()
    assert encoder.diagnostics.take_cosines()["ner|tagger"] != 0.0
