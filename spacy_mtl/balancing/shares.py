"""Balancers whose weights are a softmax, with mean 1 over the tasks."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar

import numpy

from ..arguments import Count, Range, Seed, checked
from ..encoder.training_pass import TaskBatch
from .base import EPSILON, RandomBalancer, ScalarBalancer, softmax_weights

StepSize = Annotated[float, Range(0, 10, above=True)]  # stable with the largest decay


class RandomWeights(RandomBalancer, ScalarBalancer):
    """Draws new weights for each batch."""

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        logits = numpy.random.default_rng(self.draw_seeds()).normal(size=len(batch.names))
        return softmax_weights(dict(zip(sorted(batch.names), logits.tolist(), strict=True)))


class DynamicWeightAverage(ScalarBalancer):
    """Gives a higher weight to a task whose loss fell less between the last two windows.

    window (int): The number of updates over which a loss is averaged.
    temperature (float): Divides the logits. A higher value makes the weights more even.
    """

    STATE = {"steps": int, "sums": dict[str, tuple[float, int]], "means": dict[str, list[float]]}
    by_task = ("sums", "means")

    def __init__(self, window: int, temperature: float) -> None:
        self.window, self.temperature = window, temperature
        self.steps = 0
        self.sums: dict[str, tuple[float, int]] = {}
        self.means: dict[str, list[float]] = {}  # of the last two windows, the older one first

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        add_losses(self.sums, batch)
        return softmax_weights(
            {task: self._get_rate(task) / self.temperature for task in batch.names}
        )

    def step(self) -> None:
        self.steps += 1
        if self.steps % self.window == 0:
            for task, (total, n) in self.sums.items():
                self.means[task] = [*self.means.get(task, []), total / n][-2:]
            self.sums = {}

    def _get_rate(self, task: str) -> float:
        means = self.means.get(task, [])
        return means[1] / max(means[0], EPSILON) if len(means) == 2 else 1.0


class LearnedShares(ScalarBalancer):
    """Learns the logits of the weights by gradient descent.

    learn_rate (float): The step size of the logits.
    """

    STATE = {"logits": dict[str, float], "losses": dict[str, float]}
    by_task: ClassVar[Sequence[str]] = ("logits", "losses", "_gradients")

    def __init__(self, learn_rate: float) -> None:
        self.learn_rate = learn_rate
        self.logits: dict[str, float] = {}
        self.losses: dict[str, float] = {}  # later losses are compared with these
        self._gradients: dict[str, float] = {}

    def get_shares(self, tasks: Iterable[str]) -> dict[str, float]:
        return softmax_weights({task: self.logits.get(task, 0.0) for task in tasks})

    def add_gradient(self, d_weights: dict[str, float]) -> None:
        """Backpropagate a gradient from the weights to the logits, and add it up until `step`."""
        weights = self.get_shares(d_weights)
        mean = sum(weights[task] * d for task, d in d_weights.items()) / len(weights)
        for task, d in d_weights.items():
            self._gradients[task] = self._gradients.get(task, 0.0) + weights[task] * (d - mean)

    def step(self) -> None:
        for task, gradient in self._gradients.items():
            self.logits[task] = self.logits.get(task, 0.0) - self.learn_rate * gradient
        self._gradients = {}


class GradNorm(LearnedShares):
    """Learns weights that bring all gradient norms to their mean, or above it for tasks whose loss
    has fallen less than that of the others.

    alpha (float): How strongly to favour such tasks. With 0 all norms become equal.
    """

    def __init__(self, learn_rate: float, alpha: float) -> None:
        super().__init__(learn_rate)
        self.alpha = alpha

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        weights = self.get_shares(batch.names)
        norms = {task: weights[task] * batch.norms[task] for task in batch.names}
        # the fraction of its first loss that each task still has
        rest = {
            task: max(loss, 0.0) / max(self.losses.setdefault(task, loss), EPSILON)
            for task, loss in batch.losses.items()
        }
        mean_norm, mean_rest = (max(sum(v.values()) / len(v), EPSILON) for v in (norms, rest))
        d_weights = {}
        for task in batch.names:
            error = norms[task] / mean_norm - (rest[task] / mean_rest) ** self.alpha
            # relative to the mean norm, so that the step size does not depend on it
            d_weights[task] = math.copysign(batch.norms[task] / mean_norm, error)
        self.add_gradient(d_weights)
        return weights


class FAMO(LearnedShares):
    """Weights the tasks so that their losses fall at the same rate.

    decay (float): The decay of the logits towards 0, per step and relative to the step size.
    """

    by_task = (*LearnedShares.by_task, "_sums")

    def __init__(self, learn_rate: float, decay: float) -> None:
        super().__init__(learn_rate)
        self.decay = decay
        self._sums: dict[str, tuple[float, int]] = {}

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        add_losses(self._sums, batch)
        shares = self.get_shares(batch.names)
        weights = {task: shares[task] / max(batch.losses[task], EPSILON) for task in shares}
        mean = sum(weights.values()) / len(weights)
        return {task: weight / mean for task, weight in weights.items()}

    def step(self) -> None:
        losses = {task: max(total / n, EPSILON) for task, (total, n) in self._sums.items()}
        falls = {
            t: math.log(self.losses[t] / loss) for t, loss in losses.items() if t in self.losses
        }
        if falls:
            self.add_gradient({task: fall / len(falls) for task, fall in falls.items()})
        for task in falls:
            self._gradients[task] += self.decay * self.logits.get(task, 0.0)
        super().step()
        self.losses.update(losses)
        self._sums = {}


def add_losses(sums: dict[str, tuple[float, int]], batch: TaskBatch) -> None:
    """Add the losses of a batch to the sum and the count of each task."""
    for task, loss in batch.losses.items():
        total, n = sums.get(task, (0.0, 0))
        sums[task] = (total + loss, n + 1)


@checked("spacy-mtl.RandomWeights.v1")
def create_random_weights_v1(seed: Seed = 0) -> RandomWeights:
    """Weight the tasks by a softmax over random normal numbers: Lin et al. (2022), "Reasonable
    Effectiveness of Random Weighting", algorithm 2.

    seed (int): The seed of the random numbers.
    """
    return RandomWeights(seed)


@checked("spacy-mtl.DynamicWeightAverage.v1")
def create_dynamic_weight_average_v1(
    window: Count = 100, temperature: Annotated[float, Range(0.001, 1e6)] = 2.0
) -> DynamicWeightAverage:
    """Weight the tasks by how slowly their losses fall: Liu, Johns and Davison (2019), "End-to-End
    Multi-Task Learning with Attention", equation 7.

    window (int): The number of updates over which a loss is averaged; an epoch in the paper. All
        weights are 1 in the first two windows.
    temperature (float): Divides the logits. A higher value makes the weights more even.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return DynamicWeightAverage(window, temperature)


