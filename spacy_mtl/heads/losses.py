"""Losses of scores. Each returns the mean in nats, its gradient and the number of labelled units.

A target that allows every label marks a unit without annotation. It adds nothing to the loss.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy

from ..types import Bools1d, Bools2d, Floats1d, Floats2d, get_xp


@dataclass
class ExampleWeights:
    """Selects and weights the labelled units of a batch. The loss is the weighted mean of the
    losses of the selected units.

    gamma (float): Each loss is multiplied by (1 - p) ** gamma, where p is the likelihood of the
        gold label.
    keep (float): Share of the units to select: the ones with the highest losses.
    only_wrong (bool): Whether to leave out units whose best label is the gold label.
    class_weights (Floats1d): The weight of each label, C. Units with the weight 0 are left out.
    """

    gamma: float
    keep: float
    only_wrong: bool
    class_weights: Floats1d


def get_weighted_mean(
    selection: ExampleWeights,
    losses: Floats1d,
    d_losses: Floats2d,
    log_p: Floats1d,
    d_log_p: Floats2d,
    is_right: Bools1d,
    weights: Floats1d,
) -> tuple[float, Floats2d, int]:
    """Compute the weighted mean over the selected units. The selection itself has no gradient.

    selection (ExampleWeights): How to select the units.
    losses, d_losses: The loss of each unit, U, and its gradient for the unit's scores, U x C.
    log_p, d_log_p: The log-likelihood of the gold label, U, and its gradient, U x C.
    is_right (Bools1d): Whether the best label is the gold label, U.
    weights (Floats1d): The weight of each unit's gold label, U.
    RETURNS (Tuple[float, Floats2d, int]): The mean in nats, its gradient U x C, and the number of
        selected units.
    """
    xp = get_xp(losses)
    candidates = (weights > 0) & ~is_right if selection.only_wrong else weights > 0
    n = int(candidates.sum())
    n = max(round(selection.keep * n), min(n, 1))
    d_mean: Floats2d = xp.zeros_like(d_losses)
    if not n:
        return 0.0, d_mean, 0
    kept = xp.argsort(xp.where(candidates, -losses, xp.inf))[:n]
    miss = xp.maximum(-xp.expm1(log_p[kept]), xp.finfo(losses.dtype).eps)
    factors = miss**selection.gamma
    slopes = selection.gamma * factors / miss * xp.exp(log_p[kept]) * losses[kept]
    shares = weights[kept] / weights[kept].sum()
    d_kept = factors[:, None] * d_losses[kept] - slopes[:, None] * d_log_p[kept]
    d_mean[kept] = shares[:, None] * d_kept
    return float((shares * factors * losses[kept]).sum()), d_mean, n


def log_softmax(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The logarithm of the softmax of each row."""
    xp = get_xp(logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats2d = shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The softmax of each row."""
    result: Floats2d = get_xp(logits).exp(log_softmax(logits))
    return result


def cross_entropy(
    logits: Floats2d,
    allowed: Bools2d,
    *,
    label_smoothing: float = 0.0,
    weights: ExampleWeights | None = None,
) -> tuple[float, Floats2d, int]:
    """Compute the mean negative log-likelihood of the labels that the annotation allows.

    A row with one allowed label has the usual cross-entropy. A row with several has the negative
    log-likelihood of their sum. A row with all or no labels allowed has no annotation, and adds
    nothing.

    logits (Floats2d): The scores of R rows for C labels.
    allowed (Bools2d): The labels that the annotation of each row allows, R x C.
    label_smoothing (float): Share of each target that is spread evenly over all labels: Szegedy et
        al. (2016), "Rethinking the Inception Architecture", section 7.
    weights (Optional[ExampleWeights]): Selects and weights the labelled rows. Without it all count
        alike. A row that allows several labels has the mean of their weights.
    RETURNS (Tuple[float, Floats2d, int]): The mean over labelled rows in nats, its gradient R x C,
        and the number of labelled rows. With weights, only the selected rows are counted.
    """
    xp = get_xp(logits)
    d_logits: Floats2d = xp.zeros_like(logits)
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
    if weights is None:
        d_logits[labelled] = (p - target) / len(labelled)
        return float(losses.mean()), d_logits, len(labelled)
    is_right = allowed[labelled, log_p.argmax(axis=1)]
    row_weights = allowed[labelled].astype("f") @ weights.class_weights / n_allowed[labelled]
    loss, d_logits[labelled], n = get_weighted_mean(
        weights, losses, p - target, log_allowed[:, 0], gold - p, is_right, row_weights
    )
    return loss, d_logits, n


def joint_cross_entropy(
    logits: Floats2d,
    allowed: Bools2d,
    groups: Sequence[slice],
    *,
    label_smoothing: float = 0.0,
    weights: ExampleWeights | None = None,
) -> tuple[float, Floats2d, int]:
    """Compute the mean joint negative log-likelihood of several independent choices per row. The
    loss of a row is the sum of the cross-entropies of its labelled groups of labels.

    logits (Floats2d): The scores of R rows for C labels.
    allowed (Bools2d): The label of each group that the annotation of each row allows, R x C. A
        group with several allowed labels or none has no annotation, and adds nothing.
    groups (Sequence[slice]): The columns of each group, in order. Their softmaxes are independent.
    label_smoothing (float): Share of each target that is spread evenly over its group.
    weights (Optional[ExampleWeights]): Selects and weights the labelled rows. The likelihood of a
        row is that of all its gold labels, and its weight is their mean weight.
    RETURNS (Tuple[float, Floats2d, int]): The mean over rows with a labelled group in nats, its
        gradient R x C, and the number of these rows. With weights, only selected rows are counted.
    """
    xp = get_xp(logits)
    d_logits: Floats2d = xp.zeros_like(logits)
    known = find_known(allowed, groups)
    rows = xp.flatnonzero(known.any(axis=1))
    if not len(rows):
        return 0.0, d_logits, 0
    known = known[rows]
    repeats = [group.stop - group.start for group in groups]
    is_known = xp.repeat(known, repeats, axis=1)
    gold = (allowed[rows] & is_known).astype(logits.dtype)
    log_p, is_best = group_log_softmax(logits[rows], groups)
    p = xp.exp(log_p) * is_known
    even = is_known / xp.repeat(xp.asarray(repeats, dtype=logits.dtype), repeats)
    target = (1 - label_smoothing) * gold + label_smoothing * even
    losses = -(target * log_p).sum(axis=1)
    if weights is None:
        d_logits[rows] = (p - target) / len(rows)
        return float(losses.mean()), d_logits, len(rows)
    n_known = known.sum(axis=1)
    loss, d_logits[rows], n = get_weighted_mean(
        weights,
        losses,
        p - target,
        (gold * log_p).sum(axis=1),
        gold - p,
        (gold * is_best).sum(axis=1) == n_known,
        gold @ weights.class_weights / n_known,
    )
    return loss, d_logits, n


def group_log_softmax(logits: Floats2d, groups: Sequence[slice]) -> tuple[Floats2d, Bools2d]:
    """RETURNS (Tuple[Floats2d, Bools2d]): The logarithm of the softmax of each row and group of
    columns, and whether each score is the highest of its group, both R x C.
    """
    xp = get_xp(logits)
    repeats = [group.stop - group.start for group in groups]
    top = xp.stack([logits[:, group].max(axis=1) for group in groups], axis=1)
    shifted = logits - xp.repeat(top, repeats, axis=1)
    sums = xp.exp(shifted) @ get_members(groups, logits)
    log_p: Floats2d = shifted - xp.repeat(xp.log(sums), repeats, axis=1)
    return log_p, shifted == 0


def find_known(allowed: Bools2d, groups: Sequence[slice]) -> Bools2d:
    """RETURNS (Bools2d): Whether each row has an annotation for each group of labels, R x G: one of
    several labels is allowed.
    """
    members = get_members(groups, allowed)
    known: Bools2d = (allowed.astype("f") @ members == 1) & (members.sum(axis=0) > 1)
    return known


def get_members(groups: Sequence[slice], like: object) -> Floats2d:
    """RETURNS (Floats2d): 1 if a label belongs to a group, otherwise 0, C x G, on the device of
    another array.
    """
    xp = get_xp(like)
    repeats = [group.stop - group.start for group in groups]
    members: Floats2d = xp.repeat(xp.eye(len(groups), dtype="f"), repeats, axis=0)
    return members


def binary_cross_entropy(
    logits: Floats2d,
    truths: Floats2d,
    labelled: Bools2d,
    *,
    label_smoothing: float = 0.0,
    weights: ExampleWeights | None = None,
) -> tuple[float, Floats2d, int]:
    """Compute the mean cross-entropy of independent yes-or-no labels.

    logits (Floats2d): The scores of R rows for C labels.
    truths (Floats2d): 1 for yes, 0 for no, R x C.
    labelled (Bools2d): Which entries of `truths` are annotated, R x C.
    label_smoothing (float): Moves each target this far towards 1/2.
    weights (Optional[ExampleWeights]): Selects and weights the annotated entries. Without it all
        count alike. Its class weights are for yes; no has the weight 1.
    RETURNS (Tuple[float, Floats2d, int]): The mean over annotated entries in nats, its gradient
        R x C, and the number of annotated entries. With weights, only selected ones are counted.
    """
    xp = get_xp(logits)
    n = int(labelled.sum())
    d_logits: Floats2d = xp.zeros_like(logits)
    if not n:
        return 0.0, d_logits, 0
    gold = truths
    truths = (1 - label_smoothing) * truths + label_smoothing / 2
    # log(1 + e^x) - t x, written so that neither sign of x overflows
    softplus = xp.maximum(logits, 0), xp.log1p(xp.exp(-xp.abs(logits)))
    losses = softplus[0] - truths * logits + softplus[1]
    if weights is None:
        d_logits = xp.where(labelled, sigmoid(logits) - truths, 0.0).astype("f") / n
        return float(losses[labelled].sum() / n), d_logits, n
    p = sigmoid(logits)
    log_p = gold * logits - softplus[0] - softplus[1]
    is_right = (logits > 0) == (gold > 0.5)
    unit_weights = 1 + (weights.class_weights - 1) * gold
    arrays: list[Any] = [losses, p - truths, log_p, gold - p, is_right, unit_weights]
    units = [array[labelled] for array in arrays]
    loss, gradient, n = get_weighted_mean(
        weights, units[0], units[1][:, None], units[2], units[3][:, None], units[4], units[5]
    )
    d_logits[labelled] = gradient[:, 0]
    return loss, d_logits, n


def sigmoid(logits: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): 1 / (1 + e^-x)."""
    xp = get_xp(logits)
    result: Floats2d = xp.exp(-xp.logaddexp(0, -logits))
    return result


def one_hot(labels: Iterable[int], n_labels: int, xp: ModuleType = numpy) -> Bools2d:
    """Turn label numbers into a mask of allowed labels, as `cross_entropy` reads it.

    labels (Iterable[int]): The number of the label of each row, R. A negative one is missing.
    n_labels (int): The number of labels, C.
    xp (ModuleType): numpy or cupy.
    RETURNS (Bools2d): The mask, R x C. All labels are allowed where the label is missing.
    """
    ids = xp.asarray(labels)
    result: Bools2d = (ids[:, None] == xp.arange(n_labels)) | (ids < 0)[:, None]
    return result
