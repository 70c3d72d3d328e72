"""Balancers that remove the scale of a task's loss or gradient."""

import math

from ..arguments import Rate, checked
from ..encoder.training_pass import TaskBatch
from .base import EPSILON, ScalarBalancer


class GeometricMean(ScalarBalancer):
    """Minimizes the geometric mean of the losses, times their number."""

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        logs = {task: math.log(max(loss, EPSILON)) for task, loss in batch.losses.items()}
        mean = sum(logs.values()) / len(logs)
        return {task: math.exp(mean - log) for task, log in logs.items()}


class DBMTL(ScalarBalancer):
    """Minimizes the logarithms of the losses, with gradients of equal norm.

    beta (float): The decay of the running mean of a norm, per batch.
    """

    STATE = {"norms": dict[str, float]}
    by_task = ("norms",)

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.norms: dict[str, float] = {}

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        weights = dict.fromkeys(batch.names, 1.0)
        active = [task for task in batch.names if batch.norms[task]]
        for task in active:
            loss = max(batch.losses[task], EPSILON)
            norm = batch.norms[task] / loss
            average = self.beta * self.norms.get(task, norm) + (1 - self.beta) * norm
            self.norms[task] = average
            weights[task] = 1 / (loss * average)
        plain = sum(batch.norms[task] for task in active)
        weighted = sum(weights[task] * batch.norms[task] for task in active)
        return weights | {task: weights[task] * plain / weighted for task in active}


def create_geometric_mean_v1() -> GeometricMean:
    """Minimize the geometric mean of the losses: the geometric loss strategy of Chennupati et al.
    (2019), "MultiNet++".

    The mean is multiplied by the number of tasks, so that tasks with equal losses have the weight
    1.
    """
    return GeometricMean()


@checked("spacy-mtl.DBMTL.v1")
def create_db_mtl_v1(beta: Rate = 0.9) -> DBMTL:
    """Minimize the logarithms of the losses, with gradients of equal norm: Lin et al. (2023),
    "Dual-Balancing for Multi-Task Learning", algorithm 1.

    There are two differences from the paper. It averages gradients over batches. At the token
    matrix each batch has its own rows, so norms are averaged instead. It scales each gradient to
    the largest norm, which would change the learning rate. Here the sum of the norms stays that of
    the plain sum.

    beta (float): The decay of the running mean of a norm, per batch, from 0 to below 1.
    RAISES (ValueError): M058 for a beta out of range.
    """
    return DBMTL(beta)
