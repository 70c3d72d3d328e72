"""Kernels that replace torch's functions inside encoders on a CPU."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.activations import GELUActivation

from ....compat import drop_default_scale
from ..base import Block
from .attention import attention, attention_of_blocks
from .capability import get_choice
from .dropout import attend, dropout
from .linear import linear_packed, pack


class Kernels(TorchFunctionMode):
    """Replaces functions of torch while active in a thread.

    replaced (Dict[Callable, str]): The name of the method that replaces each function. A bound
        method would be a reference cycle, and keep weights until Python's garbage collector runs.
    blocks (Sequence[Block]): The groups of a packed call: each sequence attends to itself only.
    """

    replaced: Mapping[Any, str] = {}
    blocks: Sequence[Block] = ()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kernel = getattr(self, self.replaced[func]) if func in self.replaced else func
        return kernel(*args, **kwargs or {})


class PredictionKernels(Kernels):
    """Replaces the linear layers, the gelu and the attention of an encoder in predictions.

    Each thread has a copy; all copies share the packed weights.

    module (torch.nn.Module): The encoder in evaluation mode, whose weights do not change.
    """

    replaced = {
        functional.linear: "linear",
        functional.gelu: "gelu",
        functional.scaled_dot_product_attention: "attention",
    }

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.packed: dict[int, Tensor] = {}  # packed weights by the id of the weights
        self.activated: Tensor | None = (
            None  # the last output to which `linear` has applied the gelu
        )
        # Ids of the weights of linear layers that a gelu follows.
        self.before_gelu = {
            id(part.dense.weight)  # type: ignore[union-attr]
            for part in module.modules()
            if type(part).__name__.endswith("Intermediate")
            and isinstance(part.intermediate_act_fn, GELUActivation)
            and part.intermediate_act_fn.act is functional.gelu
        }

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        fits = is_parameter(weight) and x.dtype == weight.dtype and x.numel()
        if not (fits and get_choice().packs(x.dtype)):
            return functional.linear(x, weight, bias)
        packed = self.packed.get(id(weight))
        if packed is None:
            packed = self.packed[id(weight)] = pack(weight, x.numel() // x.shape[-1])
        if id(weight) not in self.before_gelu:
            return linear_packed(x, packed, bias)
        self.activated = linear_packed(x, packed, bias, "gelu")
        return self.activated

    def gelu(self, x: Tensor, **kwargs: Any) -> Tensor:
        activated, self.activated = self.activated, None
        return x if x is activated else functional.gelu(x, **kwargs)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """RETURNS (torch.Tensor): As torch's function: B x H x L x D, or packed 1 x H x T x D."""
        if not self.blocks:
            options = drop_default_scale(query, kwargs)
            return attention(query, key, value, *args, **options)
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        return attention_of_blocks(q, k, v, self.blocks).transpose(0, 1)[None]


class TrainingKernels(Kernels):
    """Replaces the linear layers, embeddings, attention and dropout of an encoder in training, for
    one thread and one batch.

    ids (Sequence[int]): All vocabulary ids of the batch.
    seed (int): The seed of its dropout.
    """

    replaced = {
        functional.linear: "linear",
        functional.embedding: "embedding",
        functional.scaled_dot_product_attention: "attention",
        functional.dropout: "dropout",
    }

    def __init__(self, ids: Sequence[int], seed: int) -> None:
        super().__init__()
        self.random = numpy.random.default_rng(seed)
        self.ids: Tensor = torch.from_numpy(numpy.unique(ids))
        self.tables: dict[int, Tensor] = {}  # embeddings of the ids, by the id of the weights
        self.last_cast: tuple[Tensor, Tensor] | None = None  # a tensor and its cast
        self.weights: dict[int, Tensor] = {}  # weights in bfloat16, by the id of the weights

    def embedding(
        self,
        ids: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Look ids up in a table of the batch's ids, so that the vocabulary gets one sparse
        gradient, and not one of all its rows from each call.
        """
        # Torch computes norms and scaling by frequency, which no encoder asks for.
        is_plain = not (args or kwargs.get("max_norm") or kwargs.get("scale_grad_by_freq"))
        is_large = 0 < 2 * len(self.ids) < len(weight) and int(self.ids[-1]) < len(weight)
        if is_plain and is_parameter(weight) and is_large:
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
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """RETURNS (torch.Tensor): As torch's function: B x H x L x D, or packed 1 x H x T x D."""
        options = drop_default_scale(query, kwargs)
        if not self.blocks:
            return attention(
                query, key, value, attn_mask, dropout_p, is_causal, self.random, **options
            )
        assert attn_mask is None and not is_causal and not options, "can_pack excludes these"
        # A transposed view: its backward is a view too, that of an index is a copy.
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        return attend(q, k, v, self.blocks, dropout_p, self.random).transpose(0, 1)[None]

    def dropout(self, *args: Any, **kwargs: Any) -> Tensor:
        return dropout(*args, **kwargs, generator=self.random)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            # Queries, keys and values read the same rows: cast them once, and their gradient once.
            if self.last_cast is None or x is not self.last_cast[0]:
                self.last_cast = x, x.to(torch.get_autocast_dtype("cpu"))
            x, weight = self.last_cast[1], self.cast_weight(weight)
            bias = None if bias is None else self.cast_weight(bias)
        return functional.linear(x, weight, bias)

    def cast_weight(self, weight: Tensor) -> Tensor:
        """RETURNS (torch.Tensor): The weights in bfloat16, cast once per thread."""
        if not is_parameter(weight):
            return weight
        if id(weight) not in self.weights:
            self.weights[id(weight)] = weight.to(torch.get_autocast_dtype("cpu"))
        return self.weights[id(weight)]


def is_parameter(weight: Tensor) -> bool:
    """RETURNS (bool): Whether this is a module's parameter. Temporaries reuse ids, so they are not
    cached.
    """
    return isinstance(weight, torch.nn.Parameter)
