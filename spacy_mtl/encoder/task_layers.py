"""Private layers of a task, between the rows of the shared encoder and its head."""

from collections.abc import Callable, Iterator
from typing import Annotated, TypeAlias

import numpy
import torch
from spacy.tokens import Doc
from thinc.api import (
    Linear,
    Model,
    Relu,
    chain,
    residual,
    torch2xp,
    with_array,
    xp2torch,
    zero_init,
)

from ..arguments import Count, Range, Size, checked
from ..errors import Errors
from ..types import Bools2d, Floats2d, Ints1d, Ints2d, get_ops
from .model.wordpieces import batch_by_length, cut
from .runtime.cpu.threads import limit_threads

BUDGET = 4096  # tokens per batch, padding included
PrivateLayers: TypeAlias = Model[list[Floats2d], list[Floats2d]]


@checked("spacy-mtl.Adapter.v1")
def build_adapter_v1(
    tok2vec: Model[list[Doc], list[Floats2d]], width: Size
) -> Model[list[Doc], list[Floats2d]]:
    """Add a bottleneck layer to token vectors: a projection to `width` numbers, a ReLU, a
    projection back, and a residual connection, as in Houlsby et al. (2019), "Parameter-Efficient
    Transfer Learning for NLP", section 2.1. It starts as the identity. Its dropout rate is the
    head's.

    tok2vec (Model[List[Doc], List[Floats2d]]): Computes the token vectors, such as a listener.
    width (int): The width of the bottleneck, such as 64.
    RAISES (ValueError): M058 for an argument out of range.
    """
    adapter = residual(chain(Relu(width, dropout=0.0), Linear(init_W=zero_init)))
    adapter.init = init_adapter
    return chain(tok2vec, with_array(adapter))


def init_adapter(
    model: Model[Floats2d, Floats2d], X: Floats2d | None = None, Y: object = None
) -> None:
    model.layers[0].initialize(X=X, Y=X)


@checked("spacy-mtl.PrivateLayers.v1")
def build_private_layers_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    depth: Annotated[int, Range(1, 100)] = 1,
    heads: Size = 4,
    window: Count = 160,
) -> Model[list[Doc], list[Floats2d]]:
    """Add transformer layers of the task's own to token vectors: torch's, with a feed-forward
    width of four times H. Layer norm comes before each part, as in Xiong et al. (2020), "On Layer
    Normalization in the Transformer Architecture", and there is none after the last layer. The
    layers start as the identity. Their dropout rate is the head's.

    tok2vec (Model[List[Doc], List[Floats2d]]): Computes the token vectors, such as a listener.
    depth (int): The number of layers.
    heads (int): Attention heads per layer; a divisor of the vectors' width.
    window (int): The largest number of tokens that attend to each other. Longer docs are cut into
        equal parts, so that time and memory grow with their length, not with its square.
    RAISES (ValueError): M058 for an argument out of range; M075, when it is
        initialized, for `heads` that do not divide the width.
    """
    # The weights are thinc parameters, not a torch shim's. So they are clipped with the rest of the
    # head, skipped when a gradient is broken, decayed, averaged and saved like all others.
    layers: PrivateLayers = Model(
        "private_layers",
        forward,
        init=init,
        dims={"nI": None, "nO": None},
        attrs={"depth": depth, "heads": heads, "window": window, "dropout_rate": 0.0},
    )
    return chain(tok2vec, layers)


def init(model: PrivateLayers, X: list[Floats2d] | None = None, Y: object = None) -> None:
    if not X or model.has_dim("nO"):
        return
    width, heads = X[0].shape[1], model.attrs["heads"]
    if width % heads:
        raise ValueError(Errors.M075.format(heads=heads, width=width))
    model.set_dim("nI", width)
    model.set_dim("nO", width)
    for i in range(model.attrs["depth"]):
        layer = get_layer(width, heads, 0.0, "cpu")
        for last in (layer.self_attn.out_proj, layer.linear2):
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
        for name, weights in layer.state_dict().items():
            model.set_param(f"{i}.{name}", get_ops(model).asarray_f(torch2xp(weights)))


def get_layer(
    width: int, heads: int, dropout: float, device: str = "meta"
) -> torch.nn.TransformerEncoderLayer:
    """RETURNS (torch.nn.TransformerEncoderLayer): A layer, by default on the meta device."""
    return torch.nn.TransformerEncoderLayer(
        width,
        heads,
        4 * width,
        dropout,
        "gelu",
        batch_first=True,
        norm_first=True,
        device=device,
    )


def forward(
    model: PrivateLayers, docs: list[Floats2d], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Floats2d]]]:
    limit_threads()
    ops, attrs = get_ops(model), model.attrs
    lengths: Ints1d = numpy.array([len(doc) for doc in docs], dtype="i")
    layer = get_layer(model.get_dim("nO"), attrs["heads"], attrs["dropout_rate"]).train(is_train)
    rows = xp2torch(ops.flatten(docs), requires_grad=is_train)
    weights = {
        name: xp2torch(model.get_param(name), requires_grad=is_train)
        for name in sorted(model.param_names)
    }
    parts = split_names(weights, attrs["depth"])
    with torch.inference_mode(not is_train), torch.set_grad_enabled(is_train):
        output = rows.clone()
        for places, mask in get_windows(lengths, attrs["window"]):
            index = torch.from_numpy(places).to(rows.device)
            is_token = torch.from_numpy(mask).to(rows.device)
            hidden = rows[index]
            options = {} if mask.all() else {"src_key_padding_mask": ~is_token}
            for part in parts:
                hidden = torch.func.functional_call(layer, part, (hidden,), options)
            output[index[is_token]] = hidden[is_token]

    def backprop(d_docs: list[Floats2d]) -> list[Floats2d]:
        found = torch.autograd.grad(
            output,
            [rows, *weights.values()],
            xp2torch(ops.flatten(d_docs)),
            materialize_grads=True,
            allow_unused=True,  # when all docs are empty
        )
        d_rows, *gradients = [ops.asarray(torch2xp(gradient)) for gradient in found]
        for name, gradient in zip(weights, gradients, strict=True):
            model.inc_grad(name, gradient)
        d_unflat: list[Floats2d] = ops.unflatten(d_rows, lengths)
        return d_unflat

    return ops.unflatten(torch2xp(output.detach()), lengths), backprop


def split_names(weights: dict[str, torch.Tensor], depth: int) -> list[dict[str, torch.Tensor]]:
    """RETURNS (List[Dict[str, torch.Tensor]]): Each layer's weights by torch's names."""
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(depth)]
    for name, value in weights.items():
        number, _, own = name.partition(".")
        parts[int(number)][own] = value
    return parts


def get_windows(lengths: Ints1d, window: int) -> Iterator[tuple[Ints2d, Bools2d]]:
    """Cut each doc into windows of nearly equal length, and group windows of similar length.

    lengths (Ints1d): Tokens per doc.
    window (int): Tokens per window at most.
    YIELDS (Tuple[Ints2d, Bools2d]): For the B windows of a group, the rows of their tokens, and a
        mask that is False for padding; both B x L.
    """
    bounds = cut(lengths, window)
    filled = numpy.flatnonzero(numpy.diff(bounds))
    starts, sizes = bounds[:-1][filled], numpy.diff(bounds)[filled]
    for group, length in batch_by_length(sizes, BUDGET, window):
        place = numpy.arange(length)
        mask = place < sizes[group][:, None]
        yield numpy.where(mask, starts[group][:, None] + place, 0), mask
