"""The model of `mtl_ner`: scores of tags, and of transitions between them."""

from collections.abc import Callable
from typing import Any, TypeAlias

from spacy.tokens import Doc
from thinc.api import Model

from ...arguments import Rate, Size, checked
from ...types import Floats2d, get_ops
from ..layers import score_tokens, with_options

Scores: TypeAlias = tuple[Floats2d, Floats2d]  # of tags, N x C, and of transitions, C x C
NerModel: TypeAlias = Model[list[Doc], Scores]


@checked("spacy-mtl.NerHead.v1")
def build_ner_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    crf: bool = True,
    dropout: Rate | None = None,
    nO: Size | None = None,
) -> Model[list[Doc], tuple[Floats2d, Floats2d]]:
    """Build a linear layer over the vector of each token, and scores of transitions.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    crf (bool): Whether to learn the transitions, with the loss of a linear-chain conditional random
        field. Otherwise each token's tag is learned independently. Decoding is exact in both cases.
    dropout (Optional[float]): Dropout of the vectors; null for `[training] dropout`.
    nO (Optional[int]): The number of tags, by default set at initialization.
    RAISES (ValueError): M058 for an argument out of range.
    """
    scorer = score_tokens(tok2vec, dropout, nO)
    model: NerModel = Model(
        "ner_head",
        _forward,
        init=_init,
        layers=[scorer],
        params={"transitions": None},
        attrs={"crf": crf},
    )
    return with_options(model, scorer.get_ref("output_layer"), tok2vec, dropout)


def _init(model: NerModel, X: list[Doc] | None = None, Y: Scores | None = None) -> None:
    model.layers[0].initialize(X=X)
    n_tags = model.get_ref("output_layer").get_dim("nO")
    model.set_param("transitions", get_ops(model).alloc2f(n_tags, n_tags))


def _forward(
    model: NerModel, docs: list[Doc], is_train: bool
) -> tuple[Scores, Callable[[Scores], list[Doc]]]:
    emissions, backprop_emissions = model.layers[0](docs, is_train)

    def backprop(d_scores: Scores) -> list[Doc]:
        d_emissions, d_transitions = d_scores
        if model.attrs["crf"]:
            model.inc_grad("transitions", d_transitions)  # type: ignore[arg-type]
        d_docs: list[Doc] = backprop_emissions(d_emissions)
        return d_docs

    transitions: Any = model.get_param("transitions")
    return (emissions, transitions), backprop
