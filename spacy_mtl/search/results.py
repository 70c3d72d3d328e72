"""The files that a search leaves: the best config, a table of all trials, and a page."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import replacing
from .run import Plan
from .selection import choose, describe_optimism, score_choices
from .space import Param, fill
from .study import Outcome, find_importances, get_outcomes

if TYPE_CHECKING:
    from optuna import Study

    from .page import Results

BEST, TABLE, PAGE = "best.cfg", "trials.csv", "index.html"


def collect(study: "Study", plan: Plan, test: Path | None) -> "Results":
    """Collect the results of a search.

    study (Study): The study.
    plan (Plan): What was searched.
    test (Optional[Path]): A .spacy file, or a folder of .spacy files, to score the chosen pipelines
        on.
    RETURNS (Results): The results.
    RAISES (ValueError): M205 or M206 if the data cannot be used.
    """
    from .page import Results

    outcomes = get_outcomes(study)
    weights = plan.config["training"]["score_weights"]
    choices = score_choices(
        choose(outcomes),
        {o.number: plan.get_trial_folder(o.folder) / "model-best" for o in outcomes},
        test,
        plan.metrics,
        {key: weight for key, weight in weights.items() if weight},
    )
    return Results(
        space=plan.space,
        metrics=list(plan.metrics),
        outcomes=outcomes,
        planned=plan.trials,
        choices=choices,
        optimism=describe_optimism(outcomes, choices),
        importances=find_importances(study, [d.name for d in plan.space.dimensions]),
        own=plan.space.find_own(plan.config),
    )


def write_results(
    folder: Path, plan: Plan, results: "Results", make_page: Callable[["Results"], str]
) -> None:
    """Write the table, the page, and the best config if there is one.

    folder (Path): The output folder.
    plan (Plan): What was searched.
    results (Results): The results.
    make_page (Callable): Makes the page.
    RAISES (WriteError): M091 if a file cannot be written.
    """
    with replacing(folder / TABLE) as path, path.open("w", newline="", encoding="utf8") as file:
        names = [dimension.name for dimension in plan.space.dimensions]
        rows = [get_row(outcome, names, results.metrics) for outcome in results.outcomes]
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if results.choices:
        best = plan.space.apply(results.choices[0].outcome.params, plan.config)
        with replacing(folder / BEST) as path:
            fill(best).config.to_disk(path, interpolate=False)
    with replacing(folder / PAGE) as path:
        path.write_text(make_page(results), encoding="utf8")


def get_row(outcome: Outcome, names: Sequence[str], metrics: Sequence[str]) -> Mapping[str, Param]:
    """RETURNS (Mapping[str, Param]): The row of a trial in the table of all trials.

    outcome (Outcome): The trial.
    names (Sequence[str]): The dimensions.
    metrics (Sequence[str]): The metrics.
    """
    return {
        "trial": outcome.number,
        "state": outcome.state,
        "score": outcome.score,
        **{f"score of {name}": outcome.scores.get(name) for name in metrics},
        "step": outcome.step,
        **{name: outcome.params.get(name) for name in names},
        "error": outcome.error.replace("\n", " | "),
    }
