"""A balancer that stops training the encoder on tasks that no longer improve."""

import math
import warnings
from collections.abc import Mapping, Sequence

from ..arguments import Count, Rate, checked
from ..encoder.training_pass import Balancer, TaskBatch
from ..errors import Errors, Warnings
from ..types import Settings
from .base import ScalarBalancer, check_names


class EarlyStopping(ScalarBalancer):
    """Lowers the weight of a task whose own score has not improved for its patience.

    It is a ScoreListener: loggers pass the scores of each evaluation to `on_scores`.

    balancer (ScalarBalancer): Gives the weights of the tasks that still run.
    patience (Dict[str, int]): By task the evaluations without a new best score after which it
        stops. A task without an entry never stops.
    factor (float): Multiplies the weight of a stopped task. With 0 the task is left out of the
        batch, and its head is frozen.
    """

    STATE = {"best": dict[str, float], "waited": dict[str, int], "stopped": list[str]}
    by_task = ("best", "waited")

    def __init__(self, balancer: Balancer, patience: dict[str, int], factor: float) -> None:
        if not isinstance(balancer, ScalarBalancer):
            raise ValueError(Errors.M027.format(balancer=type(balancer).__name__))
        self.balancer, self.patience, self.factor = balancer, patience, factor
        self.best: dict[str, float] = {}
        self.waited: dict[str, int] = {}
        self.stopped: list[str] = []
        self._has_scores = False
        self._steps = 0

    @property
    def frozen(self) -> list[str]:
        """RETURNS (List[str]): The tasks whose heads must be frozen."""
        return [] if self.factor else self.stopped

    def on_scores(self, scores: Mapping[str, float]) -> None:
        """Stop the tasks that have run out of patience. A stopped task never starts again.

        scores (Mapping[str, float]): The score of each task in an evaluation. Higher is better.
        """
        self._has_scores = True
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
        """Advance the inner balancer. Warn by W004 if no scores have arrived by the second update:
        spaCy evaluates after the first one.
        """
        self.balancer.step()
        self._steps += 1
        # `spacy mtl debug` makes a single update and does not evaluate.
        if self._steps == 2 and self.patience and not self._has_scores:
            warnings.warn(Warnings.W004.format(effect="spacy-mtl.EarlyStopping.v1 stops no task"))

    def rename(self, names: Mapping[str, str]) -> None:
        super().rename(names)
        self.balancer.rename(names)
        self.stopped = [names[task] for task in self.stopped if task in names]

    def state_dict(self) -> Settings:
        return {"balancer": self.balancer.state_dict(), **super().state_dict()}

    def load_state_dict(self, state: Settings) -> None:
        super().load_state_dict(state)
        self.balancer.load_state_dict(state.get("balancer", {}))
        self._has_scores = self._has_scores or bool(self.best)


@checked("spacy-mtl.EarlyStopping.v1")
def create_early_stopping_v1(
    balancer: Balancer, patience: dict[str, Count], factor: Rate = 0.0
) -> EarlyStopping:
    """Stop a task whose own score has not improved for its patience, while the others go on. The
    logger `spacy-mtl.ProgressLogger.v1` or `spacy-mtl.TaskCheckpoints.v1` passes on the scores.
    Without such a logger no task stops, and W004 says so.

    balancer (Balancer): Gives the weights of the tasks that still run; any but GradDrop.
    patience (Dict[str, int]): By component the evaluations without a new best score, >= 1, after
        which it stops. A component without an entry never stops.
    factor (float): Multiplies the weight of a stopped task, from 0 to below 1. With 0 its head is
        frozen as well. A stock head is not frozen: it trains on without the encoder.
    RAISES (ValueError): M058 for a value out of range, M027 for GradDrop; M020, when the pipeline
        is initialized, for a name that no component has.
    """
    return EarlyStopping(balancer, patience, factor)
