"""Attention on a CPU by products of matrices: faster than torch's where that does not fuse them, as
with dropout, or fuses them slowly, as in bfloat16 without AMX.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy
import torch
from torch.nn import functional

from .cpu import get_choice
from .dropout import draw_kept, keep
from .onednn import float32_products

CACHED = 2**19  # attention scores that are computed together
FORBIDDEN = -1e30  # of attention, so low that exp is 0
SHORT = 48  # wordpieces; below, torch's fused attention is the faster one
TILE, LONG = 16, 96  # where it has tiles it is so for lengths of whole ones, and for all over this


class Block(NamedTuple):
    """Sequences of one length.

    n (int): How many, B.
    length (int): Wordpieces of each, padding included, L.
    mask (Optional[torch.Tensor]): What to add to their attention scores for the last K of L keys,
        in any shape that B x H x L x K can be made of.
    """

    n: int
    length: int
    mask: torch.Tensor | None


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    generator: numpy.random.Generator | None = None,
    **kwargs: Any,
) -> Any:
    """What torch's `scaled_dot_product_attention` computes.

    query, key, value (torch.Tensor): B x H x L x D; the value may have another D. Whatever else
        torch accepts goes to torch.
    generator (Optional[numpy.random.Generator]): Of the dropout.
    """
    learns = torch.is_grad_enabled() or dropout_p > 0
    is_bfloat16 = query.dtype == torch.bfloat16
    if learns:
        fused = not (dropout_p > 0 or is_bfloat16 or get_choice().onednn_products)
    else:
        fused = is_fused(query.dtype, query.shape[-2])
    n_axes = 3 if learns else 2
    plain = query.ndim == 4 and all(
        x.shape[:n_axes] == query.shape[:n_axes] and x.dtype == query.dtype for x in (key, value)
    )
    odd_mask = attn_mask is not None and attn_mask.requires_grad
    if fused or is_causal or kwargs or odd_mask or not plain:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **kwargs
        )
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
            ~attn_mask, FORBIDDEN
        )
    if learns:
        n, _, length, _ = query.shape
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*attn_mask.shape[:-1], length)
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
        found = attend(q, k, v, [Block(n, length, attn_mask)], dropout_p, generator)
        return found.unflatten(0, (n, length)).transpose(1, 2)
    with nullcontext() if is_bfloat16 else float32_products:
        return attention_in_parts(query, key, value, attn_mask)


def attention_of_blocks(query: Any, key: Any, value: Any, blocks: Sequence[Block]) -> Any:
    """Attention of each sequence to itself, in predictions.

    query, key, value (torch.Tensor): Of T wordpieces behind each other, T x H x D.
    blocks (Sequence[Block]): What these are.
    RETURNS (torch.Tensor): T x H x D, of the value's D.
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
    """RETURNS (bool): Whether predictions use torch's own attention."""
    choice = get_choice()
    if dtype == torch.bfloat16 and choice.tiled_attention:
        return length % TILE == 0 or length > LONG
    return length < SHORT or (dtype != torch.bfloat16 and not choice.onednn_products)


