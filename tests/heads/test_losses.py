from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spacy_mtl.heads.losses import (
    ExampleWeights,
    binary_cross_entropy,
    cross_entropy,
    find_known,
    joint_cross_entropy,
    log_softmax,
    one_hot,
    sigmoid,
    softmax,
)

LOGITS = arrays("float64", (5, 4), elements=st.floats(-8, 8))
MASKS = arrays(bool, (5, 4))


def make_logits(scale: float = 3.0) -> numpy.ndarray:
    return (numpy.random.default_rng(0).normal(size=(6, 4)) * scale).astype("f")


def get_torch_loss(
    logits: numpy.ndarray, loss: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[float, numpy.ndarray]:
    """RETURNS (Tuple[float, Floats2d]): The value in float64 and autograd's gradient."""
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad.numpy()


def get_slopes(loss: Callable[[numpy.ndarray], float], logits: numpy.ndarray) -> numpy.ndarray:
    """RETURNS (Floats2d): The gradient of a loss by central differences."""
    slopes = numpy.zeros_like(logits)
    for i in numpy.ndindex(logits.shape):
        step = numpy.zeros_like(logits)
        step[i] = 1e-5
        slopes[i] = (loss(logits + step) - loss(logits - step)) / 2e-5
    return slopes


def assert_same(result: tuple[float, Any, int], expected: tuple[float, Any], n: int) -> None:
    loss, gradient, found = result
    assert loss == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
    numpy.testing.assert_allclose(gradient, expected[1], rtol=0, atol=1e-6)
    assert found == n


def test_softmax_and_sigmoid():
    logits = make_logits()
    expected = torch.tensor(logits, dtype=torch.float64)
    numpy.testing.assert_allclose(softmax(logits), expected.softmax(1), atol=1e-6)
    numpy.testing.assert_allclose(log_softmax(logits), expected.log_softmax(1), atol=1e-5)
    numpy.testing.assert_allclose(sigmoid(logits), expected.sigmoid(), atol=1e-6)
    extreme = numpy.array([[-1e4, 1e4, 0.0]], dtype="f")
    assert softmax(extreme).tolist() == [[0.0, 1.0, 0.0]]
    assert sigmoid(extreme).tolist() == [[0.0, 1.0, 0.5]]


def test_one_hot():
    assert one_hot([2, -1, 0], 3, numpy).tolist() == [
        [False, False, True],
        [True, True, True],
        [True, False, False],
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_cross_entropy(smoothing):
    logits, labels = make_logits(), [0, 3, 1, 1, 2, 0]
    expected = get_torch_loss(
        logits, lambda x: F.cross_entropy(x, torch.tensor(labels), label_smoothing=smoothing)
    )
    result = cross_entropy(logits, one_hot(labels, 4, numpy), label_smoothing=smoothing)
    assert_same(result, expected, n=6)
    assert result[1].dtype == "float32"


def test_cross_entropy_of_partial_labels():
    logits = make_logits()[:2]
    allowed = numpy.array([[True, False, True, False], [True, True, True, False]])

    def expected(x: torch.Tensor) -> torch.Tensor:
        p = x.softmax(1) * torch.tensor(allowed)
        return -p.sum(1).log().mean()

    assert_same(cross_entropy(logits, allowed), get_torch_loss(logits, expected), n=2)


def test_smoothed_partial_label_moves_towards_even():
    """Smoothing gives its share to all labels equally, and the rest to the allowed labels."""
    logits = numpy.array([[1.0, 2.0, -1.0, 0.0]])
    allowed = numpy.array([[True, True, False, False]])
    p = softmax(logits)[0]
    loss, gradient, _ = cross_entropy(logits, allowed, label_smoothing=0.2)
    assert loss == pytest.approx(
        -0.8 * numpy.log(p[0] + p[1]) - 0.2 * numpy.log(p).mean(), rel=1e-12
    )
    target = 0.8 * numpy.array([p[0], p[1], 0, 0]) / (p[0] + p[1]) + 0.05
    numpy.testing.assert_allclose(gradient[0], p - target, atol=1e-12)


def test_unlabelled_rows_cost_nothing():
    logits = make_logits()
    allowed = one_hot([1, -1, 3, 0, -1, 2], 4, numpy)
    allowed[3] = False  # a row without allowed labels is unlabelled
    loss, gradient, n = cross_entropy(logits, allowed, label_smoothing=0.1)
    rows = [0, 2, 5]
    alone = cross_entropy(logits[rows], allowed[rows], label_smoothing=0.1)
    assert (loss, n) == (alone[0], 3)
    assert (gradient[rows] == alone[1]).all()
    assert not gradient[[1, 3, 4]].any()


@pytest.mark.parametrize("fill", [True, False])
def test_no_labels_at_all(fill):
    logits = make_logits()
    loss, gradient, n = cross_entropy(logits, numpy.full((6, 4), fill), label_smoothing=0.1)
    assert (loss, n) == (0.0, 0)
    assert not gradient.any()
    loss, gradient, n = binary_cross_entropy(logits, logits, numpy.zeros((6, 4), dtype=bool))
    assert (loss, n) == (0.0, 0)
    assert gradient.shape == (6, 4)
    assert not gradient.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy(smoothing):
    logits = make_logits()
    rng = numpy.random.default_rng(1)
    truths = rng.integers(2, size=(6, 4)).astype("f")
    labelled = rng.random((6, 4)) < 0.6
    mask = torch.tensor(labelled)
    targets = (1 - smoothing) * torch.tensor(truths, dtype=torch.float64) + smoothing / 2

    expected = get_torch_loss(
        logits, lambda x: F.binary_cross_entropy_with_logits(x[mask], targets[mask])
    )
    result = binary_cross_entropy(logits, truths, labelled, label_smoothing=smoothing)
    assert_same(result, expected, n=int(labelled.sum()))
    assert result[1].dtype == "float32"
    assert not result[1][~labelled].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits(sign):
    logits = sign * numpy.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype="f")
    labels = torch.tensor([0, 0])
    allowed = one_hot(labels.numpy(), 3, numpy)
    expected = get_torch_loss(logits, lambda x: F.cross_entropy(x, labels))
    assert_same(cross_entropy(logits, allowed), expected, n=2)
    truths = F.one_hot(labels, 3).double()
    expected = get_torch_loss(logits, lambda x: F.binary_cross_entropy_with_logits(x, truths))
    assert_same(binary_cross_entropy(logits, allowed, numpy.ones_like(allowed)), expected, n=6)


@settings(deadline=None, max_examples=40)
@given(LOGITS, MASKS, st.floats(0, 1))
def test_cross_entropy_gradient_is_the_slope(logits, allowed, smoothing):
    slopes = get_slopes(lambda x: cross_entropy(x, allowed, label_smoothing=smoothing)[0], logits)
    gradient = cross_entropy(logits, allowed, label_smoothing=smoothing)[1]
    numpy.testing.assert_allclose(gradient, slopes, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(LOGITS, MASKS, MASKS, st.floats(0, 1))
def test_binary_cross_entropy_gradient_is_the_slope(logits, truths, labelled, smoothing):
    def loss(x: numpy.ndarray) -> tuple[float, Any, int]:
        return binary_cross_entropy(x, truths, labelled, label_smoothing=smoothing)

    numpy.testing.assert_allclose(
        loss(logits)[1], get_slopes(lambda x: loss(x)[0], logits), atol=1e-6
    )


@settings(deadline=None, max_examples=40)
@given(LOGITS, MASKS, MASKS, st.permutations(range(5)))
def test_order_of_rows_does_not_matter(logits, allowed, labelled, order):
    loss, gradient, n = cross_entropy(logits, allowed, label_smoothing=0.1)
    again = cross_entropy(logits[order], allowed[order], label_smoothing=0.1)
    assert again[0] == pytest.approx(loss, rel=1e-12, abs=1e-12)
    numpy.testing.assert_allclose(again[1], gradient[order], rtol=1e-12)
    assert again[2] == n

    loss, gradient, n = binary_cross_entropy(logits, allowed, labelled)
    again = binary_cross_entropy(logits[order], allowed[order], labelled[order])
    assert again[0] == pytest.approx(loss, rel=1e-12, abs=1e-12)
    assert (again[1] == gradient[order]).all()
    assert again[2] == n


# Joint choices

GROUPS = [slice(0, 3), slice(3, 4), slice(4, 8)]


def make_joint(seed: int = 0) -> tuple[numpy.ndarray, numpy.ndarray]:
    """RETURNS (Tuple[Floats2d, Bools2d]): Scores, and masks with missing groups and rows."""
    random = numpy.random.default_rng(seed)
    labels = random.integers(-1, [3, 1, 4], size=(7, 3))
    labels[2] = -1
    masks = [one_hot(own, n, numpy) for own, n in zip(labels.T, [3, 1, 4], strict=True)]
    return random.normal(size=(7, 8)), numpy.concatenate(masks, axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_joint_loss_is_the_sum_over_groups(smoothing):
    logits, allowed = make_joint()
    known = torch.tensor(find_known(allowed, GROUPS))

    def expected(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i, group in enumerate(GROUPS):
            own = x[known[:, i], group]
            gold = torch.tensor(allowed[known[:, i], group].argmax(axis=1))
            total += F.cross_entropy(own, gold, label_smoothing=smoothing, reduction="sum")
        return total / known.any(dim=1).sum()

    result = joint_cross_entropy(logits, allowed, GROUPS, label_smoothing=smoothing)
    assert_same(result, get_torch_loss(logits, expected), n=int(known.any(dim=1).sum()))
    assert not result[1][2].any() and not known[:, 1].any()


def test_joint_loss_of_one_group():
    logits, labels = make_logits(), one_hot([1, -1, 3, 0, -1, 2], 4, numpy)
    classes = numpy.array([1.0, 2.0, 0.5, 3.0], dtype="f")
    for weights in (None, ExampleWeights(2.0, 0.7, False, classes)):
        joint = joint_cross_entropy(logits, labels, [slice(0, 4)], weights=weights)
        alone = cross_entropy(logits, labels, weights=weights)
        assert (joint[0], joint[2]) == (pytest.approx(alone[0]), alone[2])
        numpy.testing.assert_allclose(joint[1], alone[1], atol=1e-7)


@pytest.mark.parametrize("only_wrong", [False, True])
def test_weighted_joint_gradient_is_the_slope(only_wrong):
    logits, allowed = make_joint(1)
    weights = ExampleWeights(2.0, 0.8, only_wrong, numpy.linspace(0.5, 2.0, 8))

    def loss(x: numpy.ndarray) -> tuple[float, Any, int]:
        return joint_cross_entropy(x, allowed, GROUPS, label_smoothing=0.1, weights=weights)

    assert loss(logits)[0] > 0
    slopes = get_slopes(lambda x: loss(x)[0], logits)
    numpy.testing.assert_allclose(loss(logits)[1], slopes, atol=1e-6)


def test_joint_loss_without_labels():
    logits, _ = make_joint()
    loss, gradient, n = joint_cross_entropy(logits, numpy.ones((7, 8), dtype=bool), GROUPS)
    assert (loss, n, gradient.any()) == (0.0, 0, False)
