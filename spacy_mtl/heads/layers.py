"""Layers of heads: from token vectors to scores."""

from collections.abc import Callable
from typing import Any, TypeVar

from spacy.tokens import Doc
from thinc.api import (
    Dropout,
    Linear,
    Model,
    Ragged,
    chain,
    list2array,
    list2ragged,
    zero_init,
)

from ..encoder.runtime.cpu.ops import use_single_thread
from ..types import Floats2d, get_ops

Tok2Vec = Model[list[Doc], list[Floats2d]]
Input = TypeVar("Input")
Output = TypeVar("Output")


def score_tokens(
    tok2vec: Tok2Vec, dropout: float | None = None, nO: int | None = None
) -> Model[list[Doc], Floats2d]:
    """Build a linear layer over the vector of each token.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors, such as a listener.
    dropout (Optional[float]): Dropout of the vectors; None for `[training] dropout`.
    nO (Optional[int]): The number of outputs; None to set it at initialization.
    RETURNS (Model[List[Doc], Floats2d]): The scores of N tokens, N x nO.
    """
    output = linear(nO)
    return with_options(chain(tok2vec, list2array(), Dropout(), output), output, tok2vec, dropout)


def score_docs(
    tok2vec: Tok2Vec,
    pooling: Model[Ragged, Floats2d],
    dropout: float | None = None,
    nO: int | None = None,
) -> Model[list[Doc], Floats2d]:
    """Build a linear layer over one vector per doc.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors, such as a listener.
    pooling (Model[Ragged, Floats2d]): Makes one vector of a doc's tokens, such as thinc's
        `reduce_mean()`. An empty doc gets zeros without it.
    dropout (Optional[float]): Dropout of the doc's vector; None for `[training] dropout`.
    nO (Optional[int]): The number of outputs; None to set it at initialization.
    RETURNS (Model[List[Doc], Floats2d]): The scores of D docs, D x nO.
    """
    output = linear(nO)
    layers: Model[list[Doc], Floats2d] = chain(
        tok2vec, list2ragged(), skip_empty(pooling), Dropout(), output
    )
    return with_options(layers, output, tok2vec, dropout)


def linear(nO: int | None = None) -> Model[Floats2d, Floats2d]:
    """RETURNS (Model[Floats2d, Floats2d]): A linear layer whose weights, and so its scores, are 0
    before training.
    """
    return Linear(nO=nO, init_W=zero_init)  # type: ignore[return-value]


def with_options(
    model: Model[Input, Output],
    output: Model[Any, Any],
    tok2vec: Tok2Vec,
    dropout: float | None,
) -> Model[Input, Output]:
    """Set the references and the dropout that heads read, and let the model compute on one core.

    model (Model): The model of a head.
    output (Model): The layer whose nO is the number of outputs.
    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors.
    dropout (Optional[float]): The model's own dropout; None for `[training] dropout`.
    RETURNS (Model): The model.
    """
    use_single_thread(model)
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("output_layer", output)
    model.attrs["dropout"] = dropout
    return model


def skip_empty(pooling: Model[Ragged, Floats2d]) -> Model[Ragged, Floats2d]:
    """RETURNS (Model[Ragged, Floats2d]): The pooling, with a row of zeros for an empty doc."""
    return Model("skip_empty", _skip_empty_forward, layers=[pooling], init=_skip_empty_init)


def _skip_empty_init(
    model: Model[Ragged, Floats2d], X: Ragged | None = None, Y: Floats2d | None = None
) -> None:
    model.layers[0].initialize(X=X, Y=Y)


def _skip_empty_forward(
    model: Model[Ragged, Floats2d], docs: Ragged, is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], Ragged]]:
    ops = get_ops(model)
    filled = ops.xp.flatnonzero(docs.lengths)
    pooled, backprop_pooling = model.layers[0](Ragged(docs.data, docs.lengths[filled]), is_train)
    output: Floats2d = ops.alloc2f(len(docs.lengths), pooled.shape[1])
    output[filled] = pooled

    def backprop(d_output: Floats2d) -> Ragged:
        return Ragged(backprop_pooling(d_output[filled]).data, docs.lengths)

    return output, backprop
