"""Weights learned so that every task's weighted loss comes to the same."""

import math
from typing import Annotated

from ..arguments import Range, checked
from ..encoder.hub import TaskBatch
from .base import ScalarBalancer

StepSize = Annotated[float, Range(0, 10, above=True)]


class UncertaintyWeights(ScalarBalancer):
    """Learn a log-variance s for each task and weight its loss L by exp(-s), minimizing
    exp(-s) L + c s by gradient descent.

    At the minimum exp(-s) = c / L: a task counts by how small its loss has become relative to
    itself, not by the loss's scale.

    The gradient of s, in an update, is clipped to [-1, 1]: stock heads report sums in the
    thousands, by which one step would take exp(-s) to 0.

    learn_rate (float): Step size of s, and the most it moves in an update.
    target (float): c, which every weighted loss tends to.
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
            if loss:  # a head that reports none would weigh more and more
                gradient = self.target - weights[task] * loss
                self._gradients[task] = self._gradients.get(task, 0.0) + gradient
        return weights

    def step(self) -> None:
        gradients, self._gradients = self._gradients, {}
        for task, gradient in gradients.items():
            self.log_variances[task] -= self.learn_rate * min(max(gradient, -1.0), 1.0)


@checked("spacy-mtl.UncertaintyWeights.v1")
def create_uncertainty_weights_v1(learn_rate: StepSize = 0.01) -> UncertaintyWeights:
    """Weight the tasks by their learned homoscedastic uncertainty: Kendall, Gal and Cipolla (2018),
    "Multi-Task Learning Using Uncertainty to Weigh Losses", equation 10 for classification losses.

    learn_rate (float): Step size of the log-variances, > 0, and the most they move in an update.
    RAISES (ValueError): M058 for another step size.
    """
    return UncertaintyWeights(learn_rate, target=0.5)


@checked("spacy-mtl.IMTLL.v1")
def create_imtl_l_v1(learn_rate: StepSize = 0.01) -> UncertaintyWeights:
    """Learn a scale for each task that brings its loss to 1, minimizing exp(s) L - s: IMTL-L, the
    loss balance of Liu et al. (2021), "Towards Impartial Multi-task Learning", section 3.2.

    The weights are twice those of uncertainty, by the same rule.

    learn_rate (float): Step size of the scales, > 0, and the most they move in an update.
    RAISES (ValueError): M058 for another step size.
    """
    return UncertaintyWeights(learn_rate, target=1.0)
