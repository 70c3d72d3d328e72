"""Lexical features, such as the case of a word, which an uncased encoder cannot read."""

from collections.abc import Callable
from typing import Annotated

from spacy.ml.models.tok2vec import MultiHashEmbed
from spacy.tokens import Doc
from thinc.api import Model, chain, with_array
from thinc.types import Ragged

from ..arguments import Range, Size, checked
from ..errors import Errors
from ..types import Floats2d, Ints2d, get_ops

ODD = 0x9E3779B97F4A7C15


@checked("spacy-mtl.LexicalEmbed.v1")
def build_lexical_embed_v1(
    width: Size, attrs: list[str | int], rows: list[Annotated[int, Range(1, 1e7)]]
) -> Model[list[Doc], list[Floats2d]]:
    """Embed lexical attributes by hashing and mix them by a maxout layer: spaCy's MultiHashEmbed,
    computed once for each distinct word in a batch.

    width (int): Width of each table and of the output.
    attrs (List[str]): The attributes, such as "NORM", "PREFIX", "SUFFIX" and "SHAPE".
    rows (List[int]): The size of each attribute's table.
    RAISES (ValueError): M058 for an argument out of range, M059 if the lists do not fit.
    """
    if len(attrs) != len(rows) or not attrs:
        raise ValueError(Errors.M059.format(attrs=attrs, rows=rows))
    stock = MultiHashEmbed(width, attrs, rows, include_static_vectors=False)
    extract, to_ragged, embed, mix, to_list = stock.layers
    layer = chain(embed.layers[0], mix.layers[0])
    by_word: Model[Ragged, Ragged] = with_array(by_value(layer))  # type: ignore[misc]
    return chain(extract, to_ragged, by_word, to_list)


def by_value(layer: Model[Ints2d, Floats2d]) -> Model[Ints2d, Floats2d]:
    """RETURNS (Model[Ints2d, Floats2d]): The layer, computed once for equal rows."""
    return Model("by_value", forward, init=init, layers=[layer])


def init(model: Model[Ints2d, Floats2d], X: Ints2d | None = None, Y: object = None) -> None:
    model.layers[0].initialize(X=X)


def forward(
    model: Model[Ints2d, Floats2d], X: Ints2d, is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], Ints2d]]:
    ops = get_ops(model)
    xp = ops.xp
    # One number per row. Two different rows have the same number once in 2 ** 64 pairs.
    keys = xp.zeros(len(X), dtype="uint64")
    for column in X.T:
        keys = keys * xp.uint64(ODD) + column
    _, first, place = xp.unique(keys, return_index=True, return_inverse=True)
    Y, backprop_layer = model.layers[0](X[first], is_train)

    def backprop(d_Y: Floats2d) -> Ints2d:
        d_distinct = ops.alloc2f(len(first), d_Y.shape[1])
        ops.scatter_add(d_distinct, ops.asarray1i(place), d_Y)
        backprop_layer(d_distinct)
        return X

    return Y[place], backprop
