"""Exact decoding of dependency trees: the best tree with a single root."""

import numpy

from ...types import Bools1d, Floats2d, Floats3d, Ints1d, Ints2d


def decode_trees(scores: Floats3d, lengths: Ints1d) -> Ints2d:
    """Find the best tree of each sentence, projective or not. Most sentences need no more than the
    best head of each token: only where these form no tree, the maximum spanning tree is computed.

    scores (Floats3d): The score of each head for each dependent, B x L x (L + 1). Head 0 is the
        root, head i the token i - 1. Heads behind the end of a sentence are -inf.
    lengths (Ints1d): The tokens of each sentence, B.
    RETURNS (Ints2d): The head of each dependent, B x L; 0 behind the end of a sentence.
    """
    heads: Ints2d = scores.argmax(axis=2)
    heads[numpy.arange(heads.shape[1]) >= lengths[:, None]] = 0
    for i in numpy.flatnonzero(~are_trees(heads, lengths)).tolist():
        n = int(lengths[i])
        heads[i, :n] = find_spanning_tree(scores[i, :n, : n + 1])
    return heads


def are_trees(heads: Ints2d, lengths: Ints1d) -> Bools1d:
    """RETURNS (Bools1d): Whether the heads of each sentence form a tree with a single root, B."""
    is_token = numpy.arange(heads.shape[1]) < lengths[:, None]
    n_roots = ((heads == 0) & is_token).sum(axis=1)
    ancestors = numpy.pad(heads, ((0, 0), (1, 0)))  # the root is its own head
    # Each round doubles the distance, so all tokens of a tree reach the root.
    for _ in range(heads.shape[1].bit_length()):
        ancestors = numpy.take_along_axis(ancestors, ancestors, axis=1)
    found: Bools1d = (n_roots == 1) & ~ancestors.any(axis=1)
    return found


def find_spanning_tree(scores: Floats2d) -> Ints1d:
    """Find the maximum spanning arborescence with a single root: Tarjan (1977), "Finding Optimum
    Branchings", in its quadratic form for dense graphs. A penalty on all arcs of the root leaves
    one of them: Stanojević and Cohen (2021), "A Root of All Evil", section 4.

    scores (Floats2d): The score of each head for each dependent, n x (n + 1). Head 0 is the root.
    RETURNS (Ints1d): The head of each dependent, n.
    """
    n = len(scores) + 1
    weights = numpy.full((n, n), -numpy.inf)
    weights[1:] = scores
    finite = weights[numpy.isfinite(weights)]
    weights[1:, 0] -= 1 + n * (finite.max() - finite.min())
    numpy.fill_diagonal(weights, -numpy.inf)
    return Branching(weights).find()[1:]


class Branching:
    """Contracts cycles of best heads until there are none, then opens them again.

    A contracted cycle takes the row and the column of its first vertex. Vertex 0 is the root.

    weights (Floats2d): The weight of each head for each dependent, n x n. They are changed.
    """

    def __init__(self, weights: Floats2d) -> None:
        n = len(weights)
        self.weights = weights
        # The ends of the arc that stands for each pair of contracted vertices.
        self.dependents = numpy.repeat(numpy.arange(n)[:, None], n, axis=1)
        self.heads = numpy.repeat(numpy.arange(n)[None], n, axis=0)
        self.best = numpy.zeros(n, dtype="int64")  # the best head of each vertex
        self.arcs = numpy.zeros((n, 2), dtype="int64")  # its arc: dependent and head
        self.members = [[i] for i in range(n)]  # the vertices inside of each vertex
        self.cycles: list[list[tuple[int, list[int]]]] = []
        self.cycle_arcs: list[Ints2d] = []

    def find(self) -> Ints1d:
        """RETURNS (Ints1d): The head of each vertex, n."""
        n = len(self.weights)
        is_done = numpy.arange(n) == 0
        for start in range(1, n):
            path = [] if is_done[start] else [start]
            while path:
                top = path[-1]
                head = int(self.weights[top].argmax())
                self.best[top] = head
                self.arcs[top] = self.dependents[top, head], self.heads[top, head]
                if is_done[head]:
                    is_done[path] = True
                    path = []
                elif head in path:
                    place = path.index(head)
                    self._contract(path[place:])
                    is_done[path[place + 1 :]] = True
                    del path[place + 1 :]
                else:
                    path.append(head)
        self._open_cycles()
        return self.arcs[:, 1]

    def _contract(self, cycle: list[int]) -> None:
        first, places = cycle[0], numpy.arange(len(self.weights))
        self.cycles.append([(vertex, self.members[vertex]) for vertex in cycle])
        self.cycle_arcs.append(self.arcs[cycle])
        self.members[first] = [member for vertex in cycle for member in self.members[vertex]]
        # Arcs into the cycle: what each gains over the arc of the cycle that it replaces.
        gains = self.weights[cycle] - self.weights[cycle, self.best[cycle]][:, None]
        rows = numpy.asarray(cycle)[gains.argmax(axis=0)]
        self.weights[first] = gains.max(axis=0)
        self.dependents[first] = self.dependents[rows, places]
        self.heads[first] = self.heads[rows, places]
        # Arcs out of the cycle: the best of its vertices.
        columns = numpy.asarray(cycle)[self.weights[:, cycle].argmax(axis=1)]
        for array in (self.dependents, self.heads, self.weights):
            array[:, first] = array[places, columns]
        self.weights[:, cycle[1:]] = -numpy.inf
        self.weights[first, first] = -numpy.inf

    def _open_cycles(self) -> None:
        """Replace the arc of each cycle where the arc from outside enters it."""
        for cycle, arcs in zip(reversed(self.cycles), reversed(self.cycle_arcs), strict=True):
            entry = self.arcs[cycle[0][0]].copy()
            for (vertex, members), arc in zip(cycle, arcs, strict=True):
                self.arcs[vertex] = entry if entry[0] in members else arc


