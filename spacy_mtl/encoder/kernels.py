"""Faster ways to compute what encoders compute on a CPU, behind torch's own functions.

torch sends float32 products to MKL, which on AMD is half as fast as the oneDNN in the same wheel,
computes attention with dropout by a slow path, and draws dropout one number at a time.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SHORT = 48  # wordpieces; below, torch's fused attention is the faster one


class CpuKernels(TorchFunctionMode):
    """While active, the linear layers, attention and dropout of any encoder go the fastest way.

    packed (Dict[int, torch.Tensor]): For predictions, by the id of each linear layer's weights, the
        same in the order in which the CPU wants to read them. Whoever changes a weight must clear
        this.
    """

    def __init__(self) -> None:
        super().__init__()
        self.packed: dict[int, torch.Tensor] = {}
        self.ways: dict[Any, Callable] = {
            functional.linear: self.linear,
            functional.scaled_dot_product_attention: attention,
            functional.dropout: dropout,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.ways.get(func, func)(*args, **kwargs or {})

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        if torch.is_grad_enabled():
            autocast = torch.is_autocast_enabled("cpu")
            if x.dtype == torch.float32 and not autocast and one_dnn_pays():
                return linear_one_dnn(x, weight, bias)
        elif is_kept(weight) and x.dtype == weight.dtype and x.numel() and packing_pays(x.dtype):
            packed = self.packed.get(id(weight))
            if packed is None:
                packed = self.packed[id(weight)] = pack(weight, x.numel() // x.shape[-1])
            return linear_packed(x, packed, bias)
        return functional.linear(x, weight, bias)


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Any:
    """Attention by products of matrices: faster than torch's where it would not fuse them, as with
    dropout, or fuses them slowly, as in bfloat16.

    query, key, value (torch.Tensor): B x H x L x D; the value may have another D. Whatever else
        torch accepts goes to torch.
    """
    slow = dropout_p > 0 or query.dtype == torch.bfloat16
    plain = query.ndim == 4 and all(
        x.shape[:2] == query.shape[:2] and x.dtype == query.dtype for x in (key, value)
    )
    if is_causal or kwargs or not (slow and plain) or query.shape[-2] < SHORT:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **kwargs
        )
    with torch.autocast("cpu", enabled=False):
        q, k, v = (x.flatten(0, 1) for x in (query / math.sqrt(query.shape[-1]), key, value))
        scores = q @ k.transpose(1, 2)
        if attn_mask is not None:
            shaped = scores.view(*query.shape[:2], *scores.shape[1:])
            if attn_mask.dtype == torch.bool:
                shaped = shaped.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
            else:
                shaped = shaped + attn_mask.to(scores.dtype)
            scores = shaped.flatten(0, 1)
        return (dropout(scores.softmax(-1), dropout_p) @ v).unflatten(0, query.shape[:2])


def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout with sixteen random bits per value, from torch's generator."""
    if not training or not 0 < p < 1:
        return functional.dropout(x, p, training)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    drop = round(p * 2**16) - 2**15
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= drop
    return x * keep.to(x.dtype).mul_(1 / (1 - p))


def linear_one_dnn(x: Any, weight: Any, bias: Any = None) -> Any:
    # A view from inside the autograd function could not be changed in place, as DeBERTa does.
    rows = OneDnnLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return rows.view(*x.shape[:-1], len(weight))


class OneDnnLinear(torch.autograd.Function):
    """A linear layer in float32 whose products oneDNN computes, forward and backward.

    x (torch.Tensor): N x I.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        with one_dnn():
            return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, d_y: Any) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        with one_dnn():
            if ctx.needs_input_grad[0]:
                d_x = d_y @ weight
            if ctx.needs_input_grad[1]:
                d_weight = d_y.T @ x
        if ctx.has_bias and ctx.needs_input_grad[2]:
            d_bias = d_y.sum(0)
        return d_x, d_weight, d_bias


@contextmanager
def one_dnn() -> Iterator[None]:
    """Send products of float32 matrices to oneDNN.

    The name of the setting says bfloat16, and that is what a CPU with AMX would compute; others
    compute float32. `one_dnn_pays` tells them apart.
    """
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def is_kept(weight: Any) -> bool:
    """RETURNS (bool): Whether it is a module's: one made on the fly leaves its id to the next."""
    return isinstance(weight, torch.nn.Parameter)


def pack(weight: Any, n_rows: int) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)


def linear_packed(x: Any, packed: Any, bias: Any) -> Any:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


@cache
def packing_pays(dtype: torch.dtype) -> bool:
    """RETURNS (bool): Whether linear layers with packed weights are faster here, and as exact."""
    with torch.inference_mode():
        x, weight, bias = example(dtype)
        try:
            packed = pack(weight, len(x))
            return is_better(
                lambda: linear_packed(x, packed, bias), lambda: functional.linear(x, weight, bias)
            )
        except (AttributeError, RuntimeError):  # another build of torch
            return False


@cache
def one_dnn_pays() -> bool:
    """RETURNS (bool): Whether oneDNN is clearly faster than torch's default at float32, and as
    exact. Were it close, the next run might choose otherwise and train other weights.
    """
    x, weight, _ = example(torch.float32)

    def ours() -> Any:
        with one_dnn():
            return x @ weight.T

    try:
        return is_better(ours, lambda: x @ weight.T, margin=1.2)
    except AttributeError:  # another build of torch
        return False


def example(dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """RETURNS (Tuple): A linear layer's input, weight and bias, of common sizes."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(512, 384), (1536, 384), (1536,)]
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)  # type: ignore[return-value]


def is_better(ours: Callable[[], Any], torchs: Callable[[], Any], margin: float = 1.0) -> bool:
    """RETURNS (bool): Whether the first is faster by this factor, and differs by rounding only."""
    mine, theirs = ours(), torchs()
    tolerance = 16 * torch.finfo(theirs.dtype).eps
    if not (mine - theirs).abs().max() <= tolerance * theirs.abs().max():
        return False
    times = [(clock(ours), clock(torchs)) for _ in range(5)]
    return margin * min(time for time, _ in times) < min(time for _, time in times)


def clock(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
