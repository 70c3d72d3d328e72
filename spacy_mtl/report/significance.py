"""Test whether a difference between two pipelines can be explained by the choice of docs."""

from collections.abc import Sequence

import numpy

from .scores import Counts, Scores, get_f

ROUNDS = 10_000  # of random exchanges, if there are more possible exchanges than that
CHUNK = 500


def get_p_value(first: Counts, second: Counts, seed: int = 0) -> float:
    """Compute how often chance alone makes a difference of scores this large: the two-sided paired
    randomisation test over docs of Noreen (1989), "Computer-Intensive Methods for Testing
    Hypotheses".

    If the two pipelines are equally good, it does not matter which pipeline gave which answer. So
    for each doc a coin decides whether they exchange answers. With few docs all outcomes are tried.

    first, second (Ints4d): Counts of several runs, S x D x L x 3, as `count_labels` returns them
        for each run.
    seed (int): Seed of the coins.
    RETURNS (float): The p value. Exchanging `first` and `second` does not change it.
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


def get_difference(first: Counts, second: Counts) -> Scores:
    """RETURNS (Floats): Mean score of the second pipeline's runs minus that of the first's, for
    counts of ... x S x L x 3.
    """
    difference: Scores = (get_f(second) - get_f(first)).mean(axis=-1)
    return difference


def get_spread(values: Sequence[float]) -> float | None:
    """RETURNS (Optional[float]): The standard deviation; None for a single value."""
    return float(numpy.std(values, ddof=1)) if len(values) > 1 else None