def decode_projective(scores: Floats3d, lengths: Ints1d) -> Ints2d:
    """Find the best projective tree with a single root of each sentence: Eisner (1996), "Three New
    Probabilistic Models for Dependency Parsing", section 3.

    scores, lengths: The arguments of `decode_trees`.
    RETURNS (Ints2d): The head of each dependent, B x L; 0 after the end of a sentence.
    """
    heads = numpy.zeros(scores.shape[:2], dtype="int64")
    for i, n in enumerate(lengths.tolist()):
        heads[i, :n] = find_projective_tree(scores[i, :n, : n + 1])
    return heads


def find_projective_tree(scores: Floats2d) -> Ints1d:
    """Find the best projective tree with a single root.

    The chart has for each span from i to j, i < j, the best trees whose head is i (direction 1) or
    j (direction 0), with and without an arc between both. All spans of a length are computed at
    once. The root is attached last: to the token with the best two halves beside it.

    scores (Floats2d): The score of each head for each dependent, n x (n + 1). Head 0 is the root.
    RETURNS (Ints1d): The head of each dependent, n.
    """
    n = len(scores)
    arcs = scores[:, 1:].astype("float64")  # [dependent, head]
    complete, open_ = numpy.zeros((2, n, n)), numpy.zeros((2, n, n))
    split, open_split = (numpy.zeros((2, n, n), dtype="int64") for _ in range(2))
    for width in range(1, n):
        i = numpy.arange(n - width)
        j, k = i + width, i[:, None] + numpy.arange(width)
        # An arc between i and j: right half of i up to k, left half of j from k + 1.
        halves = complete[1][i[:, None], k] + complete[0][k + 1, j[:, None]]
        best = halves.argmax(axis=1)
        for direction, weights in enumerate((arcs[i, j], arcs[j, i])):
            open_[direction][i, j] = halves[i, best] + weights
            open_split[direction][i, j] = i + best
        left = complete[0][i[:, None], k] + open_[0][k, j[:, None]]
        right = open_[1][i[:, None], k + 1] + complete[1][k + 1, j[:, None]]
        for direction, values in enumerate((left, right)):
            best = values.argmax(axis=1)
            complete[direction][i, j] = values[i, best]
            split[direction][i, j] = i + best + direction
    heads = numpy.zeros(n, dtype="int64")
    root = int((complete[0][0] + complete[1][:, -1] + scores[:, 0]).argmax())
    stack = [(0, root, 0, False), (root, n - 1, 1, False)]
    while stack:
        i, j, direction, is_open = stack.pop()
        if i == j:
            continue
        if is_open:
            head, dependent = (i, j) if direction else (j, i)
            heads[dependent] = head + 1
            k = int(open_split[direction][i, j])
            stack += [(i, k, 1, False), (k + 1, j, 0, False)]
        else:
            k = int(split[direction][i, j])
            stack += [(i, k, direction, bool(direction)), (k, j, direction, not direction)]
    return heads
