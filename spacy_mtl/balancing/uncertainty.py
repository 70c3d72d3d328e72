"""Weights learned from each task's homoscedastic uncertainty."""

import math
from typing import Any

from ..encoder.hub import TaskBatch
from ..errors import Errors
from .base import ScalarBalancer


class UncertaintyWeights(ScalarBalancer):
    """Learn a log-variance s for each task and weight its loss L by exp(-s), minimizing
    exp(-s) L + s / 2 by gradient descent.

    At the minimum exp(-s) = 1 / (2 L): a task counts by how small its loss has become relative to
    itself, not by the loss's scale. Kendall, Gal and Cipolla (2018), "Multi-Task Learning Using
    Uncertainty to Weigh Losses", equation 10 for classification losses.

    learn_rate (float): Step size of s.
    """

    def __init__(self, learn_rate: float) -> None:
        if not learn_rate > 0:
            raise ValueError(Errors.M022.format(learn_rate=learn_rate))
        self.learn_rate = learn_rate
        self.log_variances: dict[str, float] = {}
        self._gradients: dict[str, float] = {}

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        weights = {}
        for task, loss in batch.losses.items():
            weights[task] = math.exp(-self.log_variances.setdefault(task, 0.0))
            gradient = 0.5 - weights[task] * loss
            self._gradients[task] = self._gradients.get(task, 0.0) + gradient
        return weights

    def step(self) -> None:
        gradients, self._gradients = self._gradients, {}
        for task, gradient in gradients.items():
            self.log_variances[task] -= self.learn_rate * gradient

    def to_dict(self) -> dict[str, Any]:
        return {"log_variances": dict(self.log_variances)}

    def from_dict(self, state: dict[str, Any]) -> None:
        self.log_variances = dict(state.get("log_variances", {}))


def create_uncertainty_weights_v1(learn_rate: float = 0.01) -> UncertaintyWeights:
    """Learn the tasks' weights from their losses (Kendall, Gal and Cipolla 2018).

    learn_rate (float): Step size of the log-variances, > 0.
    RAISES (ValueError): M022 for another step size.
    """
    return UncertaintyWeights(learn_rate)
