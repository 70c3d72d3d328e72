"""The model of `mtl_relation`: the parts of tokens, types and distances in the scores of pairs."""

from collections.abc import Callable
from typing import Any, TypeAlias

from spacy.tokens import Doc
from thinc.api import Dropout, Linear, Model, chain, list2array, normal_init, zero_init

from ...arguments import Rate, Size, checked
from ...types import Floats2d
from ..layers import with_options
from .scoring import N_DISTANCES, Factors

RelationModel: TypeAlias = Model[list[Doc], Factors]
PARAMS = ("E", "D", "W", "b")  # of `PairWeights`, in the order of `Factors`


@checked("spacy-mtl.RelationHead.v1")
def build_relation_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    hidden_width: Size = 128,
    dropout: Rate | None = None,
) -> Model[list[Doc], Factors]:
    """Build one hidden layer over the mean vectors of two spans and of the tokens between them,
    their types and their distance.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    hidden_width (int): The width of the hidden layer.
    dropout (Optional[float]): Dropout of the token vectors; null for `[training] dropout`.
    RAISES (ValueError): M058 for an argument out of range.
    """
    tokens: Model[Any, Any] = chain(tok2vec, list2array(), Dropout(), Linear(nO=3 * hidden_width))
    output = PairWeights(hidden_width)
    model: RelationModel = Model("relation_head", _forward, init=_init, layers=[tokens, output])
    return with_options(model, output, tok2vec, dropout)


def _init(model: RelationModel, X: list[Doc] | None = None, Y: Factors | None = None) -> None:
    tokens, output = model.layers
    tokens.initialize(X=X)
    output.initialize()


def _forward(
    model: RelationModel, docs: list[Doc], is_train: bool
) -> tuple[Factors, Callable[[Factors], list[Doc]]]:
    tokens, output = model.layers
    rows, backprop_rows = tokens(docs, is_train)
    weights, backprop_weights = output(None, is_train)

    def backprop(d_factors: Factors) -> list[Doc]:
        d_rows, *d_weights = d_factors
        backprop_weights(d_weights)
        d_docs: list[Doc] = backprop_rows(d_rows)
        return d_docs

    return Factors(rows, *weights), backprop


def PairWeights(width: int) -> Model[None, list[Any]]:
    """Return learned weights, which do not depend on the input. Before training all scores are
    those of the bias.

    The dimension nO is the number of labels, and nT that of types.

    width (int): The width of the hidden layer, K.
    RETURNS (Model): Returns the `types`, `distances`, `weights` and `bias` of `Factors`.
    """
    params: Any = dict.fromkeys(PARAMS)
    dims = {"nI": width, "nO": None, "nT": None}
    return Model("pair_weights", _weights_forward, init=_weights_init, dims=dims, params=params)


def _weights_init(model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    width, n_labels, n_types = (model.get_dim(name) for name in ("nI", "nO", "nT"))
    model.set_param("E", normal_init(model.ops, (2 * n_types, width), mean=0))
    model.set_param("D", normal_init(model.ops, (N_DISTANCES, width), mean=0))
    model.set_param("W", zero_init(model.ops, (n_labels, width)))
    model.set_param("b", zero_init(model.ops, (n_labels,)))


def _weights_forward(
    model: Model[Any, Any], inputs: None, is_train: bool
) -> tuple[list[Any], Callable[[list[Any]], None]]:
    def backprop(gradients: list[Any]) -> None:
        for name, gradient in zip(PARAMS, gradients, strict=True):
            model.inc_grad(name, gradient)

    return [model.get_param(name) for name in PARAMS], backprop
