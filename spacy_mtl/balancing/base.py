"""Base classes of balancers, for the methods here and in other packages.

A balancer combines the tasks' gradients at the token matrix into the one gradient that the encoder
backpropagates. Register a function that returns one under `@misc`.
"""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import reduce
from typing import Any, ClassVar, get_origin

import torch

from ..encoder.training_pass import TaskBatch, rename_keys
from ..errors import Errors
from ..storage import check_type
from ..types import Floats2d, Settings

EPSILON = 1e-8  # lower bound of a loss before its logarithm or inverse
CHUNK = 1 << 20  # columns converted to float64 at a time
ROUNDING = 1e-10  # a squared norm below this share of its terms' is rounding error


class BaseBalancer(ABC):
    """Combines the tasks' gradients and keeps the state that it learns in training.

    A subclass lists its state in STATE: the attributes that are saved, with their types. It lists
    in `by_task` its attributes that are dicts with one value per task.
    """

    STATE: ClassVar[Mapping[str, Any]] = {}  # types as in `check_type`
    by_task: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        """Combine the gradients of a batch, without changing them.

        batch (TaskBatch): The losses and gradients of the tasks that have labels in this batch.
        RETURNS (Tuple[Floats2d, Dict[str, float]]): The encoder's gradient, N x H, and the weight
            of each task, which the logger shows.
        """

    def check(self, tasks: Sequence[str]) -> None:  # noqa: B027 -- optional
        """Check the settings against the tasks of the encoder. Called before training.

        tasks (Sequence[str]): The names of the components that listen to the encoder.
        RAISES (ValueError): M020 if the settings name another component.
        """

    def step(self) -> None:  # noqa: B027 -- optional
        """Advance the state after an update of the weights. An update has one or more batches."""

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename tasks in the state, and delete the state of all other tasks.

        names (Mapping[str, str]): The new name of each task by its old name.
        """
        for attribute in self.by_task:
            setattr(self, attribute, rename_keys(getattr(self, attribute), names))

    def state_dict(self) -> Settings:
        """RETURNS (Dict[str, Any]): A copy of the state that can be written as JSON."""
        return {name: deepcopy(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: Settings) -> None:
        """Replace the state. Missing entries get their initial values.

        state (Mapping[str, Any]): A result of `state_dict`.
        RAISES (ValueError): M049 if a value has the wrong type.
        """
        method = type(self).__name__
        check_type(state, dict[str, Any], method)
        initial = {name: (get_origin(kind) or kind)() for name, kind in self.STATE.items()}
        for name, kind in self.STATE.items():
            value = check_type(state.get(name, initial[name]), kind, f"{method}.{name}")
            setattr(self, name, value)

    def to_dict(self) -> Settings:
        """RETURNS (Dict[str, Any]): The result of `state_dict`, by the name of version 0.1.0."""
        return self.state_dict()

    def from_dict(self, state: Settings) -> None:
        """Call `load_state_dict`, by the name of version 0.1.0."""
        self.load_state_dict(state)


class ScalarBalancer(BaseBalancer):
    """Multiplies each task's gradient by a weight and adds the results up.

    A method is a subclass with `weigh`.
    """

    @abstractmethod
    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        """Compute the weights of the tasks. Called once per batch.

        batch (TaskBatch): The losses and gradients of the tasks that have labels in this batch.
        RETURNS (Dict[str, float]): The weight of each task of the batch.
        """

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        weights = self.weigh(batch)
        weighted = (weights[task] * gradient for task, gradient in batch.gradients.items())
        return add(weighted), weights


class EqualWeights(ScalarBalancer):
    """Gives every task the weight 1."""

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        return dict.fromkeys(batch.names, 1.0)


class RandomBalancer(BaseBalancer):
    """Draws random numbers that depend only on the seed and on the number of batches so far.

    seed (int): The seed.
    """

    STATE = {"batches": int}

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.batches = 0

    def draw_seeds(self) -> list[int]:
        """RETURNS (List[int]): The seeds of the next batch, for `numpy.random.default_rng`."""
        self.batches += 1
        return [self.seed, self.batches]


class PriorBalancer(RandomBalancer):
    """Multiplies the gradients by prior weights before its method, like factors of the losses.

    prior (ScalarBalancer): Gives the prior weights. Its state is saved with this one's.
    seed (int): The seed of the random numbers.
    """

    def __init__(self, prior: ScalarBalancer, seed: int) -> None:
        super().__init__(seed)
        self.prior = prior

    def check(self, tasks: Sequence[str]) -> None:
        self.prior.check(tasks)

    def step(self) -> None:
        self.prior.step()

    def rename(self, names: Mapping[str, str]) -> None:
        super().rename(names)
        self.prior.rename(names)

    def state_dict(self) -> Settings:
        return super().state_dict() | {"prior": self.prior.state_dict()}

    def load_state_dict(self, state: Settings) -> None:
        super().load_state_dict(state)
        self.prior.load_state_dict(state.get("prior", {}))


class GradientBalancer(PriorBalancer, ScalarBalancer):
    """Weights the tasks by the dot products of their gradients, the Gramian.

    A method is a subclass with `solve`. This one follows the mean of the unit gradients:

        class UnitMean(GradientBalancer):
            def solve(self, tasks, gramian, seeds):
                return 1 / gramian.diagonal().sqrt()

        @spacy.registry.misc("unit_mean.v1")
        def create_unit_mean(level: str = "last_layer"):
            return UnitMean(level)

    level (str): Where gradients are compared: "features", the token matrix; "last_layer", the
        weights of the encoder's last layer; or "params", all weights of the encoder.
    rescale (bool): Whether to give the result the norm of the plain sum at that level.
    prior (ScalarBalancer): Gives weights that the gradients are multiplied by first.
    seed (int): The seed of the random numbers.
    """

    def __init__(
        self,
        level: str,
        rescale: bool = True,
        prior: ScalarBalancer | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(prior or EqualWeights(), seed)
        self.level, self.rescale = level, rescale

    @abstractmethod
    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        """Compute the weights of two or more tasks. Tasks whose gradient is zero at the level are
        left out and keep their prior weight.

        tasks (List[str]): The names of the K tasks.
        gramian (torch.Tensor): The dot products of their gradients after the prior weights,
            K x K, float64 on the CPU, divided by the mean squared norm.
        seeds (List[int]): Seeds of this batch, for `numpy.random.default_rng`.
        RETURNS (torch.Tensor): The weights, K, float64.
        """

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        seeds = self.draw_seeds()
        weights = self.prior.weigh(batch)
        active = sorted(task for task in batch.names if weights[task] * batch.norms[task])
        if len(active) < 2:
            return weights
        gramian = get_gramian(batch.get_rows(active, self.level))
        # A head that reads only lower layers has no gradient in the last one.
        nonzero = gramian.diagonal().nonzero().flatten()
        if len(nonzero) < 2:
            return weights
        active, gramian = [active[i] for i in nonzero], gramian[nonzero][:, nonzero]
        prior = torch.tensor([weights[task] for task in active], dtype=gramian.dtype)
        gramian *= torch.outer(prior, prior)
        gramian /= gramian.diagonal().mean()
        solution = self.solve(active, gramian, seeds)
        if self.rescale:
            solution = solution * get_scale(gramian, solution)
        return weights | dict(zip(active, (prior * solution).tolist(), strict=True))


def get_gramian(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """RETURNS (torch.Tensor): The dot products of all rows, K x K, float64 on the CPU."""
    gramian = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    chunks = zip(*(row.split(CHUNK) for row in rows), strict=True)
    for chunk in chunks:
        part = torch.stack(chunk).double()
        gramian += (part @ part.T).cpu()
    return gramian


def get_scale(gramian: torch.Tensor, weights: torch.Tensor) -> float:
    """Compute the factor that gives the weighted sum of gradients the norm of their plain sum.

    RETURNS (float): The factor. It is negative if the weighted sum would raise the sum of the
        losses, as that of IMTL-G can. It is 1 if the weighted sum is zero up to rounding.
    """
    products = gramian @ weights
    square = float(weights @ products)
    if square <= ROUNDING * float(weights**2 @ gramian.diagonal()):
        return 1.0
    norm = (max(float(gramian.sum()), 0.0) / square) ** 0.5
    return math.copysign(norm, float(products.sum()))


def add(gradients: Iterable[Floats2d]) -> Floats2d:
    """RETURNS (Floats2d): The sum of one or more gradients, N x H, numpy's or cupy's."""
    return reduce(operator.add, gradients)


def softmax_weights(logits: Mapping[str, float]) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The softmax times the number of tasks, so that the mean weight
    is 1 as in the plain sum.
    """
    highest = max(logits.values())
    powers = {task: math.exp(logit - highest) for task, logit in logits.items()}
    mean = sum(powers.values()) / len(powers)
    return {task: power / mean for task, power in powers.items()}


def check_names(given: Sequence[str], tasks: Sequence[str]) -> None:
    """RAISES (ValueError): M020 if a name is not one of the tasks."""
    unknown = sorted(set(given) - set(tasks))
    if unknown:
        raise ValueError(Errors.M020.format(unknown=unknown, tasks=sorted(tasks)))
