"""The interface of a runtime: how the encoder's forward and backward passes are computed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

RuntimeName = Literal["auto", "eager", "cpu"]


class Block(NamedTuple):
    """Sequences of one length in a packed pass. Each sequence attends to itself only.

    n (int): The number of sequences, B.
    length (int): Wordpieces per sequence, padding included, L.
    mask (Optional[torch.Tensor]): What to add to the attention scores of the last K of L keys, in
        any shape that broadcasts to B x H x L x K.
    """

    n: int
    length: int
    mask: torch.Tensor | None


@dataclass
class Plan:
    """One call of the encoder.

    inputs (Dict[str, Union[torch.Tensor, bool]]): The keyword arguments.
    rows (torch.Tensor): Which wordpieces of the batch of docs the call reads, P.
    places (torch.Tensor): Their positions in the flattened output, P.
    blocks (Sequence[Block]): The groups of a packed call; empty for an ordinary one.
    """

    inputs: dict[str, torch.Tensor | bool]
    rows: torch.Tensor
    places: torch.Tensor
    blocks: Sequence[Block] = ()


Forward: TypeAlias = Callable[[Plan], Any]  # returns Hugging Face's output
Gradients: TypeAlias = Sequence[torch.Tensor | None]


@dataclass
class Part:
    """The calls of one thread in training.

    rows (List[torch.Tensor]): For each call the wordpieces that it has read.
    states (List[torch.Tensor]): For each call their hidden states, with autograd's graph.
    """

    rows: list[torch.Tensor]
    states: list[torch.Tensor]


class Runtime(ABC):
    """Computes forward and backward passes of an encoder on one kind of device."""

    @abstractmethod
    def count_threads(self, module: torch.nn.Module, *, is_train: bool) -> int:
        """RETURNS (int): The number of threads that share one pass over a batch of docs."""

    @abstractmethod
    def can_pack(self, module: torch.nn.Module) -> bool:
        """RETURNS (bool): Whether one call may read batches of several lengths as blocks."""

    @abstractmethod
    def predicting(
        self, module: torch.nn.Module, dtype: torch.dtype
    ) -> AbstractContextManager[Forward]:
        """Prepare predictions in the current thread.

        module (torch.nn.Module): The encoder in evaluation mode, with weights of this dtype.
        dtype (torch.dtype): The precision.
        YIELDS (Callable[[Plan], ModelOutput]): Calls the module.
        """

    @abstractmethod
    def training(
        self, module: torch.nn.Module, dtype: torch.dtype, ids: Sequence[int], seed: int
    ) -> AbstractContextManager[Forward]:
        """Prepare the forward passes of a training batch in the current thread.

        module (torch.nn.Module): The encoder in training mode.
        dtype (torch.dtype): The precision of the activations.
        ids (Sequence[int]): All vocabulary ids of the batch.
        seed (int): The seed of this thread's dropout.
        YIELDS (Callable[[Plan], ModelOutput]): Calls the module.
        """

    @abstractmethod
    def backward(
        self,
        parts: Sequence[Part],
        gradients: Sequence[Sequence[torch.Tensor]],
        weights: Sequence[torch.nn.Parameter],
    ) -> None:
        """Add to `weight.grad` of all weights.

        parts (Sequence[Part]): The forward passes.
        gradients (Sequence[Sequence[torch.Tensor]]): The gradient of each part's states.
        weights (Sequence[torch.nn.Parameter]): The weights that learn.
        """

    @abstractmethod
    def get_gradients(
        self,
        parts: Sequence[Part],
        gradients: Sequence[Sequence[torch.Tensor]],
        weights: Sequence[torch.nn.Parameter],
    ) -> torch.Tensor:
        """RETURNS (torch.Tensor): The gradient of the weights as one row, P. Leaves `weight.grad`
        alone, and the graph for further calls.
        """


def flatten(gradients: Gradients) -> torch.Tensor:
    """RETURNS (torch.Tensor): Gradients as one row."""
    return torch.cat([g.to_dense().flatten() for g in gradients if g is not None])
