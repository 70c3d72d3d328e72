"""Attention on a CPU as products of matrices.

It is faster than torch's fused attention where torch does not fuse, as with dropout, and where it
fuses slowly, as in bfloat16 without AMX.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy
import torch
from torch.nn import functional

from ..base import Block
from .capability import get_choice
from .dropout import attend, multiply, split
from .linear import float32_products
from .packing import MASKED

CACHED_SCORES = 2**19  # attention scores computed together, so that they stay in the CPU's cache
# Torch's fused attention is faster below this length in wordpieces.
FUSED_BELOW = 48
# With AMX tiles it is faster for lengths of whole tiles, and for all above the second number.
TILE_TOKENS, TILED_ABOVE = 16, 96


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    generator: numpy.random.Generator | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Compute torch's `scaled_dot_product_attention`.

    query, key, value (torch.Tensor): B x H x L x D; the value may have another D. Torch computes
        all other cases that it accepts.
    generator (Optional[numpy.random.Generator]): For dropout.
    """
    learns = torch.is_grad_enabled() or dropout_p > 0
    is_bfloat16 = query.dtype == torch.bfloat16
    if learns:
        fused = not (dropout_p > 0 or is_bfloat16 or get_choice().onednn_products)
    else:
        fused = is_fused(query.dtype, query.shape[-2])
    n_axes = 3 if learns else 2
    is_plain = query.ndim == 4 and all(
        x.shape[:n_axes] == query.shape[:n_axes] and x.dtype == query.dtype for x in (key, value)
    )
    learns_mask = attn_mask is not None and attn_mask.requires_grad
    if fused or is_causal or kwargs or learns_mask or not is_plain:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **kwargs
        )
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, MASKED)
    if learns:
        n, _, length, _ = query.shape
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*attn_mask.shape[:-1], length)
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
        found = attend(q, k, v, [Block(n, length, attn_mask)], dropout_p, generator)
        unflat: torch.Tensor = found.unflatten(0, (n, length))
        return unflat.transpose(1, 2)
    with nullcontext() if is_bfloat16 else float32_products:
        return attention_in_parts(query, key, value, attn_mask)


def attention_of_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, blocks: Sequence[Block]
) -> torch.Tensor:
    """Compute the attention of each sequence to itself, in predictions.

    query, key, value (torch.Tensor): T wordpieces of a packed call, T x H x D.
    blocks (Sequence[Block]): The groups of the T wordpieces.
    RETURNS (torch.Tensor): T x H x D, with the value's D.
    """
    result = torch.empty_like(value)
    for block, parts in zip(blocks, split(blocks, query, key, value, result), strict=True):
        q, k, v, y = (part.transpose(1, 2) for part in parts)
        mask = block.mask
        if mask is not None:
            mask = functional.pad(mask.to(q.dtype), (block.length - mask.shape[-1], 0))
        y.copy_(attention(q, k, v, mask))
    return result


def is_fused(dtype: torch.dtype, length: int) -> bool:
    """RETURNS (bool): Whether predictions use torch's own attention for this length."""
    choice = get_choice()
    if dtype == torch.bfloat16 and choice.tiled_attention:
        return length % TILE_TOKENS == 0 or length > TILED_ABOVE
    return length < FUSED_BELOW or (dtype != torch.bfloat16 and not choice.onednn_products)


def attention_in_parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Compute the attention of as many sequences at a time as fit the CPU's cache."""
    n_all, n_heads, length, width = query.shape
    n = max(1, CACHED_SCORES // (n_heads * length * key.shape[2]))
    result = query.new_empty(n_all, length, n_heads, value.shape[-1]).transpose(1, 2)
    exact = query.new_empty(min(n, n_all) * n_heads, length, key.shape[2], dtype=torch.float32)
    rough = exact if query.dtype == exact.dtype else torch.empty_like(exact, dtype=query.dtype)
    if mask is not None:
        mask = mask.expand(n_all, n_heads, length, key.shape[2])
    for start in range(0, n_all, n):
        part = slice(start, start + n)
        q, k, v = (x[part].flatten(0, 1) for x in (query, key, value))
        scores, weights = rough[: len(q)], exact[: len(q)]
        multiply(q, k.transpose(1, 2), width**-0.5, scores)
        if mask is not None:
            scores.unflatten(0, (-1, n_heads)).add_(mask[part])
        torch.softmax(scores, -1, dtype=torch.float32, out=weights)
        if rough is not exact:
            weights = scores.copy_(weights)
        result[part] = torch.bmm(weights, v).unflatten(0, (-1, n_heads))
    return result
