"""Divides docs into folds: chunks of a document in one fold, each label in all folds."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy
from spacy.tokens import Doc

from ..annotations import AnnotationLayer
from ..corpora.documents import DOCUMENT, get_document
from ..errors import Errors, Warnings, quote
from ..types import Floats2d, Ints1d

ALONE = "none"  # instead of a key: each doc is a group of its own
SHOWN = 10  # labels in a message


@dataclass(frozen=True)
class Labels:
    """The labels of docs.

    names (List[Tuple[str, str]]): The layer and the name of each label, L.
    counts (Floats2d): How often each doc has each label, D x L.
    """

    names: list[tuple[str, str]]
    counts: Floats2d

    def add_up(self, groups: Ints1d, n: int) -> Floats2d:
        """RETURNS (Floats2d): The counts of each of n groups of docs, n x L."""
        total: Floats2d = numpy.zeros((n, len(self.names)))
        numpy.add.at(total, groups, self.counts)
        return total


def find_groups(docs: Sequence[Doc], key: str = DOCUMENT) -> Ints1d:
    """Find the docs that belong together. W131 warns if only some docs have an id.

    docs (Sequence[Doc]): The docs.
    key (str): The key of the ids in `doc.user_data`; "none" to take each doc by itself.
    RETURNS (Ints1d): The number of the group of each doc, D. Docs without an id are alone.
    RAISES (ValueError): M278 if no doc has another key than that of document ids.
    """
    ids = [None if key == ALONE else get_document(doc, key) for doc in docs]
    missing = ids.count(None)
    if missing == len(ids) and key not in (ALONE, DOCUMENT):
        keys = {str(known) for doc in docs for known in doc.user_data}
        raise ValueError(Errors.M278.format(key=key, keys=quote(sorted(keys)) or "none"))
    if 0 < missing < len(ids):
        warnings.warn(Warnings.W131.format(n=missing, total=len(ids), key=key))
    names = [(i, "") if name is None else (-1, name) for i, name in enumerate(ids)]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return numpy.array([numbers[name] for name in names], dtype="int64")


def count_labels(docs: Sequence[Doc], layers: Mapping[str, AnnotationLayer[object]]) -> Labels:
    """Count the labels of each doc.

    docs (Sequence[Doc]): The docs.
    layers (Mapping[str, AnnotationLayer]): The layers by name. Layers without a fixed set of labels
        are left out.
    RETURNS (Labels): The counts.
    RAISES (ValueError): M279 if no doc has labels.
    """
    chosen = {name: layer for name, layer in layers.items() if not layer.is_open}
    index: dict[tuple[str, str], int] = {}
    entries: list[tuple[int, int, int]] = []
    for row, doc in enumerate(docs):
        for name, label, n in _count_doc(doc, chosen):
            entries.append((row, index.setdefault((name, label), len(index)), n))
    if not index:
        raise ValueError(Errors.M279.format(layers=quote(chosen)))
    counts: Floats2d = numpy.zeros((len(docs), len(index)))
    rows, columns, values = numpy.array(entries).T
    counts[rows, columns] = values
    return Labels([*index], counts)


def _count_doc(
    doc: Doc, layers: Mapping[str, AnnotationLayer[object]]
) -> Iterable[tuple[str, str, int]]:
    for name, layer in layers.items():
        found = Counter(layer.get_labels(doc) or ())
        for label, n in found.items():
            for part in layer.split_label(label):
                yield name, part, n


def make_folds(groups: Ints1d, labels: Labels, k: int, seed: int = 0) -> Ints1d:
    """Divide groups of docs into folds with about equal shares of each label, and of docs.

    Groups with rare labels come first. Each group goes to the fold that has least of its labels.
    Each layer has the same weight, and so have the docs. Sechidis et al. (2011), "On the
    Stratification of Multi-Label Data", do so with examples in place of groups, and label by label.

    groups (Ints1d): The number of the group of each doc, D.
    labels (Labels): The labels of the docs.
    k (int): The number of folds.
    seed (int): The seed for the order of equal groups. Another one gives other folds.
    RETURNS (Ints1d): The fold of each doc, D, from 0 on.
    RAISES (ValueError): M276 if there are too few groups for k folds, and for the dev data of the
        training runs.
    """
    n = int(groups.max(initial=-1)) + 1
    if n < max(k, 3):
        raise ValueError(Errors.M276.format(n=n, k=k, least=max(k, 3)))
    sizes = numpy.bincount(groups, minlength=n)[:, None]
    counts = numpy.concatenate([labels.add_up(groups, n), sizes], axis=1)
    layers = [*(name for name, _ in labels.names), ""]
    per_layer = Counter(layers)
    shares = counts / counts.sum(axis=0)
    weights = numpy.array([1 / per_layer[layer] for layer in layers])
    order = numpy.random.default_rng(seed).permutation(n)
    order = order[numpy.argsort(-(shares * weights).sum(axis=1)[order], kind="stable")]
    totals = numpy.zeros((k, len(layers)))
    folds = numpy.zeros(n, dtype="int64")
    for group in order.tolist():
        costs = totals @ (weights * shares[group])
        # Groups without a label in common with a fold cost nothing there: the smallest one is best.
        fold = int(numpy.lexsort((totals[:, -1], costs.round(12)))[0])
        folds[group] = fold
        totals[fold] += shares[group]
    chosen: Ints1d = folds[groups]
    return chosen


def warn_of_rare_labels(groups: Ints1d, folds: Ints1d, labels: Labels) -> None:
    """Warn of labels that one fold would have to learn without examples: W133 names labels of a
    single document, W134 other labels of a single fold.

    groups (Ints1d): The group of each doc, D.
    folds (Ints1d): The fold of each doc, D.
    labels (Labels): The labels of the docs.
    """
    in_groups = (labels.add_up(groups, int(groups.max()) + 1) > 0).sum(axis=0)
    in_folds = (labels.add_up(folds, int(folds.max()) + 1) > 0).sum(axis=0)
    for is_rare, message in (
        (in_groups == 1, Warnings.W133),
        ((in_groups > 1) & (in_folds == 1), Warnings.W134),
    ):
        if names := [f"{labels.names[i][1]} ({labels.names[i][0]})" for i in is_rare.nonzero()[0]]:
            rest = ", ..." if len(names) > SHOWN else ""
            warnings.warn(message.format(n=len(names), labels=quote(names[:SHOWN]) + rest))
