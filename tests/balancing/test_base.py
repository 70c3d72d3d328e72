"""The base classes, subclassed as in another package."""

import numpy
import pytest
import torch

from spacy_mtl.balancing.base import BaseBalancer, GradientBalancer, ScalarBalancer
from spacy_mtl.balancing.early_stopping import EarlyStopping
from spacy_mtl.balancing.static import StaticWeights
from spacy_mtl.contracts import ScoreListener, TrainingState
from spacy_mtl.encoder.training_pass import Balancer, TaskBatch


class UnitMean(GradientBalancer):
    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        return 1 / gramian.diagonal().sqrt()


def make_batch() -> TaskBatch:
    rows = {"tagger": [3.0, 0.0], "ner": [0.0, 4.0], "textcat": [0.0, 0.0]}
    gradients = {task: numpy.array([row], dtype="f") for task, row in rows.items()}
    return TaskBatch(
        dict.fromkeys(rows, 1.0), gradients, lambda g, level: torch.from_numpy(g).flatten()
    )


def test_a_gradient_balancer_is_a_subclass_with_solve() -> None:
    gradient, weights = UnitMean("features").combine(make_batch())
    length = 5 / 2**0.5  # the norm of the plain sum, over that of two unit vectors
    assert weights == pytest.approx({"tagger": length / 3, "ner": length / 4, "textcat": 1.0})
    numpy.testing.assert_allclose(gradient, [[length, length]], rtol=1e-6)


def test_prior_weights_multiply_the_gradients_and_are_saved() -> None:
    balancer = UnitMean("features", rescale=False, prior=StaticWeights({"ner": 0.0}))
    _, weights = balancer.combine(make_batch())
    assert weights == {"tagger": 1.0, "ner": 0.0, "textcat": 1.0}
    balancer.step()
    assert balancer.state_dict() == {"batches": 1, "prior": {"steps": 1}}


def test_balancers_implement_the_protocols() -> None:
    stopper = EarlyStopping(UnitMean("features"), {}, 0.0)
    for balancer in (UnitMean("features"), stopper):
        assert isinstance(balancer, Balancer) and isinstance(balancer, TrainingState)
    assert isinstance(stopper, ScoreListener) and not isinstance(stopper.balancer, ScoreListener)


@pytest.mark.parametrize("base", [BaseBalancer, ScalarBalancer, GradientBalancer])
def test_base_classes_are_abstract(base: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_the_names_of_the_first_release() -> None:
    balancer, other = StaticWeights({}), StaticWeights({})
    balancer.step()
    other.from_dict(balancer.to_dict())
    assert other.to_dict() == balancer.state_dict() == {"steps": 1}
