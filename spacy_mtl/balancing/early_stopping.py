"""A task that has stopped improving leaves the encoder to the others."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import Count, Rate, checked
from ..encoder.hub import TaskBatch
from ..errors import Errors, Warnings
from .base import ScalarBalancer, check_names


class EarlyStopping(ScalarBalancer):
    """Gives less weight, or none, to a task whose own score has not improved for its patience.

    balancer (ScalarBalancer): Weighs the tasks until then.
    patience (Dict[str, int]): For each task the evaluations that it may go on without a new best
        score. One that is not named goes on.
    factor (float): What the weight is multiplied by. With 0 the task is as if it were not there,
        and its head is frozen.
    """

    STATE = {"best": dict[str, float], "waited": dict[str, int], "stopped": list[str]}
    by_task = ("best", "waited")

    def __init__(self, balancer: Any, patience: dict[str, int], factor: float) -> None:
        # GradDrop's result is no weighted sum.
        if getattr(type(balancer), "weigh", ScalarBalancer.weigh) is ScalarBalancer.weigh:
            raise ValueError(Errors.M027.format(balancer=type(balancer).__name__))
        self.balancer, self.patience, self.factor = balancer, patience, factor
        self.best: dict[str, float] = {}
        self.waited: dict[str, int] = {}
        self.stopped: list[str] = []
        self.observer: Any = None  # who tells the scores
        self._steps = 0

    @property
    def frozen(self) -> list[str]:
        """RETURNS (List[str]): The tasks whose heads are to be frozen."""
        return [] if self.factor else self.stopped

    def observe(self, scores: Mapping[str, float]) -> None:
        """Look at the tasks' scores of an evaluation. A task that has stopped does not come back.

        scores (Mapping[str, float]): The higher, the better.
        """
        for task in [task for task in self.patience if task in scores]:
            improves = scores[task] > self.best.get(task, -math.inf)
            self.best[task] = max(scores[task], self.best.get(task, -math.inf))
            self.waited[task] = 0 if improves else self.waited.get(task, 0) + 1
            if self.waited[task] >= self.patience[task] and task not in self.stopped:
                self.stopped.append(task)

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        stopped = [task for task in batch.names if task in self.stopped]
        if self.factor:
            weights = self.balancer.weigh(batch)
            return weights | {task: self.factor * weights[task] for task in stopped}
        others = batch.select([task for task in batch.names if task not in stopped])
        weights = self.balancer.weigh(others) if others.names else {}
        return weights | dict.fromkeys(stopped, 0.0)

    def check(self, tasks: Sequence[str]) -> None:
        check_names(list(self.patience), tasks)
        self.balancer.check(tasks)

    def step(self) -> None:
        """Called once per update of the weights. Warns by W004 if nobody tells the scores."""
        self.balancer.step()
        self._steps += 1
        # A single update is no training, but a trial such as `spacy mtl debug` makes.
        if self._steps == 2 and self.patience and self.observer is None:
            warnings.warn(Warnings.W004.format(effect="spacy-mtl.EarlyStopping.v1 stops no task"))

    def rename(self, names: Mapping[str, str]) -> None:
        super().rename(names)
        self.balancer.rename(names)
        self.stopped = [names[task] for task in self.stopped if task in names]

    def to_dict(self) -> dict[str, Any]:
        return {"balancer": self.balancer.to_dict(), **super().to_dict()}

    def from_dict(self, state: dict[str, Any]) -> None:
        super().from_dict(state)
        self.balancer.from_dict(state.get("balancer", {}))


@checked("spacy-mtl.EarlyStopping.v1")
def create_early_stopping_v1(
    balancer: Any, patience: dict[str, Count], factor: Rate = 0.0
) -> EarlyStopping:
    """Stop a task whose own score has not improved for its patience, while the others go on. The
    scores come from the logger `spacy-mtl.ProgressLogger.v1` or `spacy-mtl.TaskCheckpoints.v1`:
    without either no task stops, and a warning says so.

    balancer (Balancer): Weighs the tasks until then; any but GradDrop.
    patience (Dict[str, int]): For a component the evaluations, >= 1, that it may go on without a
        new best score; one that is not named goes on.
    factor (float): What its weight is multiplied by then, from 0 to below 1. With 0 its head is
        frozen as well; a stock head goes on, without the encoder.
    RAISES (ValueError): M058 for another number, M027 for GradDrop; M020, when the pipeline is
        initialized, for a name that no component has.
    """
    return EarlyStopping(balancer, patience, factor)
