"""Weights that the config gives: numbers or schedules."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..arguments import Range, checked
from ..encoder.hub import TaskBatch
from ..schedule import Schedule
from .base import ScalarBalancer, check_names

WEIGHT = Range(0, 1e6)


class StaticWeights(ScalarBalancer):
    """A weight for each task, 1 where none is given.

    weights (Dict[str, Any]): For each component a number >= 0 or a thinc schedule, which moves on
        with every update of the weights.
    """

    STATE = {"steps": int}

    def __init__(self, weights: dict[str, Any]) -> None:
        self.weights = {
            name: Schedule(weight, partial(WEIGHT.check, "balancer", f"weights[{name!r}]"))
            for name, weight in weights.items()
        }
        self.steps = 0

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        known = self.weights
        return {task: known[task][self.steps] if task in known else 1.0 for task in batch.names}

    def check(self, tasks: Sequence[str]) -> None:
        check_names(list(self.weights), tasks)

    def step(self) -> None:
        self.steps += 1


@checked("spacy-mtl.StaticWeights.v1")
def create_static_weights_v1(weights: dict[str, Any] = {}) -> StaticWeights:  # noqa: B006
    """Weight the tasks by numbers or schedules from the config.

    weights (Dict[str, Union[float, Iterable[float]]]): For each component a number >= 0 or a
        thinc schedule; 1 for a component that is not named.
    RAISES (ValueError): M058 for a weight out of range; M020, when the pipeline is
        initialized, for a name that no component has.
    """
    return StaticWeights(weights)
