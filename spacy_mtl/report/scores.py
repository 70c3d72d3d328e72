"""Count right and wrong labels, and score the counts."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy

from ..annotations import Comparison, Item
from ..types import Floats, Ints

Counts: TypeAlias = numpy.ndarray[tuple[int, ...], Ints]  # ... x 3
Scores: TypeAlias = numpy.ndarray[tuple[int, ...], Floats]
NOTHING = "(none)"


def get_labels(docs: Sequence[Comparison | None]) -> set[str]:
    """RETURNS (Set[str]): The gold and predicted labels of all docs."""
    return {item.label for doc in docs if doc for item in doc.gold | doc.predicted}


def count_labels(docs: Sequence[Comparison | None], labels: Sequence[str]) -> Counts:
    """RETURNS (Ints3d): The true positives, false positives and false negatives of each label in
    each doc, D x L x 3.
    """
    index = {label: i for i, label in enumerate(labels)}
    counts = numpy.zeros((len(docs), len(index), 3), dtype="int64")
    for row, doc in zip(counts, docs, strict=True):
        if doc:
            for kind, items in enumerate(
                (doc.gold & doc.predicted, doc.predicted - doc.gold, doc.gold - doc.predicted)
            ):
                for item in items:
                    row[index[item.label], kind] += 1
    return counts


def get_f(counts: Counts) -> Scores:
    """RETURNS (Floats): The mean of the labels' F, for counts of ... x L x 3. The F of a label
    that is neither gold nor predicted is 0.
    """
    right, wrong, missed = numpy.moveaxis(counts, -1, 0)
    scores: Scores = (2 * right / numpy.maximum(2 * right + wrong + missed, 1)).mean(axis=-1)
    return scores


def count_confusions(docs: Sequence[Comparison | None]) -> Counter[tuple[str, str]]:
    """RETURNS (Counter[Tuple[str, str]]): How often a gold label and a predicted label are on the
    same span. If only one of them is, the other is `NOTHING`.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for doc in filter(None, docs):
        gold, predicted = map(group_labels, doc)
        for span in gold.keys() | predicted.keys():
            ours, theirs = gold.get(span, set()), predicted.get(span, set())
            counts.update((label, label) for label in ours & theirs)
            if ours != theirs:
                missed, wrong = ours - theirs or {NOTHING}, theirs - ours or {NOTHING}
                counts.update((a, b) for a in missed for b in wrong)
    return counts


def group_labels(items: set[Item]) -> dict[tuple[int, int], set[str]]:
    """RETURNS (Dict[Tuple[int, int], Set[str]]): The labels of each span, by start and end."""
    spans: dict[tuple[int, int], set[str]] = {}
    for item in items:
        spans.setdefault((item.start, item.end), set()).add(item.label)
    return spans
