"""The model of `mtl_spancat`: vectors of tokens as the first and the last ones of spans, and the
weights of their pairs.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from spacy.tokens import Doc
from thinc.api import Dropout, Gelu, Model, chain, list2array, zero_init

from ...arguments import Rate, Size, checked
from ...types import Floats2d, Floats3d
from ..layers import with_options
from .scoring import Scores

SpanCatModel: TypeAlias = Model[list[Doc], Scores]


@checked("spacy-mtl.SpanCatHead.v1")
def build_spancat_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    hidden_width: Size = 64,
    dropout: Rate | None = None,
) -> Model[list[Doc], Scores]:
    """Build a biaffine layer over two vectors of each token: as the first and as the last one of a
    span.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    hidden_width (int): The width of the two vectors.
    dropout (Optional[float]): Dropout of the token vectors; null for `[training] dropout`.
    RAISES (ValueError): M058 for an argument out of range.
    """
    tokens: Model[Any, Any] = chain(tok2vec, list2array(), Dropout())
    layers: list[Model[Any, Any]] = [Gelu(nO=hidden_width, dropout=0.0) for _ in range(2)]
    output = PairWeights(hidden_width)
    model: SpanCatModel = Model(
        "spancat_head", _forward, init=_init, layers=[tokens, *layers, output]
    )
    return with_options(model, output, tok2vec, dropout)


def _init(model: SpanCatModel, X: list[Doc] | None = None, Y: Scores | None = None) -> None:
    tokens, starts, ends, output = model.layers
    tokens.initialize(X=X)
    rows = tokens.predict(X or [])
    starts.initialize(X=rows)
    ends.initialize(X=rows)
    output.initialize()


def _forward(
    model: SpanCatModel, docs: list[Doc], is_train: bool
) -> tuple[Scores, Callable[[Scores], list[Doc]]]:
    tokens, starts, ends, output = model.layers
    rows, backprop_rows = tokens(docs, is_train)
    start_vectors, backprop_starts = starts(rows, is_train)
    end_vectors, backprop_ends = ends(rows, is_train)
    (weights, bias), backprop_weights = output(None, is_train)

    def backprop(d_scores: Scores) -> list[Doc]:
        d_starts, d_ends, d_weights, d_bias = d_scores
        backprop_weights((d_weights, d_bias))
        d_docs: list[Doc] = backprop_rows(backprop_starts(d_starts) + backprop_ends(d_ends))
        return d_docs

    return Scores(start_vectors, end_vectors, weights, bias), backprop


def PairWeights(width: int) -> Model[None, tuple[Floats3d, Floats2d]]:
    """Return learned weights, which do not depend on the input. Before training all scores are
    those of the bias.

    It has an output for each width and label, nO. The dimension nL is the number of labels.

    width (int): The width of the vectors, K.
    RETURNS (Model): Returns the `weights` and `bias` of `Scores`.
    """
    params: Any = {"W": None, "b": None}
    dims = {"nI": width, "nL": None, "nO": None}
    return Model("pair_weights", _weights_forward, init=_weights_init, dims=dims, params=params)


def _weights_init(model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    n, n_labels = model.get_dim("nI") + 1, model.get_dim("nL")
    model.set_param("W", zero_init(model.ops, (n, n_labels, n)))
    model.set_param("b", zero_init(model.ops, (model.get_dim("nO"),)))


def _weights_forward(
    model: Model[Any, Any], inputs: None, is_train: bool
) -> tuple[tuple[Any, Any], Callable[[tuple[Any, Any]], None]]:
    def backprop(gradients: tuple[Any, Any]) -> None:
        d_weights, d_bias = gradients
        model.inc_grad("W", d_weights)
        model.inc_grad("b", d_bias.reshape(-1))

    bias: Any = model.get_param("b")
    return (model.get_param("W"), bias.reshape(-1, model.get_dim("nL"))), backprop
