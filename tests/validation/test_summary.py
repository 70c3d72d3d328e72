from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from spacy_mtl.validation.cv import Fold
from spacy_mtl.validation.outcome import Answers, Outcome
from spacy_mtl.validation.summary import Summary, compare, get_t, summarize_scores
from spacy_mtl.validation.suspects import Suspect
from spacy_mtl.validation.tables import make_suspect_table, make_tables, make_verdict

RIGHT, WRONG = {"x": (1, 0, 0)}, {"x": (0, 1, 1)}


def test_quantiles() -> None:
    """Compare with a printed table of Student's t."""
    printed = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 29: 2.045}
    assert {n: round(get_t(n), 3) for n in printed} == printed


def test_interval() -> None:
    """The variance is corrected for the overlap of training data."""
    values = dict(zip(["1-1", "1-2", "1-3", "1-4", "1-5"], [0.6, 0.7, 0.8, 0.7, 0.7], strict=True))
    found = summarize_scores("ner", "ents_f", values, 5)
    assert found.mean == pytest.approx(0.7)
    assert found.spread == pytest.approx(0.005**0.5)
    half = 2.7764 * 0.005**0.5 * (1 / 5 + 1 / 4) ** 0.5
    assert found.interval == pytest.approx((0.7 - half, 0.7 + half), abs=1e-4)
    assert found.get_lines() == {"1": [(i + 1, 100 * v) for i, v in enumerate(values.values())]}
    low, high = summarize_scores("ner", "ents_f", {"1-1": 0.1, "1-2": 0.9}, 2).interval or (1, 0)
    assert (low, high) == (0, 1)
    one = summarize_scores("ner", "ents_f", {"1-1": 0.6}, 5)
    assert (one.spread, one.interval) == (None, None)


def make_outcomes(n: int, wrong: dict[str, int]) -> tuple[Any, dict[Fold, Outcome]]:
    """Make two folds of n groups of two docs each, of which each model gets some docs wrong."""
    groups = numpy.repeat(numpy.arange(2 * n), 2)
    tests = {0: [*range(2 * n)], 1: [*range(2 * n, 4 * n)]}
    cv = SimpleNamespace(groups=groups, find_test=lambda fold: tests[fold.fold])
    outcomes = {}
    for model, n_wrong in wrong.items():
        for fold in range(2):
            docs = [WRONG if i < n_wrong else RIGHT for i in range(2 * n)]
            score = 1 - n_wrong / (2 * n)
            answers = Answers(False, docs)  # type: ignore[arg-type]
            outcomes[Fold(0, fold, model)] = Outcome({"ents_f": score}, {"ner": answers})
    return cv, outcomes


def test_single_against_multi() -> None:
    cv, outcomes = make_outcomes(10, {"multi": 0, "ner": 20})
    found = compare(cv, outcomes, "ner", "ents_f")
    assert found is not None and found.difference == 1 and found.mean == 0
    assert found.p is not None and found.p < 0.001
    cv, outcomes = make_outcomes(10, {"multi": 4, "ner": 4})
    found = compare(cv, outcomes, "ner", "ents_f")
    assert found is not None and (found.difference, found.p) == (0, 1)
    cv, outcomes = make_outcomes(1, {"multi": 0, "ner": 2})
    found = compare(cv, outcomes, "ner", "ents_f")
    assert found is not None and found.p == 0.5  # two groups: 2 of 4 exchanges, not 2 of 16
    cv, outcomes = make_outcomes(2, {"multi": 0})
    assert compare(cv, outcomes, "ner", "ents_f") is None


def test_without_counts_there_is_no_p_value() -> None:
    cv, outcomes = make_outcomes(2, {"multi": 0, "ner": 2})
    for outcome in outcomes.values():
        outcome.answers = {}
    found = compare(cv, outcomes, "ner", "ents_f")
    assert found is not None and found.p is None


def test_tables() -> None:
    cv, outcomes = make_outcomes(10, {"multi": 0, "ner": 20})
    task = summarize_scores("ner", "ents_f", {"1-1": 0.5, "1-2": 0.7}, 2)
    summary = Summary(2, 1, 40, 20, 2, 2, [task])
    first, second = make_tables(summary)
    assert first.header == ["task", "score", "folds", "mean", "from", "to"]
    assert first.rows == [["ner", "ents_f", "2", "60.00 ± 14.14", "0.0", "100.0"]]
    assert second.rows == [["ner", "50.0", "70.0"]]
    assert "ents_f 60.00 ± 14.14 (95 % interval 0.0 to 100.0)" in make_verdict(summary)[1]
    task.single = compare(cv, outcomes, "ner", "ents_f")
    first, _ = make_tables(summary)
    assert first.rows[0][-3:] == ["0.0", "+100.00", "< 0.001"]


def test_suspect_table() -> None:
    suspect = Suspect("ner", 3, "x", "in Porto", "Porto", "O", "PLACE", 0.01, 0.98)
    (row,) = make_suspect_table([suspect]).rows
    assert row == ["ner", "3", "x", "in Porto", "Porto", "O", "PLACE", "0.010", "0.980"]
