"""What every way of weighting the tasks shares."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, get_origin

from ..encoder.hub import TaskBatch, rename_keys
from ..errors import Errors
from ..storage import check_type
from ..types import Floats2d

EPSILON = 1e-8  # of a loss, where its logarithm or inverse is taken


class ScalarBalancer:
    """Multiplies each task's gradient by a number and adds them up.

    A method is a subclass with `weigh`. One with a state also has STATE, and names in `by_task` its
    attributes that are dicts with a value for each task.
    """

    STATE: Mapping[str, Any] = {}  # the types of the attributes to save, as `check_type` has them
    by_task: ClassVar[Sequence[str]] = ()

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        """RETURNS (Dict[str, float]): The weight of each task of the batch."""
        raise NotImplementedError

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        """RETURNS (Tuple[Floats2d, Dict[str, float]]): The weighted sum, N x H, and the weights."""
        weights = self.weigh(batch)
        total: Any = 0
        for task, gradient in batch.gradients.items():
            total = total + weights[task] * gradient
        return total, weights

    def check(self, tasks: Sequence[str]) -> None:
        """RAISES (ValueError): M020 if the settings name a task that is not among `tasks`."""

    def step(self) -> None:
        """Called once per update of the weights."""

    def rename(self, names: Mapping[str, str]) -> None:
        """Carry the state of tasks over to their new names, and drop that of all others.

        names (Mapping[str, str]): The new name of each task.
        """
        for attribute in self.by_task:
            setattr(self, attribute, rename_keys(getattr(self, attribute), names))

    def to_dict(self) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): The state to save, as JSON can hold it."""
        return {name: deepcopy(getattr(self, name)) for name in self.STATE}

    def from_dict(self, state: dict[str, Any]) -> None:
        """Restore what `to_dict` returned. What is missing becomes as new.

        RAISES (ValueError): M049 if a value is of another type.
        """
        method = type(self).__name__
        check_type(state, dict[str, Any], method)
        new = {name: (get_origin(kind) or kind)() for name, kind in self.STATE.items()}
        for name, kind in self.STATE.items():
            value = check_type(state.get(name, new[name]), kind, f"{method}.{name}")
            setattr(self, name, value)


class RandomBalancer(ScalarBalancer):
    """Has random numbers that depend on nothing but the seed and on how many batches there were.

    seed (int): Of the random numbers.
    """

    STATE = {"batches": int}

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.batches = 0

    def draw_seeds(self) -> list[int]:
        """RETURNS (List[int]): Seeds for a batch."""
        self.batches += 1
        return [self.seed, self.batches]


def share(logits: Mapping[str, float]) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The softmax times the number of tasks: the mean weight is 1, as
    in the plain sum, whichever tasks are there.
    """
    highest = max(logits.values())
    powers = {task: math.exp(logit - highest) for task, logit in logits.items()}
    mean = sum(powers.values()) / len(powers)
    return {task: power / mean for task, power in powers.items()}


def check_names(given: Sequence[str], tasks: Sequence[str]) -> None:
    """RAISES (ValueError): M020 if a name is not among the tasks."""
    unknown = sorted(set(given) - set(tasks))
    if unknown:
        raise ValueError(Errors.M020.format(unknown=unknown, tasks=sorted(tasks)))
