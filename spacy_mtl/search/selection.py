"""Choose among trials by the scores of several tasks, and tell how optimistic the choice is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev

from ..report.evaluation import evaluate
from .study import Outcome

WEIGHTED, PARETO, WORST = "weighted score", "Pareto", "worst task"


@dataclass
class Choice:
    """A trial that a rule chooses.

    rule (str): The rule.
    outcome (Outcome): The trial.
    test (Optional[float]): The score of its pipeline on test data, by the score weights; None
        without test data or pipeline.
    test_scores (Dict[str, float]): The score of each metric on test data.
    """

    rule: str
    outcome: Outcome
    test: float | None
    test_scores: dict[str, float]


def find_complete(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """RETURNS (List[Outcome]): The trials that were trained to their end."""
    return [outcome for outcome in outcomes if outcome.state == "complete"]


def find_best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """RETURNS (Optional[Outcome]): The first of the trials with the best score; None if no trial
    was trained to its end.
    """
    return max(find_complete(outcomes), key=get_score, default=None)


def find_front(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """RETURNS (List[Outcome]): The Pareto front: the trials to which no other trial is better for
    one metric and at least equal for all others.
    """
    complete = find_complete(outcomes)
    return [one for one in complete if not any(dominates(other, one) for other in complete)]


def dominates(a: Outcome, b: Outcome) -> bool:
    pairs = [(a.scores[name], b.scores[name]) for name in b.scores]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def choose(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """Choose the best trial by each rule.

    - weighted score: the highest score by the score weights.
    - Pareto: the trial of the Pareto front that is nearest to the best score of every metric. The
      range of each metric on the front counts as 1.
    - worst task: the trial whose worst metric loses least against the best trial for this metric.

    outcomes (Sequence[Outcome]): The finished trials.
    RETURNS (Dict[str, Outcome]): The trial by the rule. With one metric there is only the first
        rule. Empty if no trial was trained to its end.
    """
    best, front = find_best(outcomes), find_front(outcomes)
    if best is None:
        return {}
    if len(best.scores) == 1:
        return {WEIGHTED: best}
    top = {name: max(one.scores[name] for one in front) for name in best.scores}
    low = {name: min(one.scores[name] for one in front) for name in best.scores}
    gaps = {
        one.number: {name: top[name] - one.scores[name] for name in best.scores} for one in front
    }

    def get_distance(one: Outcome) -> float:
        shares = (gap / ((top[name] - low[name]) or 1) for name, gap in gaps[one.number].items())
        return sum(share**2 for share in shares)

    return {
        WEIGHTED: best,
        PARETO: min(front, key=get_distance),
        WORST: min(front, key=lambda one: (max(gaps[one.number].values()), -get_score(one))),
    }


def score_choices(
    chosen: Mapping[str, Outcome],
    pipelines: Mapping[int, Path],
    data: Path | None,
    metrics: Mapping[str, str],
    weights: Mapping[str, float],
) -> list[Choice]:
    """Score the chosen pipelines on test data.

    chosen (Mapping[str, Outcome]): The trials by the rule.
    pipelines (Mapping[int, Path]): The folder of the pipeline of each trial.
    data (Optional[Path]): A .spacy file, or a folder of .spacy files.
    metrics (Mapping[str, str]): The key of the score by the name of the metric.
    weights (Mapping[str, float]): The score weights.
    RETURNS (List[Choice]): The choices, scored if there are data and a pipeline.
    """
    scored: dict[int, dict[str, float]] = {}
    if data:
        for number in {outcome.number for outcome in chosen.values()}:
            if pipelines[number].exists():
                scores = evaluate(pipelines[number], data, []).scores
                keys = {*metrics.values(), *weights}
                scored[number] = {key: float(scores.get(key) or 0.0) for key in keys}
    choices = []
    for rule, outcome in chosen.items():
        if found := scored.get(outcome.number):
            total = sum(weight * found[key] for key, weight in weights.items())
            own = {name: found[key] for name, key in metrics.items()}
            choices.append(Choice(rule, outcome, total, own))
        else:
            choices.append(Choice(rule, outcome, None, {}))
    return choices


def describe_optimism(outcomes: Sequence[Outcome], choices: Sequence[Choice]) -> list[str]:
    """Tell how much of the best score comes from choosing the best.

    outcomes (Sequence[Outcome]): The finished trials.
    choices (Sequence[Choice]): The choices, the one by weighted score first.
    RETURNS (List[str]): Sentences. Empty with fewer than two complete trials.
    """
    scores = [get_score(outcome) for outcome in find_complete(outcomes)]
    if len(scores) < 2:
        return []
    n, mean, spread = len(scores), fmean(scores), stdev(scores)
    expected = spread * expect_maximum(n)
    sentences = [
        f"If all {n} complete trials were equally good and differed by chance alone, the best dev "
        f"score would be expected {100 * expected:.1f} points above their mean; it is "
        f"{100 * (max(scores) - mean):.1f} points above."
    ]
    best = choices[0]
    if best.test is not None:
        gap = round(get_score(best.outcome) - best.test, 3) + 0.0  # no negative zero
        sentences.append(
            f"The best trial has {100 * get_score(best.outcome):.1f} on dev and "
            f"{100 * best.test:.1f} on test: the choice among trials and a harder test set "
            f"together make {100 * gap:+.1f} points."
        )
    return sentences


def expect_maximum(n: int) -> float:
    """RETURNS (float): About the expected maximum of n independent standard normal numbers (Blom,
    1958).
    """
    return NormalDist().inv_cdf((n - 0.375) / (n + 0.25))


def get_score(outcome: Outcome) -> float:
    """RETURNS (float): The score of a trial that was trained to its end."""
    assert outcome.score is not None
    return outcome.score
