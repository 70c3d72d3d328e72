"""Whether one pipeline is better than another, or was only lucky with the docs."""

from collections.abc import Sequence

import numpy

from .scores import get_f

ROUNDS = 10_000  # of chance, where all that could have happened is too much to try
CHUNK = 500


def get_p_value(first: numpy.ndarray, second: numpy.ndarray, seed: int = 0) -> float:
    """Ask how often a difference of scores this large comes by chance: the paired randomisation
    test of Noreen (1989), two-sided, over docs.

    If the two were equally good, it would not matter which of them gave which answer. So for each
    doc a coin decides whether they exchange answers. With few docs all outcomes are tried.

    first, second (Ints4d): Counts of several runs, S x D x L x 3, as of `count_labels`.
    seed (int): Of the coins.
    RETURNS (float): The p value, in which the two are symmetric.
    """
    n_docs = first.shape[1]
    is_exact = 2**n_docs <= ROUNDS
    random = numpy.random.default_rng(seed)
    moves, ours, theirs = (second - first).astype("d"), first.sum(axis=1), second.sum(axis=1)
    observed = abs(get_difference(ours, theirs))
    n_rounds = 2**n_docs if is_exact else ROUNDS
    extreme = 0
    for start in range(0, n_rounds, CHUNK):
        rounds = numpy.arange(start, min(start + CHUNK, n_rounds))
        if is_exact:
            coins = rounds[:, None] >> numpy.arange(n_docs) & 1
        else:
            coins = random.integers(0, 2, (len(rounds), n_docs))
        moved = numpy.tensordot(coins, moves, (1, 1))
        differences = get_difference(ours + moved, theirs - moved)
        extreme += int((abs(differences) >= observed - 1e-12).sum())
    return extreme / n_rounds if is_exact else (extreme + 1) / (n_rounds + 1)


def get_difference(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """RETURNS (Floats): How much better the second is, in the mean of its runs, for counts that are
    ... x S x L x 3.
    """
    return (get_f(second) - get_f(first)).mean(axis=-1)


def get_spread(values: Sequence[float]) -> float | None:
    """RETURNS (Optional[float]): The standard deviation, which a single value does not have."""
    return float(numpy.std(values, ddof=1)) if len(values) > 1 else None
