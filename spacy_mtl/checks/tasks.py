"""Check that each task has enough data to learn from."""

from collections.abc import Collection, Sequence

from ..annotations import AnnotationLayer
from ..corpora.counts import Counts, TaskCounts
from ..corpora.inventory import TaskLayers
from ..errors import Errors, Warnings
from .finding import Finding

RARE = 10  # a label with fewer examples gets a warning
LISTED = 8  # labels in a message


def check_tasks(
    tasks: TaskLayers, train: Counts, dev: Counts, frozen: Collection[str]
) -> list[Finding]:
    """Find tasks without enough data.

    tasks (Mapping[str, Optional[AnnotationLayer]]): The layer of each task.
    train (Counts): The labels of all corpora of train.
    dev (Counts): The labels of all corpora of dev.
    frozen (Collection[str]): The components that are not trained.
    RETURNS (List[Finding]): M224 without training data, W222 without dev data, W220 for labels
        only in dev, W221 for rare labels; only W223 for a frozen component.
    """
    findings = []
    for task, layer in tasks.items():
        if task in frozen:
            findings.append(Finding(Warnings.W223.format(name=task)))
        elif layer:
            findings += check_task(task, layer, train.tasks[task], dev.tasks[task])
    return findings


def check_task(
    task: str, layer: AnnotationLayer[object], train: TaskCounts, dev: TaskCounts
) -> list[Finding]:
    """RETURNS (List[Finding]): The findings of `check_tasks` for one task."""
    if not train.units:
        message = Errors.M224.format(task=task, attribute=layer.attributes[0])
        return [Finding(message, is_failure=True)]
    messages = []
    if not dev.units:
        messages.append(Warnings.W222.format(task=task))
    if not layer.is_open:
        unseen = [repr(label) for label in sorted(dev.labels) if label not in train.labels]
        rare = [f"{label!r} ({n})" for label, n in train.labels.most_common()[::-1] if n < RARE]
        if unseen:
            messages.append(Warnings.W220.format(task=task, labels=shorten(unseen)))
        if rare:
            messages.append(Warnings.W221.format(task=task, labels=shorten(rare), least=RARE))
    return [Finding(message) for message in messages]


def shorten(labels: Sequence[str]) -> str:
    """RETURNS (str): The first labels, and the number of further ones."""
    more = f", and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return ", ".join(labels[:LISTED]) + more
