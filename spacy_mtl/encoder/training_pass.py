"""One training pass: from the encoder's forward to its one backward."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import local
from typing import Protocol, TypeVar, runtime_checkable

import torch
from spacy.tokens import Doc
from thinc.api import Optimizer

from ..errors import Errors
from ..types import Floats2d, Settings, get_xp
from .model.backward import EncoderPass
from .runtime.cpu.ops import norm
from .token_matrix import TokenMatrix, TokenRows, get_rows

T = TypeVar("T")


@dataclass
class TaskBatch:
    """The losses and gradients of the tasks in one training pass. Tasks without labels are not in
    it.

    losses (Dict[str, float]): Each task's loss, by component name. Our heads report the mean per
        labelled unit in nats.
    gradients (Dict[str, Floats2d]): Each task's gradient at the token matrix, N x H, or N x K * H
        if listeners read K layers.
    units (Dict[str, int]): The number of labelled units behind each loss, 0 if it is not known.
    gradient_at (Optional[Callable[[Floats2d, str], torch.Tensor]]): Takes such a gradient to a
        level, as `EncoderPass.gradient_at`.
    """

    losses: dict[str, float]
    gradients: dict[str, Floats2d]
    gradient_at: Callable[[Floats2d, str], torch.Tensor] | None = None
    units: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.gradients)

    @cached_property
    def norms(self) -> dict[str, float]:
        """RETURNS (Dict[str, float]): The norm of each task's gradient at the token matrix."""
        return {name: norm(gradient) for name, gradient in self.gradients.items()}

    @property
    def broken(self) -> list[str]:
        """RETURNS (List[str]): The tasks whose loss or gradient is NaN or infinite."""
        values = {name: (self.losses[name], self.norms[name]) for name in self.names}
        return [name for name, own in values.items() if not all(map(math.isfinite, own))]

    def select(self, names: Sequence[str]) -> "TaskBatch":
        """RETURNS (TaskBatch): The batch of some of the tasks."""
        return TaskBatch(
            {name: self.losses[name] for name in names},
            {name: self.gradients[name] for name in names},
            self.gradient_at,
            {name: self.units[name] for name in names if name in self.units},
        )

    def get_rows(self, names: Sequence[str], level: str) -> list[torch.Tensor]:
        """RETURNS (List[torch.Tensor]): The gradients of some tasks at a level, each as one row.
        RAISES (ValueError): M025 if the encoder has no such level.
        """
        assert self.gradient_at is not None
        return [self.gradient_at(self.gradients[name], level) for name in names]


@runtime_checkable
class Balancer(Protocol):
    """Combines the tasks' gradients into one. `spacy_mtl.balancing` has the methods."""

    def check(self, tasks: Sequence[str]) -> None:
        """RAISES (ValueError): If the settings name a task that is not among `tasks`."""

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        """RETURNS (Tuple[Floats2d, Dict[str, float]]): The encoder's gradient, N x H, and the
        weight of each task.
        """

    def step(self) -> None:
        """Called once per update of the weights, after the last `combine`."""

    def rename(self, names: Mapping[str, str]) -> None:
        """Move the state of tasks to their new names, and drop the state of all others."""

    def state_dict(self) -> Settings:
        """RETURNS (Dict[str, Any]): The state to save, as JSON can hold it."""

    def load_state_dict(self, state: Settings) -> None:
        """Replace the state by one that `state_dict` returned."""


@dataclass
class PassResult:
    """The outcome of a training pass.

    batch (TaskBatch): The tasks that took part.
    weights (Dict[str, float]): The weight of each of them.
    broken (TaskBatch): The tasks that were left out because their loss or gradient was NaN or
        infinite.
    """

    batch: TaskBatch
    weights: dict[str, float]
    broken: TaskBatch

    @property
    def loss(self) -> float:
        """RETURNS (float): The weighted sum of the losses."""
        return sum(self.weights[task] * self.batch.losses[task] for task in self.weights)


class LossTotals:
    """Reads the losses of stock heads, which report them by adding to spaCy's `losses` dict only.

    totals (Dict[str, float]): The dict that all components of an update share.
    """

    def __init__(self, totals: dict[str, float]) -> None:
        self.totals, self.before = totals, dict(totals)

    def get_added(self, task: str) -> float:
        """RETURNS (float): What a component has added since the pass opened."""
        return float(self.totals.get(task, 0.0) - self.before.get(task, 0.0))

    def undo(self, task: str) -> None:
        """Remove what a component has added."""
        self.totals[task] = self.before.get(task, 0.0)


