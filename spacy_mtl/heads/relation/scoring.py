"""Scores of pairs of spans: one hidden layer over the vectors of both spans, their types, the text
between them and their distance.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...types import Floats1d, Floats2d, Ints1d, Ints2d, get_xp
from ..pooling import add_rows, mean_rows

N_DISTANCES = 16  # buckets of the tokens between two spans: 8 in each direction


class Factors(NamedTuple):
    """The factors of the scores of pairs, or their gradients. K is the hidden width.

    rows (Floats2d): The parts of each token's row in a pair's hidden layer, as a token of the head,
        of the child, and between both, N x 3 K.
    types (Floats2d): The part of each type as that of the head, then as that of the child,
        2 T x K.
    distances (Floats2d): The part of each bucket of distances, N_DISTANCES x K.
    weights (Floats2d): The output layer, L x K.
    bias (Floats1d): Its bias, L.
    """

    rows: Floats2d
    types: Floats2d
    distances: Floats2d
    weights: Floats2d
    bias: Floats1d


class Pairs(NamedTuple):
    """P pairs of spans among the rows of a batch.

    spans (Ints2d): The first row and the row after the last of S spans, S x 2.
    types (Ints1d): The number of each span's type, S.
    heads, children (Ints1d): The spans of each pair, P.
    """

    spans: Ints2d
    types: Ints1d
    heads: Ints1d
    children: Ints1d


def score_pairs(factors: Factors, pairs: Pairs) -> tuple[Floats2d, Callable[[Floats2d], Factors]]:
    """Score pairs of spans for all labels. The cost is linear in the spans and the pairs.

    factors (Factors): The output of the model.
    pairs (Pairs): The pairs.
    RETURNS (Tuple[Floats2d, Callable]): The scores, P x L, and a function that returns the gradient
        of the factors from that of the scores.
    """
    xp = get_xp(factors.rows)
    spans, types, heads, children = (xp.asarray(array) for array in pairs)
    n_types, width = len(factors.types) // 2, factors.types.shape[1]
    as_head, as_child, between = (
        factors.rows[:, part * width : (part + 1) * width] for part in range(3)
    )
    gaps = xp.stack(find_gaps(spans[heads], spans[children]), axis=1)
    bucket = find_buckets(spans[heads], spans[children])
    head_means, backprop_heads = mean_rows(as_head, spans)
    child_means, backprop_children = mean_rows(as_child, spans)
    gap_means, backprop_gaps = mean_rows(between, gaps)
    head_parts = head_means + factors.types[types]
    child_parts = child_means + factors.types[types + n_types]
    inputs = head_parts[heads] + child_parts[children] + gap_means + factors.distances[bucket]
    hidden, slope = gelu(inputs)
    scores: Floats2d = hidden @ factors.weights.T + factors.bias

    def backprop(d_scores: Floats2d) -> Factors:
        d_inputs = (d_scores @ factors.weights) * slope
        d_heads = add_rows(d_inputs, heads, len(spans))
        d_children = add_rows(d_inputs, children, len(spans))
        d_rows = [backprop_heads(d_heads), backprop_children(d_children), backprop_gaps(d_inputs)]
        d_types = [add_rows(d_heads, types, n_types), add_rows(d_children, types, n_types)]
        return Factors(
            xp.concatenate(d_rows, axis=1),
            xp.concatenate(d_types),
            add_rows(d_inputs, bucket, len(factors.distances)),
            d_scores.T @ hidden,
            d_scores.sum(axis=0),
        )

    return scores, backprop


def find_gaps(heads: Any, children: Any) -> tuple[Any, Any]:
    """RETURNS (Tuple[Ints1d, Ints1d]): The first row between two spans and the row after the last,
    P each. They are equal if the spans touch or overlap.
    """
    xp = get_xp(heads)
    first = xp.minimum(heads[:, 1], children[:, 1])
    return first, xp.maximum(xp.maximum(heads[:, 0], children[:, 0]), first)


def find_buckets(heads: Any, children: Any) -> Any:
    """RETURNS (Ints1d): The bucket of each pair's distance, P: by the number of tokens between the
    spans, 0, 1, 2 to 3, 4 to 7 and so on, for heads before and after the child.
    """
    xp = get_xp(heads)
    first, last = find_gaps(heads, children)
    size = xp.minimum(xp.ceil(xp.log2(last - first + 1.0)), N_DISTANCES // 2 - 1).astype("int64")
    return size + (heads[:, 0] > children[:, 0]) * (N_DISTANCES // 2)


def gelu(x: Floats2d) -> tuple[Floats2d, Floats2d]:
    """RETURNS (Tuple[Floats2d, Floats2d]): The sigmoid approximation of GELU, and its slope:
    Hendrycks and Gimpel (2016), "Gaussian Error Linear Units", section 2.
    """
    xp = get_xp(x)
    gate = 1 / (1 + xp.exp(-1.702 * x))
    value: Floats2d = x * gate
    return value, gate + 1.702 * value * (1 - gate)


def find_pairs(spans: Sequence[tuple[int, int]], max_distance: int | None) -> list[tuple[int, int]]:
    """Find the ordered pairs of different spans with few tokens between them.

    spans (Sequence[Tuple[int, int]]): The first token of each span and the token after its last.
    max_distance (Optional[int]): The most tokens between two spans; None for no limit.
    RETURNS (List[Tuple[int, int]]): The numbers of both spans of each pair, in order.
    """
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    found = []
    for place, i in enumerate(order):
        for j in order[place + 1 :]:
            if max_distance is not None and spans[j][0] - spans[i][1] > max_distance:
                break
            found += [(i, j), (j, i)]
    return sorted(found)