@checked("spacy-mtl.GradNorm.v1")
def create_gradnorm_v1(
    learn_rate: StepSize = 0.025, alpha: Annotated[float, Range(0, 10)] = 1.5
) -> GradNorm:
    """Learn weights that balance the tasks' gradient norms and training rates: Chen et al. (2018),
    "GradNorm", equation 2, with a softmax in place of the renormalization.

    The norms are taken at the token matrix. The paper takes them at the weights of the last shared
    layer.

    learn_rate (float): The step size of the logits.
    alpha (float): How strongly to favour tasks whose loss has fallen less than that of the others.
        With 0 all norms become equal.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return GradNorm(learn_rate, alpha)


@checked("spacy-mtl.FAMO.v1")
def create_famo_v1(
    learn_rate: StepSize = 1.0, decay: Annotated[float, Range(0, 0.1)] = 0.001
) -> FAMO:
    """Weight the tasks so that their losses fall at the same rate: Liu et al. (2023), "FAMO: Fast
    Adaptive Multitask Optimization", algorithm 1.

    The fall of a loss is measured at the next batch. The paper runs the same batch again. The noise
    of this does not accumulate, because the falls add up to the difference between the first batch
    and the last.

    learn_rate (float): The step size of the logits.
    decay (float): The decay of the logits towards 0, per step and relative to the step size.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return FAMO(learn_rate, decay)