class TrainingPass:
    """One forward pass of the encoder, and the gradients that listeners send back.

    Each task has its own gradient, N x H. Nothing reaches the encoder until `close` combines them
    and runs the one backward, so that neither the order of heads nor a head without labels loses a
    gradient.

    matrix (TokenMatrix): The output of the forward pass.
    backward (EncoderPass): The encoder's backward.
    tasks (Dict[int, str]): The component of each listener, by the listener's id.
    awaited (Set[int]): The ids of the enabled listeners that send gradients.
    losses (Dict[str, float]): spaCy's dict of the update's losses.
    optimizer (Optional[Optimizer]): Updates the encoder when the pass is closed, if one was given.
    """

    def __init__(
        self,
        matrix: TokenMatrix,
        backward: EncoderPass,
        tasks: dict[int, str],
        awaited: set[int],
        losses: dict[str, float],
    ) -> None:
        self.matrix, self.backward = matrix, backward
        self.tasks, self.awaited = tasks, awaited
        self.totals = LossTotals(losses)
        self.losses: dict[str, float] = {}
        self.units: dict[str, int] = {}
        self.gradients: dict[str, Floats2d] = {}
        self.received: set[int] = set()
        self.is_open = True
        self.optimizer: Optimizer | None = None
        self.on_complete: Callable[[], None] | None = None

    def report(self, task: str, loss: float, n_units: int) -> None:
        """Add to the loss of a task.

        task (str): The component.
        loss (float): The mean loss per labelled unit in nats.
        n_units (int): The number of labelled units.
        """
        self.losses[task] = self.losses.get(task, 0.0) + loss
        self.units[task] = self.units.get(task, 0) + n_units

    def receive(
        self, listener: int, rows: Sequence[TokenRows], gradients: Sequence[Floats2d]
    ) -> None:
        """Add to the gradient of a listener's task.

        listener (int): The listener's id.
        rows (Sequence[TokenRows]): The docs that it has read.
        gradients (Sequence[Floats2d]): The gradient of each doc's rows, for the last layer or for
            all layers of the matrix.
        RAISES (ValueError): M010 if the pass is closed, M077 if the listener belongs to another
            encoder.
        """
        task = self.tasks.get(listener)
        if task is None:
            raise ValueError(Errors.M077.format(tasks=sorted(set(self.tasks.values()))))
        if not self.is_open:
            raise ValueError(Errors.M010.format(task=task))
        if task not in self.gradients:
            xp = get_xp(self.matrix.data)
            self.gradients[task] = xp.zeros(self.matrix.data.shape, dtype="f")
        for row, gradient in zip(rows, gradients, strict=True):
            # The columns of the last layer, or all columns.
            self.gradients[task][row.start : row.end, -gradient.shape[1] :] += gradient
        self.received.add(listener)
        if self.is_complete and self.on_complete is not None:
            self.on_complete()

    @property
    def is_complete(self) -> bool:
        """RETURNS (bool): Whether all enabled listeners have sent a gradient."""
        return self.received >= self.awaited

    def close(self, balancer: Balancer) -> PassResult | None:
        """Combine the gradients and run the encoder's backward. Later gradients are errors.

        balancer (Balancer): Combines the gradients.
        RETURNS (Optional[PassResult]): The outcome; None if no listener has sent a gradient.
        """
        self.is_open = False
        if not self.gradients:
            return None
        reported = {
            task: self.losses[task] if task in self.losses else self.totals.get_added(task)
            for task in self.gradients
        }
        batch = TaskBatch(reported, self.gradients, self.backward.gradient_at, self.units)
        broken = batch.select(batch.broken)
        for task in broken.names:
            self.totals.undo(task)
        if broken.names:
            batch = batch.select([task for task in batch.names if task not in broken.losses])
        weights: dict[str, float] = {}
        if batch.names:
            gradient, weights = balancer.combine(batch)
            if any(weights.values()):  # a gradient of zeros would move weights by their momentum
                self.backward(gradient)
        return PassResult(batch, weights, broken)


class OpenPass(local):
    """The open training pass of each thread. A thread cannot close another thread's. Copies and
    pickles hold none.
    """

    current: TrainingPass | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return OpenPass, ()


def report_loss(docs: Sequence[Doc], task: str, loss: float, n_units: int) -> None:
    """Report a head's loss to the training passes that its docs were encoded in, before the head's
    backward.

    docs (Sequence[Doc]): The predicted docs of the batch.
    task (str): The head's component name.
    loss (float): The mean loss per labelled unit in nats.
    n_units (int): The number of labelled units.
    """
    passes = {id(rows.training_pass): rows.training_pass for rows in map(get_rows, docs) if rows}
    for opened in passes.values():
        if opened is not None:
            opened.report(task, loss, n_units)


def rename_keys(values: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """RETURNS (Dict[str, T]): The values of the tasks that have a new name, by that name."""
    return {names[task]: value for task, value in values.items() if task in names}
