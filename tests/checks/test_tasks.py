"""Test the check of tasks: labels that are missing, only in dev, or rare."""

from collections import Counter

import pytest

from spacy_mtl.annotations.tokens import Lemmas, Tags
from spacy_mtl.checks.finding import Finding
from spacy_mtl.checks.tasks import check_tasks
from spacy_mtl.corpora.counts import Counts, TaskCounts
from spacy_mtl.corpora.inventory import get_task_layers


def codes(findings: list[Finding]) -> list[str]:
    """Return the code of each message."""
    return [finding.message[1:5] for finding in findings]


def make_counts(docs: int, **tasks: dict[str, int]) -> Counts:
    """Make counts of docs without missing labels, from the number of each task's labels."""
    counts = {
        task: TaskCounts(sum(labels.values()), Counter(labels), 0) for task, labels in tasks.items()
    }
    return Counts(docs, 100, counts)


@pytest.mark.parametrize(
    ("train", "dev", "expected", "part"),
    [
        ({"A": 10}, {"A": 1}, [], ""),
        ({"A": 10}, {"A": 1, "C": 2, "B": 1}, ["W220"], "in dev but not in train: 'B', 'C'."),
        (
            {"A": 9, "B": 10, "C": 1},
            {"A": 1},
            ["W221"],
            "fewer than 10 examples in train: 'C' (1), 'A' (9).",
        ),
        ({"A": 10}, {}, ["W222"], "'x'"),
        ({"A": 1}, {"B": 1}, ["W220", "W221"], "'A' (1)"),
        ({}, {"A": 1}, ["M224"], "token.tag"),
        ({str(i): 1 for i in range(9)}, {"0": 1}, ["W221"], "and 1 more"),
    ],
)
def test_missing_unseen_and_rare_labels_are_found(train, dev, expected, part):
    counts = make_counts(2, x=train), make_counts(2, x=dev)
    findings = check_tasks({"x": Tags()}, *counts, frozen=[])
    assert codes(findings) == expected
    assert part in " ".join(finding.message for finding in findings)
    assert codes(check_tasks({"x": Tags()}, *counts, frozen=["x"])) == ["W223"]


def test_lemmas_and_unknown_labels_may_be_rare():
    counts = make_counts(2, x={"be": 1}), make_counts(2, x={"go": 1})
    assert check_tasks({"x": Lemmas()}, *counts, frozen=[]) == []
    assert check_tasks({"x": None}, *counts, frozen=[]) == []


def test_each_head_has_an_annotation_layer(make_nlp):
    nlp = make_nlp("tagger", "other=morphologizer", "senter=senter", initialize=False)
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("parser")
    names = {task: layer and layer.name for task, layer in get_task_layers(nlp).items()}
    assert names == {"tagger": "tags", "other": "morphs", "senter": "sents", "parser": "trees"}
