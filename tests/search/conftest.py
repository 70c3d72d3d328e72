"""A search with trials that take no time."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_trial
import pytest
from thinc.api import Config

from spacy_mtl.search.run import Plan
from spacy_mtl.search.space import Choices, Numbers, Space
from spacy_mtl.search.study import describe, open_study, using_database

MODES = {mode: mode for mode in ("works", "crashes", "killed", "hangs")}


@pytest.fixture
def fake_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the training process by `fake_trial.py`."""
    command = [sys.executable, "-I", fake_trial.__file__]
    monkeypatch.setattr(
        "spacy_mtl.search.trial.get_command", lambda folder: [*command, str(folder)]
    )


@pytest.fixture
def make_plan(tmp_path: Path, fake_trials: None) -> Callable[..., Plan]:
    """Return a function that makes a plan with changed fields."""

    def make(**changes: Any) -> Plan:
        training = {"dropout": 0.25, "score_weights": {"a": 0.5, "b": 0.5}, "logger": {}}
        settings: dict[str, Any] = {
            "config": Config({"training": training, "components": {"mode": "works"}}),
            "space": Space(
                [
                    Numbers("dropout", "training.dropout", 0.0, 1.0),
                    Choices("mode", "components.mode", MODES, False),
                ]
            ),
            "metrics": {"first": "a", "second": "b"},
            "folder": tmp_path / "out",
            "trials": 3,
        }
        plan = Plan(**settings | changes)
        plan.folder.mkdir(exist_ok=True)
        return plan

    return make


@pytest.fixture
def open_plan(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the study of a plan. Trials get the given values first."""
    url = f"sqlite:///{tmp_path / 'study.db'}"

    def open_plan(plan: Plan, *params: dict[str, Any]) -> Any:
        settings = describe(plan.config, plan.space, plan.metrics, is_pareto=plan.is_pareto)
        n = len(plan.metrics) if plan.is_pareto else 1
        study = open_study(url, "tune", settings, n_objectives=n, seed=0)
        for values in params:
            study.enqueue_trial(values)
        return study

    with using_database(url):
        yield open_plan
