"""Dropout, and attention with dropout, on a CPU.

Masks are integers: several times as fast as boolean ones.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import torch
from torch.nn import functional

from ..base import Block
from .packing import MASKED

SIGNED = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per value


def dropout(
    x: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: numpy.random.Generator,
) -> torch.Tensor:
    """Compute torch's `dropout` from fifteen random bits per value."""
    if not training or not 0 < p < 1:
        return functional.dropout(x, p, training)
    bits = SIGNED[x.element_size()]
    scale = torch.tensor(dropout_scale(p), dtype=x.dtype).view(bits)
    return x * sample_mask(x.shape, p, generator).to(bits).bitwise_and_(scale).view(x.dtype)


def dropout_scale(p: float) -> float:
    """RETURNS (float): The factor of the values that stay."""
    return 1 / (1 - p) if p < 1 else 0.0


def sample_mask(shape: Sequence[int], p: float, generator: numpy.random.Generator) -> torch.Tensor:
    """RETURNS (torch.Tensor): 16-bit integers: 0 with probability p, rounded to 2^-15, else -1,
    whose bits are all ones.
    """
    n = math.prod(shape)
    # numpy's generator is twice as fast as torch's.
    bits = generator.integers(-(2**63), 2**63 - 1, -(-n // 4), endpoint=True)
    mask = torch.from_numpy(bits.view("int16")[:n]).view(tuple(shape)).bitwise_right_shift_(1)
    return mask.sub_(round((1 - p) * 2**15) - 2**14).bitwise_right_shift_(15)


def apply_mask(
    x: torch.Tensor, mask: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """RETURNS (torch.Tensor): The values where the mask's bits are ones, 0 elsewhere."""
    bits = SIGNED[x.element_size()]
    found = None if out is None else out.view(bits)
    return torch.bitwise_and(x.view(bits), mask.to(bits), out=found).view(x.dtype)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Sequence[Block],
    p: float,
    generator: numpy.random.Generator | None,
) -> torch.Tensor:
    """Compute the attention of each sequence to itself, with dropout and a gradient.

    query, key, value (torch.Tensor): T wordpieces of a packed call, T x H x D.
    blocks (Sequence[Block]): The groups of the T wordpieces.
    p (float): The dropout rate of the attention weights.
    generator (Optional[numpy.random.Generator]): For dropout.
    RETURNS (torch.Tensor): T x H x D, with the value's D.
    """
    with torch.autocast("cpu", enabled=False):
        found: torch.Tensor = Attend.apply(query, key, value, blocks, p, generator)  # type: ignore[no-untyped-call]
        return found


class Attend(torch.autograd.Function):
    """Implements `attend`. Saves the attention weights and the dropout mask for backward; torch's
    own operations would also save their product and write each array several times.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        blocks: Sequence[Block],
        p: float,
        generator: Any,
    ) -> torch.Tensor:
        result, scale = value.new_empty(value.shape), dropout_scale(p)
        saved: list[torch.Tensor | None] = []
        parts = split(blocks, query, key, value, result)
        for block, (q, k, v, y) in zip(blocks, parts, strict=True):
            q, k, v = by_head(q), by_head(k), by_head(v)
            scores = multiply(q, k.transpose(1, 2), q.shape[-1] ** -0.5)
            if block.mask is not None:
                last = scores[..., -block.mask.shape[-1] :].unflatten(0, (block.n, -1))
                # Hugging Face's lowest number is infinite in bfloat16: a row of it would be nan.
                last.add_(block.mask.clamp(min=MASKED).to(scores.dtype))
            weights = scores.softmax(-1)
            mask = sample_mask(weights.shape, p, generator) if p > 0 else None
            masked = weights if mask is None else apply_mask(weights, mask, out=scores)
            y.copy_(by_sequence(multiply(masked, v, scale), block.n))
            saved += [q, k, v, weights, mask]
        ctx.save_for_backward(*saved)
        ctx.blocks, ctx.p = blocks, p
        return result

    @staticmethod
    def backward(ctx: Any, d_result: torch.Tensor) -> Any:
        saved, scale = ctx.saved_tensors, dropout_scale(ctx.p)
        n, n_heads, width = len(d_result), d_result.shape[1], saved[0].shape[-1]
        d_query, d_key = (d_result.new_empty(n, n_heads, width) for _ in range(2))
        d_value = torch.empty_like(d_result)
        parts = split(ctx.blocks, d_result, d_query, d_key, d_value)
        for i, (block, (dy, dq, dk, dv)) in enumerate(zip(ctx.blocks, parts, strict=True)):
            q, k, v, weights, mask = saved[5 * i : 5 * i + 5]
            dy = by_head(dy)
            masked = weights if mask is None else apply_mask(weights, mask)
            d_v = multiply(masked.transpose(1, 2), dy, scale)
            d_weights = multiply(dy, v.transpose(1, 2), scale)
            if mask is not None:
                apply_mask(d_weights, mask, out=d_weights)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_q = multiply(d_scores, k, width**-0.5)
            d_k = multiply(d_scores.transpose(1, 2), q, width**-0.5)
            for to, found in ((dq, d_q), (dk, d_k), (dv, d_v)):
                to.copy_(by_sequence(found, block.n))
        return d_query, d_key, d_value, None, None, None


def split(blocks: Sequence[Block], *rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """YIELDS (Tuple[torch.Tensor]): For each block its rows of each T x H x D, as B x L x H x D."""
    sizes = [block.n * block.length for block in blocks]
    for block, *parts in zip(blocks, *(x.split(sizes) for x in rows), strict=True):
        yield tuple(part.unflatten(0, (block.n, block.length)) for part in parts)


def by_head(x: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): B x L x H x D as B * H x L x D."""
    return x.transpose(1, 2).flatten(0, 1)


def by_sequence(x: torch.Tensor, n: int) -> torch.Tensor:
    """RETURNS (torch.Tensor): B * H x L x D as B x L x H x D."""
    unflat: torch.Tensor = x.unflatten(0, (n, -1))
    return unflat.transpose(1, 2)


def multiply(a: torch.Tensor, b: torch.Tensor, scale: float, out: Any = None) -> torch.Tensor:
    """RETURNS (torch.Tensor): The products of matrices, times a number."""
    if out is None:
        out = a.new_empty(*a.shape[:2], b.shape[2])
    return torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)
