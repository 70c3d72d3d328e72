"""The page of a search: the best trial, the history, and what each dimension does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..report.figures import Figure
from ..report.keys import Keys
from ..report.markdown import Bold, Table
from ..report.page import Page, Section, render
from ..report.plots import Plot, Trace, plot_bars, plot_points
from .selection import Choice, find_front, get_score
from .space import Choices, Dimension, Param, Space
from .study import Outcome

CAPTIONS = {
    "history": (
        "The score of each complete trial on the dev data, in order. The line is the best score so "
        "far. A line that is flat for long says that more trials would bring little."
    ),
    "importance": (
        "How much of the difference between good and bad trials each value explains, as estimated "
        "by PED-ANOVA. With few trials the shares are rough."
    ),
    "slices": (
        "The score of each complete trial over each value. If the best trials are at an end of a "
        "range, a wider range may bring more."
    ),
    "front": (
        "The scores of two metrics. No trial is better than one on the Pareto front for all "
        "metrics at once. With more than two metrics a trial on the front need not look so here."
    ),
}
CHOICE_NOTE = (
    "Scores in percent. Weighted score: the highest score by the score weights. Pareto: the trial "
    "of the Pareto front that is nearest to the best score of each metric. Worst task: the trial "
    "whose worst task loses least against the best trial for this task. Optimism is dev minus test."
)
TRIALS_NOTE = (
    "Scores on dev in percent, at the trial's best evaluation. The file trials.csv has the errors "
    "of failed trials too."
)


@dataclass
class Results:
    """The results of a search.

    space (Space): The space.
    metrics (Sequence[str]): The names of the metrics.
    outcomes (Sequence[Outcome]): The finished trials.
    planned (int): The number of trials that were planned.
    choices (Sequence[Choice]): The chosen trials, the one by weighted score first. Empty if no
        trial was trained to its end.
    optimism (Sequence[str]): Sentences on the bias of choosing the best.
    importances (Mapping[str, float]): The share of each dimension, 0 to 1.
    own (Mapping[str, Param]): The values of the config itself.
    """

    space: Space
    metrics: Sequence[str]
    outcomes: Sequence[Outcome]
    planned: int
    choices: Sequence[Choice]
    optimism: Sequence[str]
    importances: Mapping[str, float]
    own: Mapping[str, Param]


def make_page(results: Results) -> str:
    """RETURNS (str): The results as an HTML page."""
    n = len(results.outcomes)
    return render(
        Page(
            title="Search",
            heading=f"Search with {n} of {results.planned} trials",
            verdict=make_verdict(results),
            conditions=[count_states(results.outcomes), *results.optimism],
            card=make_card(results),
            sections=make_sections(results),
            keys=Keys([]),
        )
    )


def make_verdict(results: Results) -> list[str]:
    """RETURNS (List[str]): The best trial in a sentence, compared with the config itself."""
    if not results.choices:
        return ["No trial has been trained to its end yet."]
    best = results.choices[0].outcome
    text = f"Trial {best.number} is the best: score {show(best.score)} on dev"
    own = [
        outcome
        for outcome in results.outcomes
        if outcome.state == "complete" and dict(outcome.params) == dict(results.own)
    ]
    if own and own[0] is best:
        text += ", with the values of the config itself"
    elif own:
        text += f", {show(own[0].score)} with the values of the config itself"
    return [f"{text}."]


def count_states(outcomes: Sequence[Outcome]) -> str:
    """RETURNS (str): How many trials ended in which way."""
    states = [outcome.state for outcome in outcomes]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return f"Trials: {', '.join(counts) or 'none'}."


def make_card(results: Results) -> dict[str, list[str]]:
    """RETURNS (Dict[str, List[str]]): The best values, and the scores of the best trial."""
    if not results.choices:
        return {}
    best = results.choices[0].outcome
    return {
        "Best values": [f"{name} = {show_param(value)}" for name, value in best.params.items()],
        "Scores of the best trial": [f"{name} {show(z)}" for name, z in best.scores.items()],
    }


def make_sections(results: Results) -> list[Section]:
    """RETURNS (List[Section]): The sections that have content."""
    complete = [outcome for outcome in results.outcomes if outcome.state == "complete"]
    history, parameters, front = [], [], []
    if complete:
        history = [Figure(CAPTIONS["history"], [plot_history(results.outcomes)])]
        drawn = {name for outcome in complete for name in outcome.params}
        dimensions = [d for d in results.space.dimensions if d.name in drawn]
        parameters = [Figure(CAPTIONS["slices"], [plot_slice(d, complete) for d in dimensions])]
        pairs = [*combinations(results.metrics, 2)]
        if pairs:
            front = [Figure(CAPTIONS["front"], [plot_front(complete, *pair) for pair in pairs])]
    if results.importances:
        bars = plot_bars("Importance", results.importances, "share (%)")
        parameters.insert(0, Figure(CAPTIONS["importance"], [bars]))
    sections = [
        Section("Choice", [], [make_choice_table(results)] if results.choices else [], {}),
        Section("History", history, [], {}),
        Section("Values", parameters, [], {}),
        Section("Pareto", front, [], {}),
        Section("Trials", [], [make_trial_table(results)] if results.outcomes else [], {}),
    ]
    return [section for section in sections if section.figures or section.tables]


def plot_history(outcomes: Sequence[Outcome]) -> Plot:
    """RETURNS (Plot): The score of each complete trial, and the best so far."""
    points: list[tuple[float, float, str]] = []
    line: list[tuple[float, float]] = []
    for outcome in outcomes:
        if outcome.state == "complete":
            x, y = float(outcome.number), 100 * get_score(outcome)
            points.append((x, y, f"{show(outcome.score)} (trial {outcome.number})"))
            line.append((x, max(y, line[-1][1]) if line else y))
    traces = [Trace("score", "", 0, points)]
    return plot_points("Score by trial", traces, ("trial", "score (%)"), line=line)


def plot_slice(dimension: Dimension, complete: Sequence[Outcome]) -> Plot:
    """RETURNS (Plot): The score of each trial over the values of a dimension."""
    points = []
    choices = list(dimension.choices) if isinstance(dimension, Choices) else []
    for outcome in complete:
        if dimension.name in outcome.params:
            value = outcome.params[dimension.name]
            x = float(choices.index(str(value))) if choices else float(value or 0)
            text = f"{show(outcome.score)} with {show_param(value)} (trial {outcome.number})"
            points.append((x, 100 * get_score(outcome), text))
    return plot_points(
        dimension.name,
        [Trace("score", "", 0, points)],
        (dimension.path.rpartition(".")[2], "score (%)"),
        choices=choices,
        limits=None if isinstance(dimension, Choices) else (dimension.low, dimension.high),
        is_log=not isinstance(dimension, Choices) and dimension.log,
    )


def plot_front(complete: Sequence[Outcome], first: str, second: str) -> Plot:
    """RETURNS (Plot): The scores of two metrics, with the Pareto front of all metrics."""
    front = {outcome.number for outcome in find_front(complete)}
    traces = []
    for style, (name, is_on) in enumerate([("Pareto front", True), ("other trials", False)]):
        points = [
            (100 * o.scores[first], 100 * o.scores[second], f"trial {o.number}")
            for o in complete
            if (o.number in front) == is_on
        ]
        if points:
            traces.append(Trace(name, "", style, points))
    return plot_points(f"{first} and {second}", traces, (f"{first} (%)", f"{second} (%)"))


def make_choice_table(results: Results) -> Table:
    """RETURNS (Table): The trial that each rule chooses, with its scores."""
    has_test = any(choice.test is not None for choice in results.choices)
    header = ["rule", "trial", "dev", *(["test", "optimism"] if has_test else [])]
    for name in results.metrics:
        header += [f"{name} dev", *([f"{name} test"] if has_test else [])]
    rows = []
    for choice in results.choices:
        outcome = choice.outcome
        row = [choice.rule, str(outcome.number), show(outcome.score)]
        if has_test:
            row += [show(choice.test), show_optimism(choice)]
        for name in results.metrics:
            row += [show(outcome.scores[name])]
            row += [show(choice.test_scores.get(name))] if has_test else []
        rows.append(row)
    return Table("Choice", "Best trial by rule", CHOICE_NOTE, header, rows)


def make_trial_table(results: Results) -> Table:
    """RETURNS (Table): All finished trials."""
    names = [dimension.name for dimension in results.space.dimensions]
    header = ["trial", "state", *names, "score", *results.metrics]
    best = results.choices[0].outcome.number if results.choices else None
    rows = []
    for outcome in results.outcomes:
        score = show(outcome.score)
        rows.append(
            [
                str(outcome.number),
                outcome.state,
                *(show_param(outcome.params.get(name)) for name in names),
                Bold(score) if outcome.number == best else score,
                *(show(outcome.scores.get(name)) for name in results.metrics),
            ]
        )
    return Table("Trials", "All trials", TRIALS_NOTE, header, rows, texts=2 + len(names))


def show_optimism(choice: Choice) -> str:
    """RETURNS (str): The score on dev minus the score on test, in points."""
    if choice.test is None:
        return "-"
    return f"{100 * round(get_score(choice.outcome) - choice.test, 4) + 0.0:+.2f}"


def show(score: float | None) -> str:
    """RETURNS (str): A score in percent."""
    return "-" if score is None else f"{100 * score:.2f}"


def show_param(param: Param) -> str:
    """RETURNS (str): A value, a number with three digits."""
    if param is None:
        return "-"
    return f"{param:.3g}" if isinstance(param, float) else str(param)
