"""The model of `mtl_seq2seq`: the rows that a decoder reads, and the weights of the decoder."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

from spacy.tokens import Doc
from thinc.api import Dropout, Linear, Model, chain, list2array

from ...arguments import Range, Rate, Size, checked
from ...errors import Errors
from ...types import Floats2d, get_ops
from ..layers import with_options

Weights: TypeAlias = dict[str, Any]  # arrays by the names of torch's parameters


class Factors(NamedTuple):
    """What a decoder computes texts from, or the gradient.

    rows (Floats2d): The token vectors, projected to the width of the decoder, N x D.
    weights (Dict[str, FloatsXd]): The weights of the decoder.
    dropout (float): Its dropout rate, 0 in predictions.
    """

    rows: Floats2d
    weights: Weights
    dropout: float = 0.0


class Sizes(NamedTuple):
    """The sizes of a decoder that its weights do not tell.

    depth (int): The number of layers.
    heads (int): Attention heads per layer.
    """

    depth: int
    heads: int


Seq2SeqModel: TypeAlias = Model[list[Doc], Factors]


@checked("spacy-mtl.Seq2SeqHead.v1")
def build_seq2seq_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    width: Size = 256,
    depth: Annotated[int, Range(1, 100)] = 1,
    heads: Size = 4,
    dropout: Rate | None = None,
) -> Model[list[Doc], Factors]:
    """Build a transformer decoder that reads the token vectors of a doc: Vaswani et al. (2017),
    "Attention Is All You Need", with layer norm before each part, a tied embedding, and a gate
    between pieces of the vocabulary and copies of tokens, as in See et al. (2017), "Get To The
    Point: Summarization with Pointer-Generator Networks", section 2.2.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    width (int): The width of the decoder. Its feed-forward layers are four times as wide.
    depth (int): The number of layers.
    heads (int): Attention heads per layer; a divisor of the width.
    dropout (Optional[float]): Dropout of the token vectors and in the decoder; null for `[training]
        dropout`.
    RAISES (ValueError): M058 for an argument out of range, M298 for `heads` that do not divide the
        width.
    """
    if width % heads:
        raise ValueError(Errors.M298.format(heads=heads, width=width))
    tokens: Model[Any, Any] = chain(tok2vec, list2array(), Dropout(), Linear(nO=width))
    output = DecoderWeights(width, depth, heads)
    model: Seq2SeqModel = Model("seq2seq_head", _forward, init=_init, layers=[tokens, output])
    return with_options(model, output, tok2vec, dropout)


def _init(model: Seq2SeqModel, X: list[Doc] | None = None, Y: Factors | None = None) -> None:
    tokens, output = model.layers
    tokens.initialize(X=X)
    output.initialize()


def _forward(
    model: Seq2SeqModel, docs: list[Doc], is_train: bool
) -> tuple[Factors, Callable[[Factors], list[Doc]]]:
    tokens, output = model.layers
    rows, backprop_rows = tokens(docs, is_train)
    weights, backprop_weights = output(None, is_train)

    def backprop(d_factors: Factors) -> list[Doc]:
        backprop_weights(d_factors.weights)
        d_docs: list[Doc] = backprop_rows(d_factors.rows)
        return d_docs

    return Factors(rows, weights, output.attrs["dropout_rate"] if is_train else 0.0), backprop


def DecoderWeights(width: int, depth: int, heads: int) -> Model[None, Weights]:
    """Return the weights of a decoder, which do not depend on the input. They are thinc parameters,
    so they are clipped, decayed, averaged and saved like the other weights of heads.

    The dimension nO is the number of pieces.

    width, depth, heads (int): The sizes of the decoder.
    RETURNS (Model): Returns the weights by name.
    """
    return Model(
        "decoder_weights",
        _weights_forward,
        init=_weights_init,
        dims={"nI": width, "nO": None},
        params=dict.fromkeys(["embedding"]),  # others are added when it is initialized
        attrs={"depth": depth, "heads": heads, "dropout_rate": 0.0},
    )


def _weights_init(model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    from .decoder import make_weights  # imports torch

    sizes = model.get_dim("nO"), model.get_dim("nI"), model.attrs["depth"], model.attrs["heads"]
    for name, weights in make_weights(*sizes).items():
        model.set_param(name, get_ops(model).asarray_f(weights))


def _weights_forward(
    model: Model[Any, Any], inputs: None, is_train: bool
) -> tuple[Weights, Callable[[Weights], None]]:
    def backprop(gradients: Weights) -> None:
        for name, gradient in gradients.items():
            model.inc_grad(name, gradient)

    return {name: model.get_param(name) for name in sorted(model.param_names)}, backprop
