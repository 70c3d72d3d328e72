"""Sums of gradients, some of them sparse, in memory that is reused from update to update."""

from collections.abc import Sequence

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from ..base import Gradients

# Memory for dense gradients of vocabularies, by weight. Fresh pages cost more than the sums.
# None while a gradient uses it.
MEMORY = WeakTensorKeyDictionary()


def to_dense(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): A sparse gradient as a dense tensor."""
    memory, MEMORY[weight] = MEMORY.get(weight), None
    return (torch.empty_like(weight) if memory is None else memory).zero_().add_(gradient)


def keep_memory(module: torch.nn.Module) -> None:
    """Keep the memory of gradients that were sparse, after an update of the weights."""
    for weight in module.parameters():
        if weight.grad is not None and weight in MEMORY:
            MEMORY[weight] = weight.grad


def add_to(weights: Sequence[torch.nn.Parameter], gradients: Gradients) -> None:
    """Add gradients to `weight.grad`."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad += gradient
