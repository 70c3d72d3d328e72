"""Faster ways to compute what encoders compute on a CPU, behind torch's own functions.

torch sends float32 products to MKL, which on AMD is half as fast as the oneDNN in the same wheel,
computes attention with dropout by a slow path, and draws dropout one number at a time.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial, wraps
from threading import Lock
from typing import Any

import numpy
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from transformers.activations import GELUActivation

CACHED = 2**19  # attention scores that are computed together
FORBIDDEN = -1e30  # of attention, so low that exp is 0
SHORT = 48  # wordpieces; below, torch's fused attention is the faster one


class Kernels(TorchFunctionMode):
    """While active in a thread, functions of torch's are computed in other ways.

    ways (Dict[Callable, Callable]): What to call in place of each.
    """

    def __init__(self, ways: dict[Any, Callable]) -> None:
        super().__init__()
        self.ways = ways

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.ways.get(func, func)(*args, **kwargs or {})


class PredictionKernels(Kernels):
    """The linear layers and the attention of any encoder, in predictions. Any number of threads may
    be in it.

    packed (Dict[int, torch.Tensor]): By the id of each linear layer's weights, the same in the
        order in which the CPU wants to read them. Whoever changes a weight must clear this.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                functional.linear: self.linear,
                functional.gelu: self.gelu,
                functional.scaled_dot_product_attention: attention,
            }
        )
        self.packed: dict[int, torch.Tensor] = {}
        self.before_gelu: set[int] = set()  # ids of the weights of layers that a gelu follows

    def start(self, module: Any) -> None:
        """Make ready for predictions with other weights."""
        self.packed.clear()
        self.before_gelu = {
            id(part.dense.weight)
            for part in module.modules()
            if type(part).__name__.endswith("Intermediate")
            and isinstance(part.intermediate_act_fn, GELUActivation)
            and part.intermediate_act_fn.act is functional.gelu
        }

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        fits = is_kept(weight) and x.dtype == weight.dtype and x.numel()
        if not (fits and packing_pays(x.dtype)):
            return functional.linear(x, weight, bias)
        packed = self.packed.get(id(weight))
        if packed is None:
            packed = self.packed[id(weight)] = pack(weight, x.numel() // x.shape[-1])
        if id(weight) not in self.before_gelu or x.dtype != torch.float32:
            return linear_packed(x, packed, bias)
        y = linear_packed(x, packed, bias, "gelu")
        y.is_activated = True
        return y

    def gelu(self, x: Any, **kwargs: Any) -> Any:
        return x if hasattr(x, "is_activated") else functional.gelu(x, **kwargs)


class TrainingKernels(Kernels):
    """The linear layers, embeddings, attention and dropout of any encoder, while it learns from one
    pass. For one thread.

    ids (Ints1d): All vocabulary ids of the pass.
    seed (int): Of its dropout.
    """

    def __init__(self, ids: Any, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        drop = partial(dropout, generator=self.random)
        super().__init__(
            {
                functional.linear: self.linear,
                functional.embedding: self.embedding,
                functional.scaled_dot_product_attention: partial(attention, drop=drop),
                functional.dropout: drop,
            }
        )
        self.ids: Any = torch.from_numpy(numpy.unique(ids))
        self.tables: dict[int, torch.Tensor] = {}  # embeddings of these, by the id of all
        self.cast: tuple[Any, Any] = (None, None)  # what was last cast for a layer, and to what
        self.weights: dict[int, torch.Tensor] = {}  # in bfloat16, by the id of what they are

    def embedding(
        self, ids: Any, weight: Any, padding_idx: int | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Look ids up among those of the pass, so that there is one gradient for them, sparse, and
        none for a whole vocabulary from each batch.
        """
        # Norms and weights by frequency, which no encoder asks for, are left to torch.
        is_plain = not (args or kwargs.get("max_norm") or kwargs.get("scale_grad_by_freq"))
        if is_plain and is_kept(weight) and 0 < 2 * len(self.ids) < len(weight):
            places = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
            if torch.equal(self.ids[places], ids):
                if id(weight) not in self.tables:
                    self.tables[id(weight)] = functional.embedding(
                        self.ids, weight, padding_idx, sparse=True
                    )
                return functional.embedding(places, self.tables[id(weight)])
        return functional.embedding(ids, weight, padding_idx, *args, **kwargs)

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        if torch.is_autocast_enabled("cpu"):
            # Queries, keys and values read the same rows: one cast, and one of the gradient.
            if x is not self.cast[0]:
                self.cast = x, x.to(torch.get_autocast_dtype("cpu"))
            x, weight, bias = self.cast[1], self.cast_weight(weight), self.cast_weight(bias)
        return functional.linear(x, weight, bias)

    def cast_weight(self, weight: Any) -> Any:
        """Cast once for all batches. Autocast would do that for all threads together, so that sums
        depended on which is faster.
        """
        if not is_kept(weight):
            return weight
        if id(weight) not in self.weights:
            self.weights[id(weight)] = weight.to(torch.get_autocast_dtype("cpu"))
        return self.weights[id(weight)]


class KnownMask(torch.Tensor):
    """An attention mask that is known to mask something, or none would be passed: Hugging Face asks
    before each forward pass, and would wait for a GPU.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.all:
            return False
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs or {})
        return result.as_subclass(cls) if func is torch.Tensor.__eq__ else result


def gpu_attention() -> Any:
    """RETURNS (ContextManager): Attention as torch computes it on a GPU, but never by cuDNN, which
    makes a plan for each shape: lengths are many, and a plan takes longer than what it is made for.
    """
    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )


def dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: torch.Generator | None = None,
) -> Any:
    """Dropout with fifteen random bits per value. All in integers, which is several times as fast
    as by way of booleans.
    """
    if not training or not 0 < p < 1:
        return functional.dropout(x, p, training)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    bits.random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape).bitwise_right_shift_(1)
    kept = kept.sub_(round((1 - p) * 2**15) - 2**14).bitwise_right_shift_(15)  # all ones or zeros
    one = kept.bitwise_and_(0x3F80).view(torch.bfloat16)  # its bits in bfloat16
    return x * one.to(x.dtype).mul_(1 / (1 - p))


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    drop: Callable = dropout,
    **kwargs: Any,
) -> Any:
    """Attention by products of matrices: faster than torch's where it would not fuse them, as with
    dropout, or fuses them slowly, as in bfloat16.

    query, key, value (torch.Tensor): B x H x L x D; the value may have another D. Whatever else
        torch accepts goes to torch.
    drop (Callable): `dropout`, or what draws from another generator.
    """
    is_bfloat16 = query.dtype == torch.bfloat16
    slow = dropout_p > 0 or is_bfloat16 or one_dnn_pays()
    plain = query.ndim == 4 and all(
        x.shape[:2] == query.shape[:2] and x.dtype == query.dtype for x in (key, value)
    )
    short = query.shape[-2] < SHORT and not torch.is_grad_enabled()
    if is_causal or kwargs or short or not (slow and plain):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **kwargs
        )
    if not torch.is_grad_enabled() and dropout_p == 0:
        with nullcontext() if is_bfloat16 else one_dnn:
            return attention_in_parts(query, key, value, attn_mask)
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
        return (drop(scores.softmax(-1), dropout_p) @ v).unflatten(0, query.shape[:2])


