"""Which trial is the best, by which rule."""

from pathlib import Path

import pytest

from spacy_mtl.report.evaluation import Evaluation
from spacy_mtl.search import selection
from spacy_mtl.search.selection import (
    Choice,
    choose,
    describe_optimism,
    expect_maximum,
    find_front,
    score_choices,
)
from spacy_mtl.search.study import Outcome


def make(number: int, score: float, *scores: float, state: str = "complete") -> Outcome:
    return Outcome(number, state, {}, str(number), score, dict(zip("abc", scores, strict=False)))


def get_numbers(outcomes: list[Outcome]) -> dict[str, int]:
    return {rule: outcome.number for rule, outcome in choose(outcomes).items()}


def test_rules() -> None:
    outcomes = [
        make(0, 0.9, 1.0, 0.0),  # the best weighted score
        make(1, 0.8, 0.85, 0.9),
        make(2, 0.8, 0.2, 1.0),
        make(3, 0.1, 0.1, 0.1),  # worse than all others
        make(4, 1.0, 1.0, 1.0, state="pruned"),
    ]
    assert [one.number for one in find_front(outcomes)] == [0, 1, 2]
    assert get_numbers(outcomes) == {"weighted score": 0, "Pareto": 1, "worst task": 1}


def test_a_task_whose_trials_differ_little_counts_as_much_for_pareto() -> None:
    outcomes = [make(0, 0.5, 0.90, 0.1), make(1, 0.5, 0.89, 0.3), make(2, 0.5, 0.70, 0.4)]
    assert get_numbers(outcomes) == {"weighted score": 0, "Pareto": 1, "worst task": 1}
    outcomes = [make(0, 0.5, 0.93, 0.1), make(1, 0.5, 0.901, 0.3), make(2, 0.5, 0.90, 0.35)]
    assert get_numbers(outcomes)["worst task"] == 2


def test_equal_trials_and_one_metric() -> None:
    assert choose([]) == {}
    assert choose([make(0, 0.5, 0.5, state="failed")]) == {}
    assert get_numbers([make(0, 0.5, 0.5), make(1, 0.5, 0.5)]) == {"weighted score": 0}
    twins = [make(i, 0.5, 0.5, 0.5) for i in range(2)]
    assert get_numbers(twins) == {"weighted score": 0, "Pareto": 0, "worst task": 0}


def test_scores_on_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"ents_f": 0.5, "tag_acc": 0.75, "cats_score": None}
    models: list[Path] = []

    def evaluate(model: Path, data: Path, tasks: list[str]) -> Evaluation:
        models.append(model)
        return Evaluation(scores, {}, [])

    monkeypatch.setattr(selection, "evaluate", evaluate)
    chosen = {"weighted score": make(0, 0.9), "Pareto": make(1, 0.8), "worst task": make(0, 0.9)}
    pipelines = {0: tmp_path, 1: tmp_path / "elsewhere"}
    metrics, weights = {"ner": "ents_f"}, {"ents_f": 0.4, "tag_acc": 0.4, "cats_score": 0.2}
    choices = score_choices(chosen, pipelines, tmp_path, metrics, weights)
    assert [choice.test for choice in choices] == [0.5, None, 0.5]
    assert choices[0].test_scores == {"ner": 0.5} and models == [tmp_path]
    choices = score_choices(chosen, pipelines, None, metrics, weights)
    assert {choice.test for choice in choices} == {None}


def test_optimism() -> None:
    outcomes = [make(i, score) for i, score in enumerate((0.70, 0.72, 0.74))]
    sentences = describe_optimism(outcomes, [Choice("weighted score", outcomes[2], 0.715, {})])
    assert "all 3 complete trials" in sentences[0]
    assert "expected 1.7 points above their mean; it is 2.0 points above" in sentences[0]
    assert "74.0 on dev and 71.5 on test" in sentences[1] and "+2.5 points" in sentences[1]
    assert len(describe_optimism(outcomes, [Choice("weighted score", outcomes[2], None, {})])) == 1
    assert describe_optimism(outcomes[:1], []) == []


def test_the_expected_maximum_of_normal_numbers() -> None:
    exact = {2: 0.564, 5: 1.163, 20: 1.867, 100: 2.508}
    assert {n: round(expect_maximum(n), 3) for n in exact} == pytest.approx(exact, abs=0.03)
