"""The hidden states below the last one: who may ask for which, and their learned mix."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from thinc.api import Model

from ..errors import Errors
from ..types import Floats2d, Floats3d

Layers = str | list[int] | None  # "all", numbers, or the last one only
UPPERMOST = 0.9  # its share when training begins


def get_numbers(layers: Layers, last: int) -> tuple[int, ...]:
    """Say of which layers the rows of a token matrix are to be.

    layers (Union[str, List[int], None]): "all" or numbers: 0 for the embeddings, 1 and more for
        the layers, negative ones counting from the end. None if only the last one is asked for.
    last (int): The last layer's number.
    RETURNS (Tuple[int, ...]): Their numbers, ascending; nothing for None.
    RAISES (ValueError): M073 for a layer that the encoder lacks, or for none at all.
    """
    if layers is None:
        return ()
    known = range(-last - 1, last + 1)
    numbers: Any = known if layers == "all" else layers
    if not numbers or not set(numbers) <= set(known):
        raise ValueError(Errors.M073.format(layers=layers, last=last))
    return tuple(sorted({number % (last + 1) for number in numbers}))


def mix_layers(rows: Model[Any, list[Floats3d]]) -> Model[Any, list[Floats2d]]:
    """Mix the layers of an encoder by learned weights, the same for all tokens: gamma * sum of
    softmax(s)_j h_j, equation 1 of Peters et al. (2018), "Deep contextualized word
    representations". There the encoder is frozen, and the mix starts as the mean. This one starts
    close to the uppermost layer, where a head that fine-tunes its encoder would start.

    rows (Model[List[Doc], List[Floats3d]]): Gives the K layers of each doc, n x K x H.
    """
    return Model(
        "mix_layers",
        forward,
        init=init,
        layers=[rows],
        dims={"nO": None},
        params={"s": None, "gamma": None},
    )


def init(model: Model, X: Any = None, Y: Any = None) -> None:
    rows = model.layers[0]
    rows.initialize(X=X)
    if X and not model.has_param("s"):
        _, n_layers, width = rows.predict(X[:1])[0].shape
        model.set_dim("nO", width)
        s = model.ops.alloc1f(n_layers)
        s[-1] = math.log(UPPERMOST / (1 - UPPERMOST) * max(1, n_layers - 1))
        model.set_param("s", s)
        model.set_param("gamma", model.ops.alloc1f(1) + 1)


def forward(
    model: Model[Any, list[Floats2d]], X: Any, is_train: bool
) -> tuple[list[Floats2d], Callable[[Sequence[Floats2d]], Any]]:
    layers, backprop_layers = model.layers[0](X, is_train)
    xp: Any = model.ops.xp
    gamma = model.get_param("gamma")
    (shares,) = model.ops.softmax(model.get_param("s").reshape((1, -1)))

    def backprop(d_outputs: Sequence[Floats2d]) -> Any:
        # What each layer would add to the loss, were its share one more.
        d_shares = sum(
            (xp.einsum("nkh,nh->k", x, d) for x, d in zip(layers, d_outputs, strict=True)),
            start=xp.zeros_like(shares),
        )
        mean = shares @ d_shares
        model.inc_grad("gamma", mean[None])
        model.inc_grad("s", gamma * shares * (d_shares - mean))
        return backprop_layers([(gamma * shares)[:, None] * d[:, None] for d in d_outputs])

    return [(gamma * shares) @ x for x in layers], backprop
