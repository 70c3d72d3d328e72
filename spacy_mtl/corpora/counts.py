"""Count the labels of docs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spacy.tokens import Doc

from ..annotations import AnnotationLayer
from .scope import is_for


class TaskCounts(NamedTuple):
    """The counts of one task.

    units (int): The labelled units.
    labels (Counter[str]): The labels that a head learns, by frequency.
    missing (int): The docs without the annotation.
    """

    units: int
    labels: Counter[str]
    missing: int


class Counts(NamedTuple):
    """The counts of a corpus.

    docs (int): The docs.
    words (int): Their tokens.
    tasks (Dict[str, TaskCounts]): The counts of each task.
    """

    docs: int
    words: int
    tasks: dict[str, TaskCounts]


def count_docs(docs: Sequence[Doc], tasks: Mapping[str, AnnotationLayer[object]]) -> Counts:
    """Count docs, words and the labels of each task.

    docs (Sequence[Doc]): The docs.
    tasks (Mapping[str, AnnotationLayer]): The layer of each task. If a doc is marked for some
        components, its labels count for tasks of their names only.
    RETURNS (Counts): The counts.
    """
    counts = {}
    for task, layer in tasks.items():
        read = [read_labels(doc, task, layer) for doc in docs]
        found = [labels for labels in read if labels is not None]
        units = len(found) if layer.unit == "docs" else sum(map(len, found))
        whole, labels = Counter(label for labels in found for label in labels), Counter[str]()
        for label, n in whole.items():
            labels.update(dict.fromkeys(layer.split_label(label), n))
        counts[task] = TaskCounts(units, labels, len(docs) - len(found))
    return Counts(len(docs), sum(map(len, docs)), counts)


def read_labels(doc: Doc, task: str, layer: AnnotationLayer[object]) -> list[str] | None:
    """RETURNS (Optional[List[str]]): The labels of a doc for a task; None if the annotation is
    missing or is for other components.
    """
    return layer.get_labels(doc) if is_for(doc, task) else None


def add_counts(counts: Iterable[Counts]) -> Counts:
    """Add up the counts of several corpora.

    counts (Iterable[Counts]): The counts, at least one, all of the same tasks.
    RETURNS (Counts): Their sum.
    """
    all_docs, all_words, all_tasks = zip(*counts, strict=True)
    tasks = {}
    for task in all_tasks[0]:
        units, labels, missing = zip(*(counts[task] for counts in all_tasks), strict=True)
        tasks[task] = TaskCounts(sum(units), sum(labels, Counter()), sum(missing))
    return Counts(sum(all_docs), sum(all_words), tasks)
