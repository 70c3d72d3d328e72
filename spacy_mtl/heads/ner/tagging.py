"""Tagging schemes for entities, and the tags that may follow each other."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Literal

import numpy

from ...types import Bools1d, Bools2d, Floats1d
from .crf import FORBIDDEN, TransitionScores

Scheme = Literal["bio", "biluo"]
PREFIXES = {"bio": "BI", "biluo": "BILU"}
SCALINGS = 50  # exact after one or two for "biluo"


def get_tags(labels: Sequence[str], scheme: Scheme) -> list[str]:
    """RETURNS (List[str]): The tags of a scheme: "O", then each label with each prefix."""
    return ["O", *(f"{prefix}-{label}" for label in labels for prefix in PREFIXES[scheme])]


def get_chain(tags: Sequence[str], scheme: Scheme) -> TransitionScores:
    """RETURNS (TransitionScores): A copy of the scores of valid tag sequences."""
    return deepcopy(make_chain(tuple(tags), scheme))


@lru_cache(maxsize=8)
def make_chain(tags: tuple[str, ...], scheme: Scheme) -> TransitionScores:
    """RETURNS (TransitionScores): The same, cached: callers must not change it."""
    prefixes = numpy.array([tag[0] for tag in tags])
    numbers = {label: i for i, label in enumerate(dict.fromkeys(tag[1:] for tag in tags))}
    labels = numpy.array([numbers[tag[1:]] for tag in tags])
    opens = numpy.isin(prefixes, [*"OBU"])
    closes = numpy.isin(prefixes, [*("OBI" if scheme == "bio" else "OLU")])
    inside = numpy.isin(prefixes, [*"BI"])[:, None] & numpy.isin(prefixes, [*"IL"])
    inside &= labels[:, None] == labels
    allowed = (closes[:, None] & opens) | inside
    return TransitionScores(to_scores(opens), to_scores(allowed), to_scores(closes))


def to_scores(mask: "Bools1d | Bools2d") -> "numpy.ndarray":
    """RETURNS (Floats): 0 where the mask is true, FORBIDDEN elsewhere."""
    return numpy.where(mask, 0.0, FORBIDDEN).astype("f")


def fit_bias(log_shares: Floats1d, chain: TransitionScores) -> Floats1d:
    """Find a bias of tags under which a chain without other scores has given marginals.

    A tag that may only follow a rare tag, such as "L-PER", is likely once that tag is there. With
    the logarithms of the shares as bias, the chain would have next to no entities of several
    tokens.

    The expected transitions F = diag(r) A diag(s), where A is 1 for allowed ones, have the shares
    f as sums of rows and of columns. Sinkhorn and Knopp (1967), "Concerning Nonnegative Matrices
    and Doubly Stochastic Matrices", scale rows and columns in turns. The score of F_ij / f_i for
    all transitions is the bias log r + log s - log f of each tag.

    log_shares (Floats1d): The logarithms of the shares, C.
    chain (TransitionScores): The chain, with FORBIDDEN or 0 for each transition.
    RETURNS (Floats1d): The bias, C.
    """
    shares = numpy.exp(log_shares)
    allowed = chain.transitions > FORBIDDEN / 2
    columns = numpy.ones_like(shares)
    for _ in range(SCALINGS):
        rows = shares / (allowed @ columns)
        columns = shares / (rows @ allowed)
    bias: Floats1d = numpy.log(rows) + numpy.log(columns) - log_shares
    return bias


@lru_cache(maxsize=8)
def get_index(labels: tuple[str, ...], scheme: Scheme) -> dict[str | None, int]:
    """RETURNS (Dict[Optional[str], int]): The index of the scheme's tag for each BILUO tag."""
    index: dict[str | None, int] = {tag: i for i, tag in enumerate(get_tags(labels, scheme))}
    if scheme == "bio":
        for label in labels:
            index[f"U-{label}"] = index[f"B-{label}"]
            index[f"L-{label}"] = index[f"I-{label}"]
    return index


def get_spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """YIELDS (Tuple[int, int, str]): First token, the token after the last, and the label of each
    entity in a valid tag sequence of either scheme.
    """
    start = None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and tag[0] in "OBU":
            yield start, i, tags[start][2:]
            start = None
        if tag[0] in "BU":
            start = i
