"""Count what docs are labelled with."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from spacy.tokens import Doc

from .scope import is_for

TASKS = {"tags": "token.tag", "ents": "doc.ents", "cats": "doc.cats"}


class Annotation(NamedTuple):
    """What one label of an attribute belongs to, in the plural, and a function that reads the
    labels of a doc, `None` if the annotation is missing.
    """

    unit: str
    read: Callable[[Doc], list[str] | None]


class TaskCounts(NamedTuple):
    """Annotated units; labels by frequency; docs without the annotation."""

    units: int
    labels: Counter[str]
    missing: int


class Counts(NamedTuple):
    """What a corpus holds, with one entry in `tasks` for each task that was asked for."""

    docs: int
    words: int
    tasks: dict[str, TaskCounts]


def count_docs(docs: Sequence[Doc], tasks: Mapping[str, str] = TASKS) -> Counts:
    """Count docs, words and the annotations of each task.

    docs (Sequence[Doc]): The docs.
    tasks (Mapping[str, str]): The attribute that each task is annotated in, from `ATTRIBUTES`.
    RETURNS (Counts): What the docs hold.
    """
    counts = {}
    for task, attribute in tasks.items():
        unit = ATTRIBUTES[attribute].unit
        read = [read_labels(doc, task, attribute) for doc in docs]
        found = [labels for labels in read if labels is not None]
        units = len(found) if unit == "docs" else sum(map(len, found))
        labels = Counter(label for labels in found for label in labels)
        counts[task] = TaskCounts(units, labels, len(docs) - len(found))
    return Counts(len(docs), sum(map(len, docs)), counts)


def read_labels(doc: Doc, task: str, attribute: str) -> list[str] | None:
    """RETURNS (Optional[List[str]]): The labels of a doc for a task, `None` if the annotation is
    missing, or is for other components.
    """
    return ATTRIBUTES[attribute].read(doc) if is_for(doc, task) else None


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


def _read_tokens(doc: Doc, name: str) -> list[str] | None:
    return [doc.vocab.strings[int(value)] for value in doc.to_array(name) if value] or None


def _read_sentences(doc: Doc) -> list[str] | None:
    return ["S" for _ in doc.sents] if _has_annotation(doc, "SENT_START") else None


def _read_ents(doc: Doc) -> list[str] | None:
    return [ent.label_ for ent in doc.ents] if _has_annotation(doc, "ENT_IOB") else None


def _has_annotation(doc: Doc, name: str) -> bool:
    # spaCy says of a doc without tokens that it has every annotation.
    return len(doc) > 0 and doc.has_annotation(name)


def _read_cats(doc: Doc) -> list[str] | None:
    return [label for label, value in doc.cats.items() if value >= 0.5] if doc.cats else None


def _read_spans(doc: Doc) -> list[str] | None:
    return [span.label_ for group in doc.spans.values() for span in group] if doc.spans else None


# What a component may learn, by what spaCy's factories say that they assign.
ATTRIBUTES = {
    **{
        f"token.{name}": Annotation("tokens", partial(_read_tokens, name=name.upper()))
        for name in ("tag", "pos", "morph", "lemma", "dep", "ent_kb_id")
    },
    "token.is_sent_start": Annotation("sentences", _read_sentences),
    "doc.ents": Annotation("entities", _read_ents),
    "doc.cats": Annotation("docs", _read_cats),
    "doc.spans": Annotation("spans", _read_spans),
}
