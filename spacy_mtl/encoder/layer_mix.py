"""The hidden states of all layers: which of them a listener reads, and their learned mix."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from spacy.tokens import Doc
from thinc.api import Model

from ..errors import Errors
from ..types import Floats2d, Floats3d, get_ops

Layers = str | list[int] | None  # "all", numbers, or the last one only
UPPERMOST = 0.9  # the weight of the uppermost layer when training begins
Mix: TypeAlias = Model[list[Doc], list[Floats2d]]


def get_numbers(layers: Layers, last: int) -> tuple[int, ...]:
    """Convert the layers in a config to numbers of layers.

    layers (Union[str, List[int], None]): "all" or numbers: 0 for the embeddings, 1 and more for
        the layers, negative ones counting from the end. None for the last layer only.
    last (int): The last layer's number.
    RETURNS (Tuple[int, ...]): The numbers, ascending; empty for None.
    RAISES (ValueError): M073 for a layer that the encoder lacks, or for an empty list.
    """
    if layers is None:
        return ()
    known = range(-last - 1, last + 1)
    numbers: Sequence[int | str] = known if layers == "all" else [*layers]
    chosen = [number for number in numbers if isinstance(number, int) and number in known]
    if not numbers or len(chosen) < len(numbers):
        raise ValueError(Errors.M073.format(layers=layers, last=last))
    return tuple(sorted({number % (last + 1) for number in chosen}))


def mix_layers(rows: Model[list[Doc], list[Floats3d]]) -> Mix:
    """Mix the layers of an encoder by learned weights, the same for all tokens: gamma * sum of
    softmax(s)_j h_j, equation 1 of Peters et al. (2018), "Deep contextualized word
    representations". There the encoder is frozen, and the mix starts as the mean. This mix starts
    close to the uppermost layer, where a head that fine-tunes its encoder would start.

    rows (Model[List[Doc], List[Floats3d]]): Returns the K layers of each doc, n x K x H.
    RETURNS (Model[List[Doc], List[Floats2d]]): Returns the mix for each doc, n x H.
    """
    return Model(
        "mix_layers",
        forward,
        init=init,
        layers=[rows],
        dims={"nO": None},
        params={"s": None, "gamma": None},
    )


def init(model: Mix, X: list[Doc] | None = None, Y: object = None) -> None:
    rows = model.layers[0]
    rows.initialize(X=X)
    if X and not model.has_param("s"):
        ops = get_ops(model)
        _, n_layers, width = rows.predict(X[:1])[0].shape
        model.set_dim("nO", width)
        s = ops.alloc1f(n_layers)
        s[-1] = math.log(UPPERMOST / (1 - UPPERMOST) * max(1, n_layers - 1))
        model.set_param("s", s)
        model.set_param("gamma", ops.alloc1f(1) + 1)


def forward(
    model: Mix, X: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    layers, backprop_layers = model.layers[0](X, is_train)
    ops = get_ops(model)
    gamma = ops.asarray(model.get_param("gamma"))
    (shares,) = ops.softmax(ops.asarray(model.get_param("s")).reshape((1, -1)))

    def backprop(d_outputs: list[Floats2d]) -> list[Doc]:
        # The derivative of the loss by the share of each layer.
        d_shares = sum(
            (ops.xp.einsum("nkh,nh->k", x, d) for x, d in zip(layers, d_outputs, strict=True)),
            start=ops.xp.zeros_like(shares),
        )
        mean = shares @ d_shares
        model.inc_grad("gamma", mean[None])
        model.inc_grad("s", gamma * shares * (d_shares - mean))
        d_layers = [(gamma * shares)[:, None] * d[:, None] for d in d_outputs]
        d_docs: list[Doc] = backprop_layers(d_layers)
        return d_docs

    return [(gamma * shares) @ x for x in layers], backprop
