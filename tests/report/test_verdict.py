"""The verdict in words."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from spacy_mtl.report.records import Report, Transfer
from spacy_mtl.report.verdict import judge, make_conditions, make_verdict

NER = Transfer("ner", "ner", "multi", "ents_f", 0.5, 0.01, 0.575, 0.004, 0.075, 0.0004, 3, 100)
TAGS = Transfer(
    "tagger", "tagger", "multi", "tag_acc", 0.95, 0.003, 0.948, 0.001, -0.002, 0.01, 3, 9
)


def test_verdict_of_a_gain_and_a_loss() -> None:
    assert make_verdict(Report([], transfer=[TAGS, NER])) == [
        "Entities gain 7.5 points from the other tasks, p < 0.001; "
        "tags lose 0.2, within the spread."
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "entities gain 7.5 points from the other tasks, p < 0.001"),
        ({"p": 0.049}, "entities gain 7.5 points from the other tasks, p = 0.049"),
        (
            {"difference": -0.01, "multi_sd": None, "single_sd": None},
            "entities lose 1.0 point when trained with the other tasks, p < 0.001",
        ),
        (
            {"p": 0.05},
            "entities gain 7.5 points from the other tasks, which may be chance (p = 0.050)",
        ),
        (
            {"p": 1.0, "difference": -0.02},
            "entities lose 2.0 points when trained with the other tasks, which may be chance "
            "(p = 1.000)",
        ),
        ({"multi_sd": 0.075}, "entities gain 7.5 points from the other tasks, within the spread"),
        ({"p": 1.0, "difference": 0.0004}, "entities stay level"),
        (
            {"p": None, "differences": ["updates"]},
            "nothing can be said about ner, as other settings differ too",
        ),
        (
            {"measure": "my_score", "p": 0.0},
            "labels of ner gain 7.5 points from the other tasks, p < 0.001",
        ),
    ],
)
def test_words_for_a_difference(changes: dict, text: str) -> None:
    assert judge([replace(NER, **changes)]) == text


def test_many_unclear_differences_are_named_together() -> None:
    """Clear gains come first, then clear losses, each with the largest first."""
    cats = replace(NER, task="textcat", measure="cats_macro_f", difference=0.2)
    loss = replace(NER, task="parser", measure="dep_las", difference=-0.3)
    unclear = [replace(TAGS, task=name, measure=name) for name in ("a", "b")]
    assert judge([TAGS, loss, NER, *unclear, cats]) == (
        "categories gain 20.0 points from the other tasks, p < 0.001; entities gain 7.5, "
        "p < 0.001; dependencies lose 30.0, p < 0.001; tags, labels of a and labels of b show no "
        "clear difference"
    )


def test_tasks_with_the_same_labels_are_told_apart() -> None:
    other = replace(NER, task="products", difference=0.1)
    assert judge([NER, other]).startswith("entities of products gain 10.0 points")


def test_each_setting_has_a_sentence() -> None:
    pair = replace(NER, multi="pair", p=0.3)
    assert make_verdict(Report([], transfer=[NER, pair])) == [
        "In “multi”, entities gain 7.5 points from the other tasks, p < 0.001.",
        "In “pair”, entities gain 7.5 points from the other tasks, which may be chance "
        "(p = 0.300).",
    ]


def test_conditions_name_docs_and_seeds() -> None:
    text = " ".join(make_conditions(Report([], transfer=[TAGS, NER])))
    assert text.startswith("Tested on 9 to 100 docs, with 3 seeds per side.")
    assert "“Within the spread” means" in text and "With one seed" not in text
    one = replace(NER, seeds=1, docs=1, single_sd=None, multi_sd=None, p=None)
    text = " ".join(make_conditions(Report([], transfer=[one])))
    assert text.startswith("Tested on 1 doc, with 1 seed per side. With one seed")


def test_scores_replace_a_missing_comparison(make_run: Callable) -> None:
    run, other = make_run("m-0", "m", "a", "b"), make_run("m-1", "m", "a", "b", seed=1)
    run.scores |= {"tag_acc_desc": "kind", "ents_p": 0.5, "cats_score": 0.25}
    assert make_verdict(Report([run])) == ["m-0 scores: tags 50.0 % and categories 25.0 %."]
    assert make_verdict(Report([run, other])) == [
        "The best scores are: tags 60.0 % (m-1) and categories 25.0 % (m-0)."
    ]
    assert make_verdict(Report([replace(run, scores={})])) == ["The runs have no scores."]


def test_conditions_name_a_missing_comparison(make_run: Callable) -> None:
    run, alone = make_run("m-0", "m", "a", "b"), make_run("a-0", "a", "a")
    for runs, data, text in (
        ([run], "dev.spacy", "report a run with several tasks together with a run of each task"),
        ([alone], "dev.spacy", "report a run with several tasks together with a run of each task"),
        ([run, alone], None, "--data"),
        ([run, alone], "dev.spacy", "nothing to compare"),
    ):
        (reason,) = make_conditions(Report(runs, data=data))
        assert text in reason
