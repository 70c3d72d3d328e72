"""Losses as functions of arrays: each returns its mean in nats and the gradient of that mean.

What is not labelled is a target that allows everything, and costs nothing.
"""

from typing import Any

from thinc.api import get_array_module

from ..types import Floats2d


def log_softmax(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The logarithms of the softmax of each row."""
    xp = get_array_module(logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The softmax of each row."""
    return get_array_module(logits).exp(log_softmax(logits))


def cross_entropy(
    logits: Floats2d, allowed: Any, *, label_smoothing: float = 0.0
) -> tuple[float, Floats2d, int]:
    """The mean negative log-likelihood of the labels that the annotation allows.

    With one label allowed this is the usual cross-entropy; with some ruled out it is the
    likelihood of the rest; with all or none allowed the row is not labelled and costs nothing.

    logits (Floats2d): Scores of R rows for C labels.
    allowed (Bools2d): Which labels each row may have, R x C.
    label_smoothing (float): Share of each target that is spread evenly over all labels, as in
        Szegedy et al. (2016), "Rethinking the Inception Architecture", section 7.
    RETURNS (Tuple[float, Floats2d, int]): The mean over labelled rows in nats, its gradient
        R x C, and the number of labelled rows.
    """
    xp = get_array_module(logits)
    d_logits = xp.zeros_like(logits)
    n_allowed = allowed.sum(axis=1)
    labelled = xp.flatnonzero((n_allowed > 0) & (n_allowed < allowed.shape[1]))
    if not len(labelled):
        return 0.0, d_logits, 0
    log_p = log_softmax(logits[labelled])
    masked = xp.where(allowed[labelled], log_p, -xp.inf)
    top = masked.max(axis=1, keepdims=True)
    log_allowed = top + xp.log(xp.exp(masked - top).sum(axis=1, keepdims=True))
    target = xp.exp(masked - log_allowed)
    target = (1 - label_smoothing) * target + label_smoothing / allowed.shape[1]
    losses = -(1 - label_smoothing) * log_allowed[:, 0] - label_smoothing * log_p.mean(axis=1)
    d_logits[labelled] = (xp.exp(log_p) - target) / len(labelled)
    return float(losses.mean()), d_logits, len(labelled)


def binary_cross_entropy(
    logits: Floats2d, truths: Floats2d, labelled: Any, *, label_smoothing: float = 0.0
) -> tuple[float, Floats2d, int]:
    """The mean cross-entropy of independent yes-or-no labels.

    logits (Floats2d): Scores of R rows for C labels.
    truths (Floats2d): 1 for yes, 0 for no, R x C.
    labelled (Bools2d): Which of them are known, R x C.
    label_smoothing (float): Moves each target this far towards 1/2.
    RETURNS (Tuple[float, Floats2d, int]): The mean over known labels in nats, its gradient R x C,
        and the number of known labels.
    """
    xp = get_array_module(logits)
    n = int(labelled.sum())
    if not n:
        return 0.0, xp.zeros_like(logits), 0
    truths = (1 - label_smoothing) * truths + label_smoothing / 2
    # log(1 + e^x) - t x, written so that neither sign of x overflows
    losses = xp.maximum(logits, 0) - truths * logits + xp.log1p(xp.exp(-xp.abs(logits)))
    d_logits = xp.where(labelled, sigmoid(logits) - truths, 0.0).astype("f") / n
    return float(losses[labelled].sum() / n), d_logits, n


def sigmoid(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): 1 / (1 + e^-x)."""
    xp = get_array_module(logits)
    return xp.exp(-xp.logaddexp(0, -logits))


def one_hot(labels: Any, n_labels: int, xp: Any) -> Any:
    """RETURNS (Bools2d): For each row the label that is allowed; all of them where it is < 0."""
    labels = xp.asarray(labels)
    return (labels[:, None] == xp.arange(n_labels)) | (labels < 0)[:, None]
