"""Fixed task weights from the config: numbers or schedules."""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

from ..arguments import Range, checked
from ..encoder.training_pass import TaskBatch
from ..schedule import Schedule
from .base import ScalarBalancer, check_names

Weights: TypeAlias = dict[str, Any]  # by component a number or a thinc schedule
WEIGHT = Range(0, 1e6)


class StaticWeights(ScalarBalancer):
    """Gives each task the weight from its settings, or 1.

    weights (Dict[str, Union[float, Iterator[float]]]): By component a number >= 0 or a thinc
        schedule, which advances with every update of the weights.
    """

    STATE = {"steps": int}

    def __init__(self, weights: Weights) -> None:
        self.weights = {
            name: Schedule(weight, partial(WEIGHT.check, "balancer", f"weights[{name!r}]"))
            for name, weight in weights.items()
        }
        self.steps = 0

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        given = self.weights
        return {task: given[task][self.steps] if task in given else 1.0 for task in batch.names}

    def check(self, tasks: Sequence[str]) -> None:
        check_names(list(self.weights), tasks)

    def step(self) -> None:
        self.steps += 1


@checked("spacy-mtl.StaticWeights.v1")
def create_static_weights_v1(weights: Weights = {}) -> StaticWeights:  # noqa: B006
    """Weight the tasks by numbers or schedules from the config.

    weights (Dict[str, Union[float, Iterable[float]]]): By component a number >= 0 or a thinc
        schedule. The default is 1.
    RAISES (ValueError): M058 for a weight out of range; M020, when the pipeline is
        initialized, for a name that no component has.
    """
    return StaticWeights(weights)
