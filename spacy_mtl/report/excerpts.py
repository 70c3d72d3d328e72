"""Choose excerpts that show the errors of a pipeline."""

from collections import Counter
from collections.abc import Sequence

import numpy

from ..annotations import Comparison, Item
from .records import Excerpt, Mark, TaskRow

EXCERPT = 40  # tokens


def find_errors(
    row: TaskRow,
    docs: Sequence[Comparison | None],
    words: Sequence[Sequence[str]],
    n: int = 5,
) -> list[Excerpt]:
    """Choose docs with many errors. A second doc with the same missed labels is chosen only after
    one doc for each other set of missed labels.

    row (TaskRow): The task and the setting.
    docs (Sequence[Optional[Comparison]]): The gold and predicted items of each doc.
    words (Sequence[Sequence[str]]): The tokens of the docs, each with the space after it.
    n (int): The most docs to choose.
    RETURNS (List[Excerpt]): Excerpts, in which only the errors are marked.
    """
    wrong = [(i, doc) for i, doc in enumerate(docs) if doc and doc.gold != doc.predicted]
    wrong.sort(key=lambda pair: -len(pair[1].gold ^ pair[1].predicted))
    missed: Counter[frozenset[str]] = Counter()
    ranked = []
    for i, doc in wrong:
        labels = frozenset(item.label for item in doc.gold - doc.predicted)
        ranked.append((missed[labels], i, doc))
        missed[labels] += 1
    ranked.sort(key=lambda entry: entry[0])
    return [make_excerpt(row, i, doc, words[i]) for _, i, doc in ranked[:n]]


def make_excerpt(row: TaskRow, index: int, doc: Comparison, words: Sequence[str]) -> Excerpt:
    """RETURNS (Excerpt): The tokens of a doc around its first error."""
    start = max(0, min(doc.gold ^ doc.predicted).start - EXCERPT // 4)
    window = [word.replace("\n", " ") for word in words[start : start + EXCERPT]]
    gold, predicted = (
        mark(window, items, start) for items in (doc.gold - doc.predicted, doc.predicted - doc.gold)
    )
    return Excerpt(row.task, row.setting, index, "".join(window), gold, predicted)


def mark(window: Sequence[str], items: set[Item], offset: int) -> list[Mark]:
    """Convert items from tokens to characters. Labels of the same span are joined.

    window (Sequence[str]): The tokens of the excerpt, each with the space after it.
    items (Set[Item]): The items, by token of the doc.
    offset (int): The first token of the excerpt.
    RETURNS (List[Mark]): The items inside the excerpt.
    """
    ends = numpy.cumsum([0, *map(len, window)]).tolist()
    spans: dict[tuple[int, int], list[str]] = {}
    for item in sorted(items):
        first, last = max(item.start - offset, 0), min(item.end - offset, len(window))
        if first < last:
            space = len(window[last - 1]) - len(window[last - 1].rstrip())
            spans.setdefault((ends[first], ends[last] - space), []).append(item.label)
    return [Mark(a, b, ", ".join(labels)) for (a, b), labels in spans.items()]
