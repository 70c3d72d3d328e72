"""Where the listeners' gradients meet before the encoder's one backward."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import local
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from thinc.api import get_array_module

from ..errors import Errors
from ..products import norm
from ..types import Floats2d
from .levels import EncoderPass
from .matrix import TokenMatrix, TokenRows

T = TypeVar("T")


@dataclass
class TaskBatch:
    """What the tasks that spoke in a batch want of the encoder. Silent tasks are not in it.

    losses (Dict[str, float]): Each task's loss, by component name.
    gradients (Dict[str, Floats2d]): Each task's gradient at the token matrix, N x H; all layers
        beside each other where listeners read several.
    pull (Optional[Callable[[Floats2d, str], torch.Tensor]]): Takes such a gradient to a level, as
        `EncoderPass.pull`.
    """

    losses: dict[str, float]
    gradients: dict[str, Floats2d]
    pull: Callable[[Floats2d, str], torch.Tensor] | None = None

    @property
    def names(self) -> list[str]:
        return list(self.gradients)

    @cached_property
    def norms(self) -> dict[str, float]:
        """RETURNS (Dict[str, float]): The norm of each task's gradient at the token matrix."""
        return {name: norm(gradient) for name, gradient in self.gradients.items()}

    def select(self, names: Sequence[str]) -> "TaskBatch":
        """RETURNS (TaskBatch): What some of the tasks want."""
        return TaskBatch(
            {name: self.losses[name] for name in names},
            {name: self.gradients[name] for name in names},
            self.pull,
        )

    def get_rows(self, names: Sequence[str], level: str) -> list[torch.Tensor]:
        """RETURNS (List[torch.Tensor]): The gradients of some tasks at a level, each as one row.
        RAISES (ValueError): M025 if the encoder has no such level.
        """
        assert self.pull is not None
        return [self.pull(self.gradients[name], level) for name in names]


@runtime_checkable
class Balancer(Protocol):
    """Makes one gradient of the tasks' gradients. The methods are in `spacy_mtl.balancing`."""

    def check(self, tasks: Sequence[str]) -> None:
        """RAISES (ValueError): If the settings name a task that is not among `tasks`."""

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        """RETURNS (Tuple[Floats2d, Dict[str, float]]): The gradient for the encoder, N x H, and
        the weight of each task.
        """

    def step(self) -> None:
        """Called once per update of the weights, after the last `combine`."""

    def rename(self, names: Mapping[str, str]) -> None:
        """Carry the state of tasks over to their new names, and drop that of all others."""

    def to_dict(self) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): The state to save, as JSON can hold it."""

    def from_dict(self, state: dict[str, Any]) -> None:
        """Restore what `to_dict` returned."""


class GradientHub:
    """One forward pass of the encoder and the gradients that come back to it.

    Each task has a slot, N x H, filled while its head backpropagates. Nothing reaches the encoder
    until the slots are combined, so no order of heads and no silent head loses a gradient.

    matrix (TokenMatrix): The pass's output.
    backprop (EncoderPass): The encoder's backward.
    tasks (Dict[int, str]): The component that each listener, by its id, belongs to.
    awaited (Set[int]): The listeners that are expected to speak.
    losses (Dict[str, float]): To which the tasks add theirs.

    sgd and on_complete are set when the encoder is to be updated as soon as all have spoken.
    """

    def __init__(
        self,
        matrix: TokenMatrix,
        backprop: EncoderPass,
        tasks: dict[int, str],
        awaited: set[int],
        losses: dict[str, float],
    ) -> None:
        self.matrix = matrix
        self.backprop = backprop
        self.tasks = tasks
        self.awaited = awaited
        self.losses, self.losses_before = losses, dict(losses)
        self.slots: dict[str, Floats2d] = {}
        self.heard: set[int] = set()
        self.is_open = True
        self.sgd: Any = None
        self.on_complete: Callable[[], None] = lambda: None

    def receive(self, listener: int, rows: Sequence[TokenRows], gradients: Sequence[Any]) -> None:
        """Add a listener's gradient to its task's slot.

        listener (int): The listener's id.
        rows (Sequence[TokenRows]): The docs that it read.
        gradients (Sequence[Floats2d]): The gradient of each doc's rows, of the last layer or of
            all layers of the matrix.
        RAISES (ValueError): M010 if the encoder's backward has already run, M077 if the listener
            belongs to another encoder.
        """
        task = self.tasks.get(listener)
        if task is None:
            raise ValueError(Errors.M077.format(tasks=sorted(set(self.tasks.values()))))
        if not self.is_open:
            raise ValueError(Errors.M010.format(task=task))
        if task not in self.slots:
            xp = get_array_module(self.matrix.data)
            self.slots[task] = xp.zeros(self.matrix.data.shape, dtype="f")
        for row, gradient in zip(rows, gradients, strict=True):
            # The last layer's columns, or all of them.
            self.slots[task][row.start : row.end, -gradient.shape[1] :] += gradient
        self.heard.add(listener)
        if self.heard >= self.awaited:
            self.on_complete()


class OpenPass(local):
    """The open training pass of each thread. A thread can close no other's. Copies and pickles hold
    none.
    """

    hub: GradientHub | None = None

    def __reduce__(self) -> Any:
        return OpenPass, ()


def rename_keys(values: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """RETURNS (Dict[str, T]): The values of the tasks that have a new name, by these names."""
    return {names[task]: value for task, value in values.items() if task in names}