def attention_in_parts(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """Attention of so many sequences at a time that their scores stay in the CPU's cache."""
    n_all, n_heads, length, width = query.shape
    n = max(1, CACHED // (n_heads * length * key.shape[2]))
    result = query.new_empty(n_all, length, n_heads, value.shape[-1]).transpose(1, 2)
    exact = query.new_empty(min(n, n_all) * n_heads, length, key.shape[2], dtype=torch.float32)
    rough = exact if query.dtype == exact.dtype else torch.empty_like(exact, dtype=query.dtype)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, FORBIDDEN)
        mask = mask.expand(n_all, n_heads, length, key.shape[2])
    for start in range(0, n_all, n):
        part = slice(start, start + n)
        q, k, v = (x[part].flatten(0, 1) for x in (query, key, value))
        scores, weights = rough[: len(q)], exact[: len(q)]
        torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=width**-0.5, out=scores)
        if mask is not None:
            scores.unflatten(0, (-1, n_heads)).add_(mask[part])
        torch.softmax(scores, -1, dtype=torch.float32, out=weights)
        if rough is not exact:
            weights = scores.copy_(weights)
        result[part] = torch.bmm(weights, v).unflatten(0, (-1, n_heads))
    return result


class OneDnn:
    """While active, in any thread, products of float32 matrices go to oneDNN.

    The name of the setting says bfloat16, and that is what a CPU with AMX would compute; others
    compute float32. `one_dnn_pays` tells them apart.
    """

    def __init__(self) -> None:
        self.lock, self.depth, self.before = Lock(), 0, ""

    def __enter__(self) -> None:
        settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        with self.lock:
            if not self.depth:
                self.before, settings.fp32_precision = settings.fp32_precision, "bf16"
            self.depth += 1

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.depth -= 1
            if not self.depth:
                settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
                settings.fp32_precision = self.before


one_dnn = OneDnn()


def training_products() -> Any:
    """RETURNS (ContextManager): Products of float32 matrices as fast as they can be exact. For the
    whole of a pass: were it for single products, others would come into it by chance.
    """
    return one_dnn if one_dnn_pays() else nullcontext()


def is_kept(weight: Any) -> bool:
    """RETURNS (bool): Whether it is a module's: one made on the fly leaves its id to the next."""
    return isinstance(weight, torch.nn.Parameter)


def pack(weight: Any, n_rows: int) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)


def linear_packed(x: Any, packed: Any, bias: Any, then: str = "none") -> Any:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "none")


def probe(function: Callable) -> Callable:
    """RETURNS (Callable): The function, which measures once. Other threads wait for it: what they
    compute meanwhile would change the answer.
    """
    ask = cache(function)

    @wraps(function)
    def ask_in_turn(*args: Any) -> Any:
        with probing:
            return ask(*args)

    return ask_in_turn


probing = Lock()


@probe
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


@probe
def one_dnn_pays() -> bool:
    """RETURNS (bool): Whether oneDNN is clearly faster than torch's default at float32, and as
    exact. Were it close, the next run might choose otherwise and train other weights.
    """
    x, weight, _ = example(torch.float32)

    def ours() -> Any:
        with one_dnn:
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
