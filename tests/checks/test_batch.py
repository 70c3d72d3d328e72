"""Test the check of one batch: the loss of each head, and its gradient at the encoder."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy
import pytest
import spacy
from conftest import TAGS, encoder_gradient, make_examples, make_stock_nlp
from spacy.training import Example

from spacy_mtl.annotations.categories import Categories
from spacy_mtl.annotations.spans import Entities
from spacy_mtl.annotations.tokens import Tags
from spacy_mtl.checks.batch import TaskStep, check_steps, pick_batch, try_batch
from spacy_mtl.checks.finding import Finding

TASKS = ("tagger", "ner", "textcat")
LAYERS = {"tagger": Tags(), "ner": Entities(), "textcat": Categories()}


def codes(findings: list[Finding]) -> list[str]:
    """Return the code of each message."""
    return [finding.message[1:5] for finding in findings]


def test_a_new_pipeline_has_a_loss_a_weight_and_a_gradient_for_each_head(make_nlp):
    nlp = make_nlp(balancer={"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"ner": 0.5}})
    steps = try_batch(nlp, make_examples(nlp), LAYERS)
    assert list(steps) == list(TASKS)
    assert {name: step.weight for name, step in steps.items()} == {
        "tagger": 1.0,
        "ner": 0.5,
        "textcat": 1.0,
    }
    assert all(step.labelled and step.in_nats for step in steps.values())
    assert {step.encoder for step in steps.values()} == {"transformer"}
    # Tags are as likely as they are frequent, with one added to each count. There are 4 categories.
    counts = Counter(tag for tags in TAGS for tag in tags)
    total = counts.total() + len(counts)
    nats = sum(n * math.log(total / (n + 1)) for n in counts.values()) / counts.total()
    assert steps["tagger"].loss == pytest.approx(nats, abs=1e-5)
    assert steps["textcat"].loss == pytest.approx(math.log(4), abs=1e-5)
    assert all(0 < step.gradient < math.inf for step in steps.values())
    assert check_steps(steps) == []


def test_the_gradient_is_measured_at_the_encoder(make_nlp):
    def measure(grad_factor: float) -> float | None:
        listener = {"@architectures": "spacy-mtl.TaskListener.v1", "grad_factor": grad_factor}
        nlp = make_nlp("tagger", config={"tagger": {"model": {"tok2vec": listener}}})
        return try_batch(nlp, make_examples(nlp), LAYERS)["tagger"].gradient

    assert measure(0.25) == pytest.approx(0.25 * measure(1.0), rel=1e-5)
    assert measure(0.0) == 0.0


def test_a_head_without_labels_in_the_batch_is_reported(make_nlp):
    nlp = make_nlp()
    steps = try_batch(nlp, make_examples(nlp, "tagger", "textcat"), LAYERS)
    assert [step.labelled for step in steps.values()] == [True, False, True]
    assert (steps["ner"].loss, steps["ner"].gradient) == (0.0, 0.0)
    assert codes(check_steps(steps)) == ["W230"]


def test_a_stock_encoder_has_one_gradient_for_all_heads(encoder):
    nlp = make_stock_nlp(encoder)
    steps = try_batch(nlp, make_examples(nlp), LAYERS)
    norm = pytest.approx(float(numpy.linalg.norm(encoder_gradient(nlp))), rel=1e-5)
    for step in steps.values():
        assert (step.encoder, step.weight, step.in_nats) == ("transformer", None, False)
        assert step.gradient == norm
    assert norm != 0.0
    assert check_steps(steps) == []


@pytest.mark.parametrize(
    ("encoder", "labelled", "gradient", "weight", "expected"),
    [
        ("transformer", True, 1.0, 1.0, []),
        ("transformer", True, 1.0, None, []),
        ("transformer", True, None, None, []),
        ("transformer", True, 0.0, 1.0, ["M225"]),
        ("transformer", True, math.nan, 1.0, ["M225"]),
        ("transformer", True, math.inf, 1.0, ["M225"]),
        ("transformer", True, 1.0, 0.0, ["W224"]),
        ("transformer", False, 0.0, None, ["W230"]),
        (None, True, None, None, ["W225"]),
    ],
)
def test_findings_for_the_step_of_a_head(encoder, labelled, gradient, weight, expected):
    step = TaskStep(labelled, 1.0, True, encoder, weight, gradient)
    assert codes(check_steps({"x": step})) == expected


def test_the_picked_batch_has_labels_for_all_heads():
    nlp = spacy.blank("en")
    tags, cats = make_examples(nlp, "tagger"), make_examples(nlp, "textcat")
    examples = [*tags * 50, *cats]

    def batcher(stream: Iterable[Example]) -> Iterator[list[Example]]:
        yield [tags[0]]
        yield list(stream)

    batch = pick_batch(examples, {"tagger": Tags(), "textcat": Categories(), "x": None}, batcher)
    assert batch[0] is tags[0] and batch[1] is cats[0]
    assert sorted(map(id, batch)) == sorted(map(id, [*tags, *cats]))
    assert pick_batch([], LAYERS, batcher=lambda stream: []) == []
