"""The model of `mtl_textcat`: pools token vectors and scores categories."""

from collections.abc import Callable
from typing import Any, Literal

from spacy.tokens import Doc
from thinc.api import (
    Dropout,
    Model,
    ParametricAttention,
    Ragged,
    chain,
    list2ragged,
    reduce_first,
    reduce_max,
    reduce_mean,
    reduce_sum,
)
from thinc.util import get_width

from ...arguments import Rate, Size, checked
from ...types import Floats2d, get_ops
from ..layers import score_docs, with_options

Pooling = Literal["mean", "max", "first", "attention", "label_attention"]


@checked("spacy-mtl.TextCatHead.v1")
def build_textcat_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    pooling: Pooling = "mean",
    dropout: Rate | None = None,
    nO: Size | None = None,
) -> Model[list[Doc], Floats2d]:
    """Build a linear layer over one vector per doc, or per doc and label.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    pooling (str): How the token vectors become one vector: "mean", "max", "first" token, or a
        learned "attention" over them. With "label_attention" each label has its own attention and
        vector.
    dropout (Optional[float]): Dropout of the doc's vector, or with "label_attention" of the tokens'
        vectors; null for `[training] dropout`.
    nO (Optional[int]): The number of labels, by default set at initialization.
    RAISES (ValueError): M058 for an argument out of range.
    """
    if pooling == "label_attention":
        output = LabelAttention(nO)
        layers: Any = chain(tok2vec, list2ragged(), Dropout(), output)  # type: ignore[layer-mismatch-output, layer-mismatch-input]
        return with_options(layers, output, tok2vec, dropout)
    poolings: dict[str, Callable[[], Any]] = {  # thinc's models return its own array types
        "mean": reduce_mean,
        "max": reduce_max,
        "first": reduce_first,
        "attention": lambda: chain(ParametricAttention(), reduce_sum()),
    }
    return score_docs(tok2vec, poolings[pooling](), dropout, nO)


def LabelAttention(nO: int | None = None) -> Model[Ragged, Floats2d]:
    """Score each label by its own linear layer over its own attention-weighted mean of the tokens:
    Mullenbach et al. (2018), "Explainable Prediction of Medical Codes from Clinical Text", section
    2.3.

    Arrays have N x L entries for N tokens and L labels: tokens are scored before the mean, so no
    label needs a vector. Before training the attention is uniform, and all scores are 0.

    nO (Optional[int]): The number of labels; None to set it at initialization.
    """
    return Model(
        "label_attention",
        _label_attention_forward,
        init=_label_attention_init,
        dims={"nO": nO, "nI": None},
        params={"Q": None, "W": None, "b": None},
    )


def _label_attention_init(
    model: Model[Ragged, Floats2d], X: Ragged | None = None, Y: Floats2d | None = None
) -> None:
    if X is not None:
        model.set_dim("nI", get_width(X))
    if Y is not None:
        model.set_dim("nO", Y.shape[1])
    shape = model.get_dim("nO"), model.get_dim("nI")
    ops = get_ops(model)
    model.set_param("Q", ops.alloc2f(*shape))
    model.set_param("W", ops.alloc2f(*shape))
    model.set_param("b", ops.alloc1f(shape[0]))


def _label_attention_forward(
    model: Model[Ragged, Floats2d], docs: Ragged, is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], Ragged]]:
    ops = get_ops(model)
    X = docs.dataXd
    Q, W, b = (model.get_param(name) for name in ("Q", "W", "b"))
    filled = ops.xp.flatnonzero(docs.lengths)
    lengths = docs.lengths[filled]

    def repeat(rows: Floats2d) -> Floats2d:
        # One row per token from one row per doc.
        tokens: Floats2d = ops.backprop_reduce_sum(rows, lengths)
        return tokens

    attention = ops.gemm(X, Q, trans2=True)
    attention -= repeat(ops.reduce_max(attention, lengths)[0])
    ops.xp.exp(attention, out=attention)
    attention /= repeat(ops.reduce_sum(attention, lengths))
    scores = ops.gemm(X, W, trans2=True)
    means = ops.reduce_sum(attention * scores, lengths)
    output = ops.alloc2f(len(docs.lengths), means.shape[1])
    output[filled] = means
    output += b

    def backprop(d_output: Floats2d) -> Ragged:
        d_scores = attention * repeat(d_output[filled])
        d_attention = d_scores * (scores - repeat(means))  # of the logits of the attention
        model.inc_grad("b", d_output.sum(axis=0))
        model.inc_grad("W", ops.gemm(d_scores, X, trans1=True))
        model.inc_grad("Q", ops.gemm(d_attention, X, trans1=True))
        dX = ops.gemm(d_scores, W) + ops.gemm(d_attention, Q)
        return Ragged(dX, docs.lengths)

    return output, backprop
