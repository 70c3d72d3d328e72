"""Weights that the config gives: numbers or schedules."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..encoder.hub import TaskBatch
from ..errors import Errors
from ..schedule import Schedule
from .base import ScalarBalancer, check_names


class StaticWeights(ScalarBalancer):
    """A weight for each task, 1 where none is given.

    weights (Dict[str, Any]): For each component a number >= 0 or a thinc schedule, which moves on
        with every update of the weights.
    """

    STATE = {"steps": int}

    def __init__(self, weights: dict[str, Any]) -> None:
        checks = {name: partial(check_weight, name) for name in weights}
        self.weights = {name: Schedule(weights[name], check) for name, check in checks.items()}
        self.steps = 0

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        known = self.weights
        return {task: known[task][self.steps] if task in known else 1.0 for task in batch.names}

    def check(self, tasks: Sequence[str]) -> None:
        check_names(list(self.weights), tasks)

    def step(self) -> None:
        self.steps += 1


def check_weight(name: str, weight: Any) -> float:
    """RETURNS (float): The weight.
    RAISES (ValueError): M021 unless it is a finite number >= 0.
    """
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight < float("inf"):
        raise ValueError(Errors.M021.format(name=name, weight=weight))
    return float(weight)


def create_static_weights_v1(weights: dict[str, Any] = {}) -> StaticWeights:  # noqa: B006
    """Weight the tasks by numbers or schedules from the config.

    weights (Dict[str, Union[float, Iterable[float]]]): For each component a number >= 0 or a
        thinc schedule; 1 for a component that is not named.
    RAISES (ValueError): M021 for a weight that is no number >= 0; M020, when the pipeline is
        initialized, for a name that no component has.
    """
    return StaticWeights(weights)
