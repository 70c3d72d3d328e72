"""Dropout on a CPU, all in integers, which is several times as fast as by way of booleans."""

from typing import Any

import numpy
import torch
from torch.nn import functional

SIGNED = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of each


def draw_kept(shape: Any, p: float, generator: numpy.random.Generator) -> torch.Tensor:
    """RETURNS (torch.Tensor): Integers of 16 bits: 0 with this probability, up to 2^-15, else -1,
    which is all ones.
    """
    n = torch.Size(shape).numel()
    # numpy's generator is twice as fast as torch's.
    bits = generator.integers(-(2**63), 2**63 - 1, -(-n // 4), endpoint=True)
    kept = torch.from_numpy(bits.view("int16")[:n]).view(shape).bitwise_right_shift_(1)
    return kept.sub_(round((1 - p) * 2**15) - 2**14).bitwise_right_shift_(15)


def keep(x: torch.Tensor, kept: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """RETURNS (torch.Tensor): The values where all bits are ones, and 0 elsewhere."""
    bits = SIGNED[x.element_size()]
    found = None if out is None else out.view(bits)
    return torch.bitwise_and(x.view(bits), kept.to(bits), out=found).view(x.dtype)


def dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: numpy.random.Generator,
) -> Any:
    """What torch's `dropout` computes, with fifteen random bits per value."""
    if not training or not 0 < p < 1:
        return functional.dropout(x, p, training)
    bits = SIGNED[x.element_size()]
    scale = torch.tensor(1 / (1 - p), dtype=x.dtype).view(bits)
    return x * draw_kept(x.shape, p, generator).to(bits).bitwise_and_(scale).view(x.dtype)
