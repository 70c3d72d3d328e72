"""Studies: nothing is lost, nothing runs twice."""

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna import Study

from spacy_mtl.search.study import (
    count_started,
    find_importances,
    find_resumed,
    get_folder,
    get_outcomes,
    open_study,
    requeue_lost,
    using_database,
)


def test_stopped_trials_are_continued_once(
    make_plan: Callable, open_plan: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the process is killed while it marks them."""
    plan = make_plan()
    study = open_plan(plan)
    plan.space.suggest(study.ask(), plan.config)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "tell", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            requeue_lost(study, None)
    study = open_plan(plan)
    assert requeue_lost(study, None) == 1
    assert requeue_lost(study, None) == 0
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    assert (find_resumed(study), count_started(study)) == ({0}, 0)
    trial = study.ask()
    plan.space.suggest(trial, plan.config)
    assert trial.params == study.trials[0].params
    assert get_folder(study.trials[1]) == "0"
    assert requeue_lost(study, None) == 1
    assert get_folder(study.trials[2]) == "0"
    assert get_outcomes(study) == []


def test_given_values_of_a_trial_that_was_stopped_before_it_drew_them(
    make_plan: Callable, open_plan: Callable
) -> None:
    plan = make_plan()
    study = open_plan(plan, {"dropout": 0.125, "mode": "works"})
    study.ask()
    requeue_lost(study, None)
    trial = study.ask()
    plan.space.suggest(trial, plan.config)
    assert trial.params == {"dropout": 0.125, "mode": "works"}


def test_a_continued_search_draws_new_values(make_plan: Callable, open_plan: Callable) -> None:
    plan = make_plan()
    drawn = []
    for _ in range(2):
        trial = open_plan(plan).ask()
        plan.space.suggest(trial, plan.config)
        drawn.append(trial.params["dropout"])
    assert drawn[0] != drawn[1]


def test_a_study_of_another_config(make_plan: Callable, open_plan: Callable) -> None:
    open_plan(make_plan())
    open_plan(make_plan(trials=20, workers=2))
    plan = make_plan()
    plan.config["training"]["logger"] = {"@loggers": "spacy.ConsoleLogger.v1"}
    open_plan(plan)
    plan.config["training"]["dropout"] = 0.5
    with pytest.raises(ValueError, match=r"M266(.|\n)*training.dropout = 0.5, not 0.25"):
        open_plan(plan)
    with pytest.raises(ValueError, match=r'M266(.|\n)*--metric = \{"other": "a"\}'):
        open_plan(make_plan(metrics={"other": "a"}))


@pytest.mark.parametrize(
    "url", ["none", "nosql://x", "sqlite:////no/folder/study.db", "oracle://x"]
)
def test_unusable_databases(url: str) -> None:
    with pytest.raises(ValueError, match=r"M267.*" + url):
        with using_database(url):
            open_study(url, "x", {}, n_objectives=1, seed=0)


def test_a_corrupt_database(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_text("not a database" * 100)
    with pytest.raises(ValueError, match=r"M267.*study.db"):
        with using_database(f"sqlite:///{path}"):
            open_study(f"sqlite:///{path}", "x", {}, n_objectives=1, seed=0)


def test_importances(make_plan: Callable, open_plan: Callable) -> None:
    plan = make_plan()
    study = open_plan(plan)
    assert find_importances(study, ["dropout", "mode"]) == {}
    for _ in range(12):
        trial = study.ask()
        plan.space.suggest(trial, plan.config)
        score = trial.params["dropout"]
        trial.set_user_attr("result", {"score": score, "scores": {}, "step": 1})
        study.tell(trial, score)
    found = find_importances(study, ["dropout", "mode"])
    assert list(found) == ["dropout", "mode"] and sum(found.values()) == pytest.approx(1)
