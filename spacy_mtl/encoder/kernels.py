"""Faster ways to compute what encoders compute on a CPU, behind torch's own functions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from transformers.activations import GELUActivation

from .attention import Block, attend, attention, attention_of_blocks
from .cpu import get_choice
from .dropout import dropout
from .onednn import linear_packed, pack


class Kernels(TorchFunctionMode):
    """While active in a thread, functions of torch's are computed in other ways.

    ways (Dict[Callable, str]): The method to call in place of each. Were it the bound method, only
        Python's garbage collector would free the weights that are kept here.
    blocks (Sequence[Block]): What stands behind each other in a packed pass: each sequence attends
        to itself.
    """

    ways: Mapping[Any, str] = {}
    blocks: Sequence[Block] = ()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        way = getattr(self, self.ways[func]) if func in self.ways else func
        return way(*args, **kwargs or {})


class PredictionKernels(Kernels):
    """The linear layers and the attention of any encoder, in predictions. Each thread has a copy,
    and all share what is packed.

    packed (Dict[int, torch.Tensor]): By the id of each linear layer's weights, the same in the
        order in which the CPU wants to read them. Whoever changes a weight must clear this.
    """

    ways = {
        functional.linear: "linear",
        functional.gelu: "gelu",
        functional.scaled_dot_product_attention: "attention",
    }

    def __init__(self) -> None:
        super().__init__()
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
        if not (fits and get_choice().packs(x.dtype)):
            return functional.linear(x, weight, bias)
        packed = self.packed.get(id(weight))
        if packed is None:
            packed = self.packed[id(weight)] = pack(weight, x.numel() // x.shape[-1])
        if id(weight) not in self.before_gelu:
            return linear_packed(x, packed, bias)
        y = linear_packed(x, packed, bias, "gelu")
        y.is_activated = True
        return y

    def gelu(self, x: Any, **kwargs: Any) -> Any:
        return x if hasattr(x, "is_activated") else functional.gelu(x, **kwargs)

    def attention(self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        """RETURNS (torch.Tensor): As of torch's function: B x H x L x D, packed 1 x H x T x D."""
        if not self.blocks:
            return attention(query, key, value, *args, **kwargs)
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        return attention_of_blocks(q, k, v, self.blocks).transpose(0, 1)[None]


class TrainingKernels(Kernels):
    """The linear layers, embeddings, attention and dropout of any encoder, while it learns from one
    pass. For one thread.

    ids (Ints1d): All vocabulary ids of the pass.
    seed (int): Of its dropout.
    """

    ways = {
        functional.linear: "linear",
        functional.embedding: "embedding",
        functional.scaled_dot_product_attention: "attention",
        functional.dropout: "dropout",
    }

    def __init__(self, ids: Any, seed: int) -> None:
        super().__init__()
        self.random = numpy.random.default_rng(seed)
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
        is_large = 0 < 2 * len(self.ids) < len(weight) and int(self.ids[-1]) < len(weight)
        if is_plain and is_kept(weight) and is_large:
            places = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
            if torch.equal(self.ids[places], ids):
                if id(weight) not in self.tables:
                    self.tables[id(weight)] = functional.embedding(
                        self.ids, weight, padding_idx, sparse=True
                    )
                return functional.embedding(places, self.tables[id(weight)])
        return functional.embedding(ids, weight, padding_idx, *args, **kwargs)

    def attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Any:
        """RETURNS (torch.Tensor): As of torch's function: B x H x L x D, packed 1 x H x T x D."""
        if not self.blocks:
            return attention(
                query, key, value, attn_mask, dropout_p, is_causal, self.random, **kwargs
            )
        assert attn_mask is None and not is_causal and not kwargs, "none packs what asks for these"
        # A view backward too, which an index would not be.
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        return attend(q, k, v, self.blocks, dropout_p, self.random).transpose(0, 1)[None]

    def dropout(self, *args: Any, **kwargs: Any) -> Any:
        return dropout(*args, **kwargs, generator=self.random)

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


def is_kept(weight: Any) -> bool:
    """RETURNS (bool): Whether it is a module's: one made on the fly leaves its id to the next."""
    return isinstance(weight, torch.nn.Parameter)
