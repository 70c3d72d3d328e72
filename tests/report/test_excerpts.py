"""Excerpts of docs with errors."""

from spacy_mtl.annotations import Comparison, Item
from spacy_mtl.report.excerpts import find_errors, mark
from spacy_mtl.report.records import Excerpt, Mark, TaskRow

ROW = TaskRow("ner", "x")


def compare(gold: set[tuple[int, int, str]], predicted: set[tuple[int, int, str]]) -> Comparison:
    """Make the items of a doc."""
    return Comparison({Item(*item) for item in gold}, {Item(*item) for item in predicted})


DOCS = [
    compare({(0, 2, "PER"), (4, 5, "LOC"), (6, 7, "ORG")}, {(0, 2, "PER"), (4, 5, "ORG")}),
    None,
    compare({(0, 1, "PER")}, {(0, 1, "PER"), (1, 2, "PER"), (2, 3, "LOC")}),
]


def test_docs_with_most_errors_come_first():
    words = [["Ann ", "Lee ", "flew ", "to ", "Rome ", "with ", "Ajax", "."]] * 3
    first, second = find_errors(ROW, DOCS, words)
    assert first == Excerpt(
        task="ner",
        setting="x",
        doc=0,
        text="Ann Lee flew to Rome with Ajax.",
        gold=[Mark(16, 20, "LOC"), Mark(26, 30, "ORG")],
        predicted=[Mark(16, 20, "ORG")],
    )
    assert second.doc == 2
    assert second.gold == []
    assert [mark.label for mark in second.predicted] == ["PER", "LOC"]
    assert find_errors(ROW, DOCS, words, n=1) == [first]
    assert find_errors(ROW, [compare({(0, 1, "a")}, {(0, 1, "a")}), None], words) == []


def test_docs_with_different_errors_come_first():
    """One doc for each missed label comes before a second doc for any."""
    docs = [compare({(0, 1, gold)}, {(0, 1, "x")}) for gold in "aabbc"]
    docs.append(compare({(0, 1, "a"), (0, 1, "b")}, {(0, 1, "x")}))
    errors = find_errors(ROW, docs, [["word"]] * 6)
    assert [error.doc for error in errors] == [5, 0, 2, 4, 1]


def test_excerpt_of_a_long_doc():
    words = [[f"{i}\n" for i in range(100)]]
    answer = compare({(50, 51, "a"), (0, 1, "b")}, {(0, 1, "b"), (95, 96, "a")})
    (error,) = find_errors(ROW, [answer], words)
    assert error.text == "".join(f"{i} " for i in range(40, 80))
    assert (error.gold, error.predicted) == ([Mark(30, 32, "a")], [])


def test_mark():
    """Marks are clipped to the excerpt. Labels of the same span are joined."""
    window = ["ab ", "c"]
    assert mark(window, {Item(0, 9, "y"), Item(0, 9, "x")}, 4) == [Mark(0, 4, "x, y")]
    items = {Item(4, 5, "x"), Item(6, 7, "y"), Item(0, 4, "z")}
    assert mark(window, items, 4) == [Mark(0, 2, "x")]
    assert mark([], {Item(0, 0, "x")}, 0) == []
