"""Balancers that learn weights which bring every task's weighted loss to the same value."""

import math
from typing import Annotated

from ..arguments import Range, checked
from ..encoder.training_pass import TaskBatch
from .base import ScalarBalancer

StepSize = Annotated[float, Range(0, 10, above=True)]


class UncertaintyWeights(ScalarBalancer):
    """Learns a log-variance s per task and weights its loss L by exp(-s). It minimizes
    exp(-s) L + c s by gradient descent.

    At the minimum exp(-s) = c / L, so the scale of a loss has no influence. The weight follows a
    loss that changes in about 1 / (c * learn_rate) updates.

    The gradient of s is clipped to [-1, 1] per update. Stock heads report losses in the thousands:
    without clipping, one step would bring exp(-s) to 0.

    learn_rate (float): The step size of s, and its largest change per update.
    target (float): c, the value that every weighted loss approaches.
    """

    STATE = {"log_variances": dict[str, float]}
    by_task = ("log_variances", "_gradients")

    def __init__(self, learn_rate: float, target: float) -> None:
        self.learn_rate = learn_rate
        self.target = target
        self.log_variances: dict[str, float] = {}
        self._gradients: dict[str, float] = {}

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        weights = {}
        for task, loss in batch.losses.items():
            weights[task] = math.exp(-self.log_variances.setdefault(task, 0.0))
            if loss:  # the weight of a head that reports no loss would grow without end
                gradient = self.target - weights[task] * loss
                self._gradients[task] = self._gradients.get(task, 0.0) + gradient
        return weights

    def step(self) -> None:
        gradients, self._gradients = self._gradients, {}
        for task, gradient in gradients.items():
            self.log_variances[task] -= self.learn_rate * min(max(gradient, -1.0), 1.0)


@checked("spacy-mtl.UncertaintyWeights.v1")
def create_uncertainty_weights_v1(learn_rate: StepSize = 0.1) -> UncertaintyWeights:
    """Weight the tasks by their learned homoscedastic uncertainty: Kendall, Gal and Cipolla (2018),
    "Multi-Task Learning Using Uncertainty to Weigh Losses", equation 10 for classification losses.

    learn_rate (float): The step size of the log-variances, > 0, and their largest change per
        update.
    RAISES (ValueError): M058 for a step size out of range.
    """
    return UncertaintyWeights(learn_rate, target=0.5)


@checked("spacy-mtl.IMTLL.v1")
def create_imtl_l_v1(learn_rate: StepSize = 0.01) -> UncertaintyWeights:
    """Learn a scale per task that brings its loss to 1, by minimizing exp(s) L - s: IMTL-L, the
    loss balance of Liu et al. (2021), "Towards Impartial Multi-task Learning", section 3.2.

    The rule is that of `spacy-mtl.UncertaintyWeights.v1`, and the weights are twice as large.

    learn_rate (float): The step size of the scales, > 0, and their largest change per update.
    RAISES (ValueError): M058 for a step size out of range.
    """
    return UncertaintyWeights(learn_rate, target=1.0)
