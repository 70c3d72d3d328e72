"""`mtl_paircat`: categories of pairs of texts, in `doc.cats`."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import Dropout, Model, chain, list2array

from ..arguments import Rate, Share, checked
from ..pairs import find_texts
from ..types import Floats2d, Settings, get_ops, get_xp
from .base import show_as
from .layers import linear, with_options
from .loss_weighting import LossWeighting
from .pooling import mean_rows
from .textcat.pipe import (
    EXCLUSIVE_CONFIG,
    SCORE_WEIGHTS,
    MultiTaskTextCategorizer,
    make_mtl_textcat,
)

PairModel: TypeAlias = Model[list[Doc], Floats2d]
DEFAULT_CONFIG: Settings = {
    **EXCLUSIVE_CONFIG,
    "model": {
        "@architectures": "spacy-mtl.PairCatHead.v1",
        "tok2vec": {"@architectures": "spacy-mtl.TaskListener.v1"},
    },
}


@checked("spacy-mtl.PairCatHead.v1")
def build_paircat_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    symmetric: bool = False,
    dropout: Rate | None = None,
) -> Model[list[Doc], Floats2d]:
    """Build a linear layer over the mean vectors u and v of both texts, |u - v| and u * v: Reimers
    and Gurevych (2019), "Sentence-BERT", section 3. The encoder reads both texts in one sequence.

    A doc without two texts is compared with itself.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    symmetric (bool): Whether u + v takes the place of u and v. With pairs whose order has no
        meaning (`make_pair(..., ordered=False)`), scores then do not depend on the order.
    dropout (Optional[float]): Dropout of the features; null for `[training] dropout`.
    RAISES (ValueError): M058 for an argument out of range.
    """
    tokens: Model[Any, Any] = chain(tok2vec, list2array())
    output = linear()
    scores: Model[Any, Any] = chain(Dropout(), output)
    model: PairModel = Model(
        "paircat_head",
        _forward,
        init=_init,
        layers=[tokens, scores],
        attrs={"symmetric": symmetric},
    )
    return with_options(model, output, tok2vec, dropout)


def _init(model: PairModel, X: list[Doc] | None = None, Y: Floats2d | None = None) -> None:
    tokens, scores = model.layers
    docs = X or []
    tokens.initialize(X=docs)
    scores.initialize(X=compare(tokens.predict(docs), docs, model.attrs["symmetric"])[0])


def _forward(
    model: PairModel, docs: list[Doc], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], list[Doc]]]:
    tokens, output = model.layers
    rows, backprop_rows = tokens(docs, is_train)
    features, backprop_features = compare(rows, docs, model.attrs["symmetric"])
    scores, backprop_scores = output(get_ops(model).asarray2f(features), is_train)

    def backprop(d_scores: Floats2d) -> list[Doc]:
        d_docs: list[Doc] = backprop_rows(backprop_features(backprop_scores(d_scores)))
        return d_docs

    return scores, backprop


def compare(
    rows: Floats2d, docs: list[Doc], symmetric: bool
) -> tuple[Floats2d, Callable[[Floats2d], Floats2d]]:
    """Compare the mean vectors u and v of both texts of each doc.

    rows (Floats2d): The rows of all tokens, N x H.
    docs (List[Doc]): The docs, D.
    symmetric (bool): Whether the features do not depend on the order of the texts.
    RETURNS (Tuple[Floats2d, Callable]): u, v, |u - v| and u * v side by side, D x 4 H, or u + v,
        |u - v| and u * v, D x 3 H; and a function that returns the gradient of the rows.
    """
    xp = get_xp(rows)
    firsts = numpy.cumsum([0, *map(len, docs)])[:-1]
    pairs = [find_texts(doc) or (doc[:], doc[:]) for doc in docs]
    places = [
        [(row + span.start, row + span.end) for row, span in zip(firsts, side, strict=True)]
        for side in zip(*pairs, strict=True)
    ]
    (u, backprop_u), (v, backprop_v) = (mean_rows(rows, xp.asarray(side)) for side in places)
    own = [u + v] if symmetric else [u, v]
    features = xp.concatenate([*own, xp.abs(u - v), u * v], axis=1)

    def backprop(d_features: Floats2d) -> Floats2d:
        *d_own, d_gap, d_product = xp.split(d_features, len(own) + 2, axis=1)
        slope = d_gap * xp.sign(u - v)
        d_u, d_v = d_own[0] + slope + d_product * v, d_own[-1] - slope + d_product * u
        d_rows: Floats2d = backprop_u(d_u) + backprop_v(d_v)
        return d_rows

    return features, backprop


@Language.factory(
    "mtl_paircat",
    assigns=["doc.cats"],
    default_config=DEFAULT_CONFIG,
    default_score_weights=SCORE_WEIGHTS,
)
@checked("mtl_paircat")
def make_mtl_paircat(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    threshold: Share,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskTextCategorizer:
    """Construct a text categorizer for docs of two texts, for exactly one category per pair. For
    any number of categories, use `mtl_textcat_multilabel` with the same model.

    model (Model[List[Doc], Floats2d]): Scores of each label for each doc, before the softmax.
    threshold (float): Not used: the best category is predicted.
    label_smoothing (float): Share of each target that is spread over all labels, 0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard pairs and rare categories.
    scorer (Optional[Callable]): The scoring method.
    """
    categorizer: MultiTaskTextCategorizer = make_mtl_textcat(
        nlp, name, model, threshold, label_smoothing, loss, scorer
    )
    return categorizer


show_as("mtl_paircat", "textcat")
