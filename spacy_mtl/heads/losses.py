"""Losses as functions of arrays: each returns its mean in nats and the gradient of that mean.

What is not labelled is a target that allows everything, and costs nothing.
"""

from dataclasses import dataclass
from typing import Any

from thinc.api import get_array_module

from ..types import Floats1d, Floats2d


@dataclass
class Focus:
    """Which labelled units count in a batch, and how much. A loss is then the sum of weight * loss
    over the units that are kept, divided by the sum of their weights.

    gamma (float): Each loss is multiplied by (1 - p) ** gamma, p being the likelihood of the gold.
    keep (float): Share of the units that is kept, those with the highest losses.
    only_wrong (bool): Whether units are left out that are right already.
    weights (Floats1d): Of each label, C. Units of the weight 0 are left out.
    """

    gamma: float
    keep: float
    only_wrong: bool
    weights: Floats1d


def get_focused_mean(
    focus: Focus,
    losses: Floats1d,
    d_losses: Floats2d,
    log_p: Floats1d,
    d_log_p: Floats2d,
    is_right: Any,
    weights: Floats1d,
) -> tuple[float, Floats2d, int]:
    """Find the mean over the units that a focus keeps. Which they are is taken as given.

    focus (Focus): What counts.
    losses, d_losses: Of each unit, U, and the gradient for its own scores, U x C.
    log_p, d_log_p: The log-likelihood of its gold, U, and the gradient for its scores, U x C.
    is_right (Bools1d): Whether the best label is the gold, U.
    weights (Floats1d): Of its gold, U.
    RETURNS (Tuple[float, Floats2d, int]): The mean in nats, its gradient U x C, and the number of
        units kept.
    """
    xp = get_array_module(losses)
    left = (weights > 0) & ~is_right if focus.only_wrong else weights > 0
    n = int(left.sum())
    n = max(round(focus.keep * n), min(n, 1))
    d_mean = xp.zeros_like(d_losses)
    if not n:
        return 0.0, d_mean, 0
    kept = xp.argsort(xp.where(left, -losses, xp.inf))[:n]
    miss = xp.maximum(-xp.expm1(log_p[kept]), xp.finfo(losses.dtype).eps)
    factors = miss**focus.gamma
    slopes = focus.gamma * factors / miss * xp.exp(log_p[kept]) * losses[kept]
    shares = weights[kept] / weights[kept].sum()
    d_kept = factors[:, None] * d_losses[kept] - slopes[:, None] * d_log_p[kept]
    d_mean[kept] = shares[:, None] * d_kept
    return float((shares * factors * losses[kept]).sum()), d_mean, n


def log_softmax(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The logarithms of the softmax of each row."""
    xp = get_array_module(logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The softmax of each row."""
    return get_array_module(logits).exp(log_softmax(logits))


def cross_entropy(
    logits: Floats2d, allowed: Any, *, label_smoothing: float = 0.0, focus: Focus | None = None
) -> tuple[float, Floats2d, int]:
    """The mean negative log-likelihood of the labels that the annotation allows.

    With one label allowed this is the usual cross-entropy; with some ruled out it is the
    likelihood of the rest; with all or none allowed the row is not labelled and costs nothing.

    logits (Floats2d): Scores of R rows for C labels.
    allowed (Bools2d): Which labels each row may have, R x C.
    label_smoothing (float): Share of each target that is spread evenly over all labels, as in
        Szegedy et al. (2016), "Rethinking the Inception Architecture", section 7.
    focus (Optional[Focus]): Which labelled rows count, and how much; all alike without. A row that
        allows several labels has the mean of their weights.
    RETURNS (Tuple[float, Floats2d, int]): The mean over labelled rows in nats, its gradient
        R x C, and the number of labelled rows; with a focus, of those that are kept.
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
    gold = xp.exp(masked - log_allowed)
    target = (1 - label_smoothing) * gold + label_smoothing / allowed.shape[1]
    losses = -(1 - label_smoothing) * log_allowed[:, 0] - label_smoothing * log_p.mean(axis=1)
    p = xp.exp(log_p)
    if focus is None:
        d_logits[labelled] = (p - target) / len(labelled)
        return float(losses.mean()), d_logits, len(labelled)
    is_right = allowed[labelled, log_p.argmax(axis=1)]
    weights = allowed[labelled].astype("f") @ focus.weights / n_allowed[labelled]
    loss, d_logits[labelled], n = get_focused_mean(
        focus, losses, p - target, log_allowed[:, 0], gold - p, is_right, weights
    )
    return loss, d_logits, n


def binary_cross_entropy(
    logits: Floats2d,
    truths: Floats2d,
    labelled: Any,
    *,
    label_smoothing: float = 0.0,
    focus: Focus | None = None,
) -> tuple[float, Floats2d, int]:
    """The mean cross-entropy of independent yes-or-no labels.

    logits (Floats2d): Scores of R rows for C labels.
    truths (Floats2d): 1 for yes, 0 for no, R x C.
    labelled (Bools2d): Which of them are known, R x C.
    label_smoothing (float): Moves each target this far towards 1/2.
    focus (Optional[Focus]): Which known labels count, and how much; all alike without. Its weights
        are those of yes, against 1 for no.
    RETURNS (Tuple[float, Floats2d, int]): The mean over known labels in nats, its gradient R x C,
        and the number of known labels; with a focus, of those that are kept.
    """
    xp = get_array_module(logits)
    n = int(labelled.sum())
    if not n:
        return 0.0, xp.zeros_like(logits), 0
    gold = truths
    truths = (1 - label_smoothing) * truths + label_smoothing / 2
    # log(1 + e^x) - t x, written so that neither sign of x overflows
    softplus = xp.maximum(logits, 0), xp.log1p(xp.exp(-xp.abs(logits)))
    losses = softplus[0] - truths * logits + softplus[1]
    if focus is None:
        d_logits = xp.where(labelled, sigmoid(logits) - truths, 0.0).astype("f") / n
        return float(losses[labelled].sum() / n), d_logits, n
    p = sigmoid(logits)
    log_p = gold * logits - softplus[0] - softplus[1]
    is_right = (logits > 0) == (gold > 0.5)
    weights = 1 + (focus.weights - 1) * gold
    units = [x[labelled] for x in (losses, p - truths, log_p, gold - p, is_right, weights)]
    loss, gradient, n = get_focused_mean(
        focus, units[0], units[1][:, None], units[2], units[3][:, None], units[4], units[5]
    )
    d_logits = xp.zeros_like(logits)
    d_logits[labelled] = gradient[:, 0]
    return loss, d_logits, n


def sigmoid(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): 1 / (1 + e^-x)."""
    xp = get_array_module(logits)
    return xp.exp(-xp.logaddexp(0, -logits))


def one_hot(labels: Any, n_labels: int, xp: Any) -> Any:
    """RETURNS (Bools2d): For each row the label that is allowed; all of them where it is < 0."""
    labels = xp.asarray(labels)
    return (labels[:, None] == xp.arange(n_labels)) | (labels < 0)[:, None]
