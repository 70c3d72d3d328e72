"""The study of a search: its trials in a database, from which a stopped search continues."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ..errors import Errors
from ..types import Settings
from .space import Param, Space, flatten

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SETTINGS = "settings"  # attribute of a study: what its trials have in common
# Attributes of a trial.
OWNER = "owner"  # the search that runs it
FOLDER = "folder"  # the name of its folder
RESUMES = "resumes"  # the number of the trial that it continues
RESULT = "result"  # the scores of the best evaluation, or the error
FREE = "training.logger."  # settings that may differ between two runs of a search


@dataclass
class Outcome:
    """A finished trial.

    number (int): Its number in the study.
    state (str): "complete", "pruned" or "failed".
    params (Mapping[str, Param]): The values by the name of the dimension.
    folder (str): The name of its folder.
    score (Optional[float]): The best score by the score weights; None if it failed.
    scores (Dict[str, float]): The score of each metric at the best evaluation.
    step (Optional[int]): The update of the best evaluation.
    error (str): Why it failed.
    """

    number: int
    state: str
    params: Mapping[str, Param]
    folder: str
    score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    error: str = ""


@contextmanager
def using_database(url: str) -> Iterator[None]:
    """Convert errors of a database into M267, and hide notes on experimental features.

    url (str): Its URL.
    RAISES (ValueError): M267 if the database cannot be used.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning, StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise ValueError(Errors.M267.format(url=url, error=error)) from error


def open_study(url: str, name: str, settings: Settings, *, n_objectives: int, seed: int) -> "Study":
    """Open a study, or create it.

    url (str): The URL of its database.
    name (str): Its name in the database.
    settings (Settings): What all trials have in common, as `describe` returns it.
    n_objectives (int): The number of scores to maximize. With one score, trials are pruned.
    seed (int): The seed of the sampler.
    RETURNS (Study): The study.
    RAISES (ValueError): M266 if the study is of other settings, M267 without the driver of the
        database.
    """
    from optuna import create_study
    from optuna.pruners import MedianPruner, NopPruner
    from optuna.samplers import TPESampler

    # The first evaluation comes before any update.
    pruner = MedianPruner(n_warmup_steps=1) if n_objectives == 1 else NopPruner()
    try:
        study = create_study(
            storage=url,
            study_name=name,
            directions=["maximize"] * n_objectives,
            pruner=pruner,
            load_if_exists=True,
        )
    except ImportError as error:  # of the driver
        raise ValueError(Errors.M267.format(url=url, error=error)) from error
    # A search that continues must not draw the values of the start again.
    study.sampler = TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    known = study.user_attrs.get(SETTINGS)
    if known is None:
        study.set_user_attr(SETTINGS, settings)
    elif known != settings:
        raise ValueError(
            Errors.M266.format(url=url, differences="\n".join(find_differences(known, settings)))
        )
    return study


def describe(
    config: Settings, space: Space, metrics: Mapping[str, str], *, is_pareto: bool
) -> Settings:
    """RETURNS (Settings): What all trials of a search have in common, as JSON reads it back."""
    values = {k: v for k, v in flatten(config).items() if not k.startswith(FREE)}
    dimensions = {d.name: asdict(d) for d in space.dimensions}
    whole = {
        **values,
        **{f"space.{name}": dimension for name, dimension in dimensions.items()},
        "--metric": dict(metrics),
        "--pareto": is_pareto,
    }
    settings: Settings = json.loads(json.dumps(whole))
    return settings


def find_differences(old: Settings, new: Settings) -> list[str]:
    """RETURNS (List[str]): A line for each of the first settings that differ."""
    return [
        f"{key} = {json.dumps(new.get(key))}, not {json.dumps(old.get(key))}"
        for key in old | new
        if old.get(key) != new.get(key)
    ][:10]


def requeue(study: "Study", trial: "FrozenTrial") -> None:
    """Have another trial continue a trial that was stopped. Can be called again after a kill.

    study (Study): The study.
    trial (FrozenTrial): The trial, which counts as running.
    """
    from optuna.trial import TrialState

    if trial.number not in find_resumed(study):
        # a trial that was stopped before it drew its values may have given ones
        given = trial.system_attrs.get("fixed_params", {}) | trial.params
        attributes = {RESUMES: trial.number, FOLDER: get_folder(trial)}
        study.enqueue_trial(given, user_attrs=attributes)
    study.tell(trial.number, state=TrialState.FAIL)


def requeue_lost(study: "Study", owner: str | None) -> int:
    """Have other trials continue those that a killed search has left running.

    study (Study): The study.
    owner (Optional[str]): The search, which now runs again. None if no other search shares the
        study.
    RETURNS (int): The number of trials.
    """
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    lost = [t for t in running if owner is None or t.user_attrs.get(OWNER) == owner]
    for trial in lost:
        requeue(study, trial)
    return len(lost)


def get_folder(trial: "FrozenTrial") -> str:
    """RETURNS (str): The name of the folder of a trial. A trial that continues another one uses
    its folder.
    """
    return str(trial.user_attrs.get(FOLDER, trial.number))


def find_resumed(study: "Study") -> set[int]:
    """RETURNS (Set[int]): The numbers of the trials that another trial continues."""
    trials = study.get_trials(deepcopy=False)
    return {t.user_attrs[RESUMES] for t in trials if RESUMES in t.user_attrs}


def count_started(study: "Study") -> int:
    """RETURNS (int): The number of trials that have finished or run."""
    from optuna.trial import TrialState

    resumed = find_resumed(study)
    trials = study.get_trials(deepcopy=False)
    return sum(t.state != TrialState.WAITING and t.number not in resumed for t in trials)


def get_outcomes(study: "Study") -> list[Outcome]:
    """RETURNS (List[Outcome]): The finished trials, in order."""
    from optuna.trial import TrialState

    names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    resumed = find_resumed(study)
    return [
        Outcome(
            trial.number,
            names[trial.state],
            trial.params,
            get_folder(trial),
            **trial.user_attrs.get(RESULT, {}),
        )
        for trial in study.get_trials(deepcopy=False, states=tuple(names))
        if trial.number not in resumed
    ]


def find_importances(study: "Study", names: Sequence[str]) -> dict[str, float]:
    """Estimate how much of the differences in score each dimension explains.

    study (Study): The study.
    names (Sequence[str]): The dimensions.
    RETURNS (Dict[str, float]): Shares by dimension, the largest first. Empty if there are too few
        trials to tell.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(),
                target=lambda trial: trial.user_attrs[RESULT]["score"],
            )
        except (ValueError, RuntimeError):
            return {}
    return {name: share for name, share in found.items() if name in names and share == share}
