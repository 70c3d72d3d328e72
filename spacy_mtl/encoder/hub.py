"""Where the listeners' gradients meet before the encoder's one backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from thinc.api import get_array_module

from ..errors import Errors
from ..types import Floats2d
from .matrix import TokenMatrix, TokenRows


@dataclass
class TaskBatch:
    """What the tasks that spoke in a batch want of the encoder. Silent tasks are not in it.

    losses (Dict[str, float]): Each task's loss, by component name.
    gradients (Dict[str, Floats2d]): Each task's gradient at the token matrix, N x H.
    """

    losses: dict[str, float]
    gradients: dict[str, Floats2d]

    @property
    def names(self) -> list[str]:
        return list(self.gradients)

    @property
    def masks(self) -> dict[str, Any]:
        """RETURNS (Dict[str, Bools1d]): The rows, of N, that each task has something to say of."""
        return {name: (gradient != 0).any(axis=1) for name, gradient in self.gradients.items()}


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

    def to_dict(self) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): The state to save, as JSON can hold it."""

    def from_dict(self, state: dict[str, Any]) -> None:
        """Restore what `to_dict` returned."""


class GradientHub:
    """One forward pass of the encoder and the gradients that come back to it.

    Each task has a slot, N x H, filled while its head backpropagates. Nothing reaches the encoder
    until the slots are combined, so no order of heads and no silent head loses a gradient.

    matrix (TokenMatrix): The pass's output.
    backprop (Callable): The encoder's backward.
    tasks (Dict[int, str]): The component that each listener, by its id, belongs to.

    sgd and on_complete are set when the encoder is to be updated as soon as all have spoken.
    """

    def __init__(
        self, matrix: TokenMatrix, backprop: Callable[[Floats2d], Any], tasks: dict[int, str]
    ) -> None:
        self.matrix = matrix
        self.backprop = backprop
        self.tasks = tasks
        self.slots: dict[str, Floats2d] = {}
        self.heard: set[int] = set()
        self.is_open = True
        self.sgd: Any = None
        self.on_complete: Callable[[], None] = lambda: None

    def receive(self, listener: int, rows: Sequence[TokenRows], gradients: Sequence[Any]) -> None:
        """Add a listener's gradient to its task's slot.

        listener (int): The listener's id.
        rows (Sequence[TokenRows]): The docs that it read.
        gradients (Sequence[Floats2d]): The gradient of each doc's rows.
        RAISES (ValueError): M010 if the encoder's backward has already run.
        """
        task = self.tasks.get(listener, "unknown")
        if not self.is_open:
            raise ValueError(Errors.M010.format(task=task))
        if task not in self.slots:
            xp = get_array_module(self.matrix.data)
            self.slots[task] = xp.zeros(self.matrix.data.shape, dtype="f")
        for row, gradient in zip(rows, gradients, strict=True):
            self.slots[task][row.start : row.end] += gradient
        self.heard.add(listener)
        if self.heard >= self.tasks.keys():
            self.on_complete()