def attention_in_parts(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """Attention of so many sequences at a time that their scores stay in the CPU's cache."""
    n_all, n_heads, length, width = query.shape
    n = max(1, CACHED // (n_heads * length * key.shape[2]))
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


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Sequence[Block],
    p: float,
    generator: numpy.random.Generator | None,
) -> torch.Tensor:
    """Attention, with dropout, of each sequence to itself.

    query, key, value (torch.Tensor): Of T wordpieces behind each other, T x H x D.
    blocks (Sequence[Block]): What these are.
    p (float): The dropout of the attention.
    generator (Optional[numpy.random.Generator]): Of its random numbers.
    RETURNS (torch.Tensor): T x H x D, of the value's D.
    """
    with torch.autocast("cpu", enabled=False):
        return Attend.apply(query, key, value, blocks, p, generator)


class Attend(torch.autograd.Function):
    """See `attend`. It keeps the weights and what of them is dropped; torch's own operations would
    keep their product too, and write everything several times.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Any, key: Any, value: Any, blocks: Any, p: float, generator: Any
    ) -> Any:
        result, grown = value.new_empty(value.shape), grow(p)
        kept_for_later, parts = [], split(blocks, query, key, value, result)
        for block, (q, k, v, y) in zip(blocks, parts, strict=True):
            q, k, v = by_head(q), by_head(k), by_head(v)
            scores = multiply(q, k.transpose(1, 2), q.shape[-1] ** -0.5)
            if block.mask is not None:
                last = scores[..., -block.mask.shape[-1] :].unflatten(0, (block.n, -1))
                # Hugging Face's lowest number is infinite in bfloat16: a row of it would be nan.
                last.add_(block.mask.clamp(min=FORBIDDEN).to(scores.dtype))
            weights, kept = scores.softmax(-1), None
            if p > 0:
                kept = draw_kept(weights.shape, p, generator)
            dropped = weights if kept is None else keep(weights, kept, out=scores)
            y.copy_(by_sequence(multiply(dropped, v, grown), block.n))
            kept_for_later += [q, k, v, weights, kept]
        ctx.save_for_backward(*kept_for_later)
        ctx.blocks, ctx.p = blocks, p
        return result

    @staticmethod
    def backward(ctx: Any, d_result: Any) -> Any:
        saved, grown = ctx.saved_tensors, grow(ctx.p)
        n, n_heads, width = len(d_result), d_result.shape[1], saved[0].shape[-1]
        d_query, d_key = (d_result.new_empty(n, n_heads, width) for _ in range(2))
        d_value = torch.empty_like(d_result)
        parts = split(ctx.blocks, d_result, d_query, d_key, d_value)
        for i, (block, (dy, dq, dk, dv)) in enumerate(zip(ctx.blocks, parts, strict=True)):
            q, k, v, weights, kept = saved[5 * i : 5 * i + 5]
            dy = by_head(dy)
            dropped = weights if kept is None else keep(weights, kept)
            d_v = multiply(dropped.transpose(1, 2), dy, grown)
            d_weights = multiply(dy, v.transpose(1, 2), grown)
            if kept is not None:
                keep(d_weights, kept, out=d_weights)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_q = multiply(d_scores, k, width**-0.5)
            d_k = multiply(d_scores.transpose(1, 2), q, width**-0.5)
            for to, found in ((dq, d_q), (dk, d_k), (dv, d_v)):
                to.copy_(by_sequence(found, block.n))
        return d_query, d_key, d_value, None, None, None


def grow(p: float) -> float:
    """RETURNS (float): What makes up for what is dropped."""
    return 1 / (1 - p) if p < 1 else 0.0


def split(blocks: Sequence[Block], *rows: torch.Tensor) -> Any:
    """RETURNS (Iterable[Tuple[torch.Tensor]]): Of each block its part of each T x H x D, as
    B x L x H x D.
    """
    sizes = [block.n * block.length for block in blocks]
    for block, *parts in zip(blocks, *(x.split(sizes) for x in rows), strict=True):
        yield tuple(part.unflatten(0, (block.n, block.length)) for part in parts)


def by_head(x: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): From B x L x H x D to B * H x L x D."""
    return x.transpose(1, 2).flatten(0, 1)


def by_sequence(x: torch.Tensor, n: int) -> torch.Tensor:
    """RETURNS (torch.Tensor): From B * H x L x D to B x L x H x D."""
    return x.unflatten(0, (n, -1)).transpose(1, 2)


def multiply(a: torch.Tensor, b: torch.Tensor, scale: float, out: Any = None) -> torch.Tensor:
    """RETURNS (torch.Tensor): The products of matrices, times a number."""
    if out is None:
        out = a.new_empty(*a.shape[:2], b.shape[2])
    return torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)
