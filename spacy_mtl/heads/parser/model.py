"""The model of `mtl_parser`: scores of sentence starts, heads and relations.

Dozat and Manning (2017), "Deep Biaffine Attention for Neural Dependency Parsing", section 3.1.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy
from spacy.tokens import Doc
from thinc.api import (
    Dropout,
    Model,
    Relu,
    chain,
    glorot_uniform_init,
    list2array,
    zero_init,
)

from ...arguments import Rate, Size, checked
from ...encoder.runtime.cpu.ops import matmul
from ...types import Bools2d, Floats2d, Floats3d, Ints1d, Ints2d, get_ops
from ..layers import linear, with_options

NO_HEAD = -1e4  # the score of a head that cannot be. Its probability is 0.
ROOT = -1  # the row of the root
MAX_CELLS = 2**16  # scores of heads in one batch of sentences
MAX_PAIRS = 2**11  # pairs in one product of relation scores


class ArcScores(NamedTuple):
    """Scores of heads for sentences of similar length.

    rows (Ints2d): The row of each token among the docs' tokens, B x L; -1 after the last token.
    values (Floats3d): The score of each head for each dependent, B x L x (L + 1). Head 0 is the
        root, head i the token i - 1. A head that cannot be has the score NO_HEAD.
    backprop (Callable): Passes the gradient of the scores on.
    """

    rows: Ints2d
    values: Floats3d
    backprop: Callable[[Floats3d], None]


class RelationScores(NamedTuple):
    """Scores of relations for P pairs of tokens.

    values (Floats2d): The score of each relation, P x R.
    backprop (Callable): Passes the gradient of the scores on.
    """

    values: Floats2d
    backprop: Callable[[Floats2d], None]


class Scores(NamedTuple):
    """The output of the model for N tokens, or its gradient. Heads are scored inside of sentences,
    and relations between a token and its head, so both are scored on demand.

    starts (Floats2d): The scores of tokens inside of sentences and of their first tokens, N x 2.
    score_arcs (Callable): Scores the heads in sentences, given as their first rows and the rows
        after their last, S x 2.
    score_relations (Callable): Scores the relations of dependents, P, to heads, P.
    backprops (Sequence[Callable]): In a gradient: passes the gradients of the other scores on.
    """

    starts: Floats2d
    score_arcs: Callable[[Ints2d], Iterator[ArcScores]]
    score_relations: Callable[[Ints1d, Ints1d], RelationScores]
    backprops: Sequence[Callable[[], None]] = ()


ParserModel: TypeAlias = Model[list[Doc], Scores]
Pair: TypeAlias = tuple[Floats2d, Floats2d]  # vectors of dependents and of heads


@checked("spacy-mtl.ParserHead.v1")
def build_parser_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    arc_width: Size = 256,
    relation_width: Size = 64,
    dropout: Rate | None = None,
    nO: Size | None = None,
) -> Model[list[Doc], Scores]:
    """Build a biaffine parser over the vector of each token.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors: a listener, or a model of
        its own.
    arc_width (int): The width of the vectors of dependents and heads.
    relation_width (int): The width of their vectors for relations.
    dropout (Optional[float]): Dropout of all these vectors; null for `[training] dropout`.
    nO (Optional[int]): The number of relations, by default set at initialization.
    RAISES (ValueError): M058 for an argument out of range.
    """
    widths = (arc_width, arc_width, relation_width, relation_width)
    vectors: list[Model[Any, Any]] = [Relu(nO=width, dropout=0.0) for width in widths]
    tokens: Model[Any, Any] = chain(tok2vec, list2array(), Dropout())
    arcs, relations = Arcs(arc_width), Relations(relation_width, nO)
    layers = [tokens, *vectors, linear(2), arcs, relations]
    model: ParserModel = Model("parser_head", _forward, init=_init, layers=layers)
    return with_options(model, relations, tok2vec, dropout)


def _init(model: ParserModel, X: list[Doc] | None = None, Y: Scores | None = None) -> None:
    tokens, *layers, _, relations = model.layers
    tokens.initialize(X=X)
    rows = tokens.predict(X or [])
    for layer in layers:
        layer.initialize(X=rows)
    relations.initialize()
    model.layers[-2].initialize()


def _forward(
    model: ParserModel, docs: list[Doc], is_train: bool
) -> tuple[Scores, Callable[[Scores], list[Doc]]]:
    tokens, *layers, starts, arcs, relations = model.layers
    rows, backprop_rows = tokens(docs, is_train)
    vectors, backprops = zip(*(layer(rows, is_train) for layer in layers), strict=True)
    gradients = [get_ops(model).xp.zeros_like(vector) for vector in vectors]
    start_scores, backprop_starts = starts(rows, is_train)

    def score_arcs(sentences: Ints2d) -> Iterator[ArcScores]:
        for places in make_batches(sentences):
            values, backprop = arcs((vectors[:2], places), is_train)
            yield ArcScores(places, values, partial(pass_on, backprop, gradients[:2]))

    def score_relations(dependents: Ints1d, heads: Ints1d) -> RelationScores:
        values, backprop = relations((vectors[2:], dependents, heads), is_train)
        return RelationScores(values, partial(pass_on, backprop, gradients[2:]))

    def pass_on(backprop: Callable[[Any], None], into: Sequence[Floats2d], gradient: Any) -> None:
        backprop((gradient, into))

    def backprop(gradient: Scores) -> list[Doc]:
        for run in gradient.backprops:
            run()
        d_rows = backprop_starts(gradient.starts)
        for back, d_vectors in zip(backprops, gradients, strict=True):
            d_rows = d_rows + back(d_vectors)
        d_docs: list[Doc] = backprop_rows(d_rows)
        return d_docs

    return Scores(start_scores, score_arcs, score_relations), backprop


def make_batches(sentences: Ints2d) -> Iterator[Ints2d]:
    """Batch sentences of similar length.

    sentences (Ints2d): The first row of each sentence and the row after its last, S x 2.
    YIELDS (Ints2d): The rows of the tokens of some sentences, B x L; -1 after the last token.
    """
    lengths = sentences[:, 1] - sentences[:, 0]
    order = numpy.argsort(lengths, kind="stable")
    starts = [0]
    for place, length in enumerate(lengths[order].tolist()):
        if (place + 1 - starts[-1]) * length * (length + 1) > MAX_CELLS and place > starts[-1]:
            starts.append(place)
    for start, end in pairwise([*starts, len(order)]):
        part = order[start:end]
        if len(part):
            places = numpy.arange(lengths[part].max())
            rows = sentences[part, :1] + places
            yield numpy.where(places < lengths[part, None], rows, -1)


def Arcs(width: int) -> Model[tuple[Pair, Ints2d], Floats3d]:
    """Score the head of each token in sentences: equation 2 of the paper. The root has a learned
    vector.

    width (int): The width of the vectors, A.
    RETURNS (Model): Takes the vectors of dependents and heads, each N x A, and the rows of the
        tokens, B x L. Returns the scores as `ArcScores` holds them. Its backprop also takes the
        gradients of the vectors, and adds to them.
    """
    params: Any = {"W": None, "b": None, "root": None}
    return Model("arcs", _arcs_forward, init=_arcs_init, dims={"nI": width}, params=params)


def _arcs_init(model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    width = model.get_dim("nI")
    set_param(model, "W", glorot_uniform_init(model.ops, (width, width)))
    set_param(model, "b", zero_init(model.ops, (width,)))
    set_param(model, "root", glorot_uniform_init(model.ops, (1, width))[0])


def _arcs_forward(
    model: Model[Any, Any], inputs: tuple[Pair, Ints2d], is_train: bool
) -> tuple[Floats3d, Callable[[tuple[Floats3d, Pair]], None]]:
    (dependents, heads), rows = inputs
    xp = get_ops(model).xp
    W, b, root = get_params(model, "W", "b", "root")
    is_token = rows >= 0
    D: Any = dependents[rows]
    H: Any = xp.concatenate([xp.broadcast_to(root, (len(rows), 1, len(b))), heads[rows]], axis=1)
    P: Any = matmul(D.reshape(-1, len(b)), W).reshape(D.shape)
    scores: Any = matmul(P, H.transpose(0, 2, 1)) + (H @ b)[:, None]
    scores[:, :, 1:][find_impossible(is_token, xp)] = NO_HEAD

    def backprop(gradients: tuple[Floats3d, Pair]) -> None:
        d_scores: Any
        d_scores, (d_dependents, d_heads) = gradients
        d_sums = d_scores.sum(axis=1)[..., None]
        d_P: Any = matmul(d_scores, H)
        d_H: Any = matmul(d_scores.transpose(0, 2, 1), P) + d_sums * b
        flat_P, flat_D = d_P.reshape(-1, len(b)), D.reshape(-1, len(b))
        inc_grad(model, "W", matmul(flat_D.T, flat_P))
        inc_grad(model, "b", (H * d_sums).sum(axis=(0, 1)))
        inc_grad(model, "root", d_H[:, 0].sum(axis=0))
        d_D = matmul(flat_P, W.T).reshape(D.shape)
        d_dependents[rows[is_token]] += d_D[is_token]
        d_heads[rows[is_token]] += d_H[:, 1:][is_token]

    return scores, backprop


def get_params(model: Model[Any, Any], *names: str) -> Any:
    """RETURNS (List[Floats]): Parameters of a model, as arrays of numpy or cupy."""
    return [model.get_param(name) for name in names]


def inc_grad(model: Model[Any, Any], name: str, gradient: Any) -> None:
    model.inc_grad(name, gradient)


def set_param(model: Model[Any, Any], name: str, value: Any) -> None:
    model.set_param(name, value)


def find_impossible(is_token: Bools2d, xp: Any) -> Any:
    """RETURNS (Bools3d): Whether a place cannot be the head of another: itself, and places after
    the last token, B x L x L.
    """
    return ~is_token[:, None] | xp.eye(is_token.shape[1], dtype=bool)


def Relations(width: int, nO: int | None) -> Model[Any, Floats2d]:
    """Score the relation of tokens to their heads: equation 3 of the paper. Before training all
    scores are those of the bias. The root has a learned vector.

    width (int): The width of the vectors, V.
    nO (Optional[int]): The number of relations, R; None to set it at initialization.
    RETURNS (Model): Takes the vectors of dependents and heads, each N x V, and the rows of P
        dependents and of their heads. Returns the scores, P x R. Its backprop also takes the
        gradients of the vectors, and adds to them.
    """
    params: Any = {"W": None, "V": None, "b": None, "root": None}
    dims = {"nI": width, "nO": nO}
    return Model("relations", _relations_forward, init=_relations_init, dims=dims, params=params)


def _relations_init(model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    width, n = model.get_dim("nI"), model.get_dim("nO")
    set_param(model, "W", zero_init(model.ops, (width, n * width)))
    set_param(model, "V", zero_init(model.ops, (2 * width, n)))
    set_param(model, "b", zero_init(model.ops, (n,)))
    set_param(model, "root", glorot_uniform_init(model.ops, (1, width))[0])


def _relations_forward(
    model: Model[Any, Any], inputs: tuple[Pair, Ints1d, Ints1d], is_train: bool
) -> tuple[Floats2d, Callable[[tuple[Floats2d, Pair]], None]]:
    (dependents, heads), rows, head_rows = inputs
    xp = get_ops(model).xp
    W, V, b, root = get_params(model, "W", "V", "b", "root")
    is_root = head_rows == ROOT
    D: Any = dependents[rows]
    H: Any = xp.where(is_root[:, None], root, heads[head_rows])
    shape = (-1, len(b), len(root))
    scores: Any = matmul(xp.concatenate([D, H], axis=1), V) + b
    for start in range(0, len(rows), MAX_PAIRS):  # the products take nO times as much memory
        part = slice(start, start + MAX_PAIRS)
        products: Any = matmul(D[part], W).reshape(shape)
        scores[part] += matmul(products, H[part, :, None])[..., 0]

    def backprop(gradients: tuple[Floats2d, Pair]) -> None:
        d_scores: Any
        d_scores, (d_dependents, d_heads) = gradients
        d_pairs = matmul(d_scores, V.T)
        d_D, d_H = d_pairs[:, : len(root)].copy(), d_pairs[:, len(root) :].copy()
        for start in range(0, len(rows), MAX_PAIRS):
            part = slice(start, start + MAX_PAIRS)
            d_products = (d_scores[part, :, None] * H[part, None]).reshape(-1, W.shape[1])
            inc_grad(model, "W", matmul(D[part].T, d_products))
            d_D[part] += matmul(d_products, W.T)
            products: Any = matmul(D[part], W).reshape(shape)
            d_H[part] += matmul(d_scores[part, None], products)[:, 0]
        inc_grad(model, "V", matmul(xp.concatenate([D, H], axis=1).T, d_scores))
        inc_grad(model, "b", d_scores.sum(axis=0))
        inc_grad(model, "root", d_H[is_root].sum(axis=0))
        d_dependents[rows] += d_D  # each token is the dependent of one pair
        get_ops(model).scatter_add(d_heads, head_rows[~is_root], d_H[~is_root])

    return scores, backprop
