"""Small reports with every kind of content."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from spacy_mtl.report.records import (
    Confusion,
    CorpusSize,
    Excerpt,
    LabelScore,
    Mark,
    Report,
    RunSummary,
    SettingSummary,
    TaskCalibration,
    Transfer,
)
from spacy_mtl.training.calibration import Bin

LABEL = "<b>&"
SCORE = LabelScore("tagger", "m", LABEL, p=0.75, r=None, f=0.5, support=4.0)


def build_run(name: str, setting: str, *tasks: str, seed: int = 0, n: int = 3) -> RunSummary:
    steps = range(0, 10 * n, 10)
    curve = [(step, (1 + seed) / (2 + step)) for step in steps]
    pairs = [f"{a}|{b}" for a, b in pairwise(tasks)]
    return RunSummary(
        name,
        setting,
        list(tasks),
        seed,
        source="dev.spacy",
        scores={"tag_acc": 0.5 + seed / 10},
        steps=steps[-1],
        curves={
            **{kind: dict.fromkeys(tasks, curve) for kind in ("loss", "weight", "grad_norm")},
            "score": {"tag_acc": curve},
            "cosine": {pair: [(step, -0.25) for step in steps[1:]] for pair in pairs},
        },
    )


def build_report(**changes: Any) -> Report:
    train = [CorpusSize("train.spacy", 1200, 30000)]
    report = Report(
        runs=[
            build_run("m-0", "m", "tagger", "ner"),
            build_run("m-1", "m", "tagger", "ner", seed=1),
            build_run("t-0", "t", "tagger"),
        ],
        data="dev.spacy",
        corpus=CorpusSize("dev.spacy", 9, 100),
        date="2026-11-30 21:05 UTC",
        versions={"spacy-mtl": "0.1.0", "spaCy": "3.8.18"},
        settings=[
            SettingSummary(
                *("m", ["tagger", "ner"], [0, 1], "minilm"),
                **{"balancer": "StaticWeights", "weights": {"tagger": 1.0, "ner": 3.0}},
                train=train,
            ),
            SettingSummary("t", ["tagger"], [0], "minilm", train=train),
        ],
        transfer=[
            Transfer(
                *("tagger", "t", "m", "tag_acc"),
                **{"single_mean": 0.5, "single_sd": None, "multi_mean": 0.6, "multi_sd": 0.012},
                **{"difference": 0.1, "p": 0.0004, "seeds": 1, "docs": 9},
            )
        ],
        labels=[SCORE],
        calibration=[
            TaskCalibration(
                *("tagger", "m"),
                **{"ece_mean": 0.123, "ece_sd": 0.01, "confidence": 0.875, "accuracy": 0.75},
                predictions=400,
                bins=[Bin(100, 0.5, 0.25), Bin(300, 1.0, 1.0)],
            )
        ],
        confusions=[
            Confusion("tagger", "m", gold, predicted, n)
            for gold, predicted, n in ((LABEL, LABEL, 7), (LABEL, "|", 3), ("(none)", "|", 2))
        ],
        errors=[Excerpt("tagger", "m", 0, "a<b & c | d", [Mark(0, 3, LABEL)], [])],
    )
    return replace(report, **changes)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunSummary]:
    """Return a function that makes a run with curves.

    name, setting (str): The names.
    tasks (str): The tasks.
    seed (int): The seed, which changes the values.
    n (int): The number of evaluations.
    """
    return build_run


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    """Return a function that makes a report with every kind of content.

    changes (Any): Values of the report's fields.
    """
    return build_report


@pytest.fixture(scope="session")
def score() -> LabelScore:
    """Return a label's scores, with a label that HTML must escape."""
    return SCORE
