"""The page of a search."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from spacy_mtl.search.page import Results, make_choice_table, make_page, make_trial_table
from spacy_mtl.search.selection import Choice, choose
from spacy_mtl.search.space import Choices, Integers, Numbers, Space
from spacy_mtl.search.study import Outcome

PARAMS = [
    {"rate": 0.0001, "size": 10, "pool<ing>": "mean"},
    {"rate": 0.001, "size": 20, "pool<ing>": "max"},
    {"rate": 0.01, "size": 30},
]


@pytest.fixture
def make_results() -> Callable[..., Results]:
    """Return a function that makes results with changed fields."""
    space = Space(
        [
            Choices("pool<ing>", "x.pooling", {"mean": "mean", "max": "max"}, False),
            Numbers("rate", "x.rate", 1e-5, 1e-1, log=True),
            Integers("size", "x.size", 1, 100),
        ]
    )
    outcomes = [
        Outcome(i, "complete", params, str(i), (5 + i) / 10, {"ner": i / 2, "tagger": 1 - i / 4}, 4)
        for i, params in enumerate(PARAMS)
    ]
    outcomes.append(Outcome(3, "pruned", PARAMS[0], "3", 0.1, {"ner": 0.1, "tagger": 0.1}, 2))
    outcomes.append(Outcome(4, "failed", PARAMS[0], "4", error="exit code 1"))
    chosen = choose(outcomes)

    def make(**changes: object) -> Results:
        results = Results(
            space=space,
            metrics=["ner", "tagger"],
            outcomes=outcomes,
            planned=10,
            choices=[Choice(rule, one, 0.5, {"ner": 0.25}) for rule, one in chosen.items()],
            optimism=["This is optimism."],
            importances={"rate": 0.75, "size": 0.25},
            own=PARAMS[1],
        )
        return replace(results, **changes)  # type: ignore[arg-type]

    return make


def get_titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_content(make_results: Callable) -> None:
    page = make_page(make_results())
    assert get_titles(page) == ["Choice", "History", "Values", "Pareto", "Trials"]
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "Search with 5 of 10 trials" in text
    assert "Trial 2 is the best: score 70.00 on dev, 60.00 with the values of the config" in text
    assert "Trials: 3 complete, 1 pruned, 1 failed. This is optimism." in text
    assert "rate = 0.01 size = 30" in text
    assert len(re.findall('<svg role="img"', page)) == 6
    assert "pool&lt;ing&gt;" in page and "pool<ing>" not in page
    assert '"is_log": true' in page
    assert "<dd>ner 100.00</dd>" in page


def test_the_best_trial_may_be_the_config_itself(make_results: Callable) -> None:
    page = make_page(make_results(own=PARAMS[2]))
    assert "score 70.00 on dev, with the values of the config itself." in page


def test_without_a_complete_trial(make_results: Callable) -> None:
    results = make_results()
    page = make_page(replace(results, outcomes=results.outcomes[3:], choices=[], importances={}))
    assert get_titles(page) == ["Trials"] and "No trial has been trained to its end yet" in page
    page = make_page(replace(results, outcomes=[], choices=[], importances={}, optimism=[]))
    assert get_titles(page) == [] and "Trials: none." in page


def test_tables(make_results: Callable) -> None:
    results = make_results()
    table = make_choice_table(results)
    assert table.header[:5] == ["rule", "trial", "dev", "test", "optimism"]
    assert table.rows[0][:5] == ["weighted score", "2", "70.00", "50.00", "+20.00"]
    assert table.rows[0][5:] == ["100.00", "25.00", "50.00", "-"]
    choices = [replace(choice, test=None) for choice in results.choices]
    table = make_choice_table(replace(results, choices=choices))
    assert list(table.header) == ["rule", "trial", "dev", "ner dev", "tagger dev"]
    choices[0].test = 0.5
    assert make_choice_table(replace(results, choices=choices)).rows[1][3:5] == ["-", "-"]
    rows = make_trial_table(results).rows
    assert rows[2][:6] == ["2", "complete", "-", "0.01", "30", "70.00"]
    assert rows[4][5:] == ["-", "-", "-"]
