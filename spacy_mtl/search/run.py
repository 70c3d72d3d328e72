"""Run trials side by side, and keep what the best of them have trained."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Literal, TypeAlias

from spacy.training.loop import DIR_MODEL_BEST, DIR_MODEL_LAST
from thinc.api import Config

from ..errors import Errors
from ..files import locking
from ..training.loop import CHECKPOINT
from .selection import find_best, find_front, get_score
from .space import Space
from .study import (
    FOLDER,
    OWNER,
    RESULT,
    Outcome,
    count_started,
    get_outcomes,
    requeue,
    requeue_lost,
)
from .trial import Evaluation, TrialProcess

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial, TrialState

Stop: TypeAlias = Literal["timeout", "Ctrl-C"]
POLL = 0.2  # seconds between two looks at the trials
TRIALS = "trials"
ID = "search-id"
MAX_FAILURES = 3  # failed trials at the start, after which no other trial is started


@dataclass
class Plan:
    """What to search, and how.

    config (Config): The config, filled. Its score weights give the score to maximize.
    space (Space): The values to vary.
    metrics (Dict[str, str]): The key of the score of each metric, by its name.
    folder (Path): The output folder.
    trials (int): The number of trials of the study.
    workers (int): How many of them to run at once.
    timeout (Optional[float]): Seconds after which the search stops.
    is_pareto (bool): Whether the study maximizes each metric, without pruning.
    is_shared (bool): Whether searches in other folders may use the study.
    arguments (Sequence[str]): More arguments of `spacy mtl train`.
    """

    config: Config
    space: Space
    metrics: dict[str, str]
    folder: Path
    trials: int
    workers: int = 1
    timeout: float | None = None
    is_pareto: bool = False
    is_shared: bool = False
    arguments: Sequence[str] = ()

    def get_trial_folder(self, name: str) -> Path:
        """RETURNS (Path): The folder of a trial."""
        return self.folder / TRIALS / name


@dataclass
class Running:
    """A trial that runs.

    trial (Trial): The trial.
    process (TrialProcess): Its process.
    start (float): When it started, in seconds.
    n_reported (int): How many of its evaluations the study has.
    """

    trial: "Trial"
    process: TrialProcess
    start: float
    n_reported: int = 0


class Search:
    """Runs the trials of a study.

    study (Study): The study.
    plan (Plan): What to search.
    tell (Callable[[str], None]): Gets a line for each finished trial.
    """

    def __init__(self, study: "Study", plan: Plan, tell: Callable[[str], None]) -> None:
        self.study, self.plan, self.tell = study, plan, tell
        self.running: list[Running] = []
        self.start = perf_counter()
        self.n_finished = 0  # by this search
        self.owner = read_id(plan.folder)

    def run(self) -> Stop | None:
        """Run trials until the study has as many as planned, and stop cleanly at Ctrl-C.

        RETURNS (Optional[str]): What has stopped the search before its end. The next search in the
            folder continues the trials that ran then.
        RAISES (ValueError): M268 if all trials fail.
        """
        n_lost = requeue_lost(self.study, self.owner if self.plan.is_shared else None)
        if n_lost:
            self.tell(f"Stopped trials that are continued: {n_lost}")
        if not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(self.plan.space.find_own(self.plan.config))
        try:
            while self.fill_slots():
                sleep(POLL)
                for one in list(self.running):
                    self.advance(one)
                if self.plan.timeout and perf_counter() - self.start > self.plan.timeout:
                    return "timeout"
        except KeyboardInterrupt:
            return "Ctrl-C"
        finally:
            self.stop()
        check_failures(get_outcomes(self.study))
        return None

    def fill_slots(self) -> bool:
        """Start trials up to the number of workers.

        RETURNS (bool): Whether a trial runs.
        """
        while (
            len(self.running) < self.plan.workers
            and count_started(self.study) < self.plan.trials
            and not is_hopeless(get_outcomes(self.study))
        ):
            self.start_trial()
        return bool(self.running)

    def start_trial(self) -> None:
        """Start a trial, or continue one that was stopped."""
        trial = self.study.ask()
        trial.set_user_attr(OWNER, self.owner)
        config = self.plan.space.suggest(trial, self.plan.config)
        is_new = FOLDER not in trial.user_attrs
        folder = self.plan.get_trial_folder(trial.user_attrs.get(FOLDER, str(trial.number)))
        if is_new and folder.exists():  # of a study that is not there any more
            shutil.rmtree(folder)
        env = {}
        if self.plan.workers > 1 and "OMP_NUM_THREADS" not in os.environ:
            env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.plan.workers))
        process = TrialProcess(folder, config, self.plan.arguments, env)
        self.running.append(Running(trial, process, perf_counter()))

    def advance(self, one: Running) -> None:
        """Report the new evaluations of a trial, prune it if they are bad, and finish it if its
        process has ended.
        """
        from optuna.trial import TrialState

        code = one.process.get_exit_code()
        evaluations = one.process.read_evaluations()
        is_pruned = not self.plan.is_pareto and self.report(one, evaluations)
        if code == 0 and evaluations:
            self.finish(one, TrialState.COMPLETE, evaluations)
        elif code is not None:
            self.finish(one, TrialState.FAIL, [])
        elif is_pruned:
            self.finish(one, TrialState.PRUNED, evaluations)

    def report(self, one: Running, evaluations: Sequence[Evaluation]) -> bool:
        """Report the new evaluations of a trial to the study.

        RETURNS (bool): Whether the study prunes the trial at one of them.
        """
        is_pruned = False
        for evaluation in evaluations[one.n_reported :]:
            one.trial.report(evaluation.score, evaluation.step)
            is_pruned |= one.trial.should_prune()
        one.n_reported = max(one.n_reported, len(evaluations))
        return is_pruned

    def finish(self, one: Running, state: "TrialState", evaluations: Sequence[Evaluation]) -> None:
        """Record the result of a trial, and tell it."""
        from optuna.trial import TrialState

        self.running.remove(one)
        one.process.stop()
        values = None
        if evaluations:
            best = max(evaluations, key=lambda e: (e.score, e.step))  # as for model-best
            scores = {n: best.scores.get(key) or 0.0 for n, key in self.plan.metrics.items()}
            result = {"score": best.score, "scores": scores, "step": best.step}
            values = [*scores.values()] if self.plan.is_pareto else [best.score]
        else:
            result = {"error": one.process.describe_failure()}
        one.trial.set_user_attr(RESULT, result)
        if state == TrialState.COMPLETE:
            self.study.tell(one.trial, values)
        else:
            self.study.tell(one.trial, state=state)
        self.n_finished += 1
        outcomes = get_outcomes(self.study)
        self.clean_up(outcomes)
        (own,) = [outcome for outcome in outcomes if outcome.number == one.trial.number]
        self.tell(self.describe(own, outcomes, perf_counter() - one.start))

    def clean_up(self, outcomes: Sequence[Outcome]) -> None:
        """Remove checkpoints, and the pipelines that no rule of selection can choose any more."""
        kept = {outcome.number for outcome in find_front(outcomes)}
        if best := find_best(outcomes):
            kept.add(best.number)
        for outcome in outcomes:
            folder = self.plan.get_trial_folder(outcome.folder)
            shutil.rmtree(folder / DIR_MODEL_LAST, ignore_errors=True)
            (folder / CHECKPOINT).unlink(missing_ok=True)
            if outcome.number not in kept:
                shutil.rmtree(folder / DIR_MODEL_BEST, ignore_errors=True)

    def describe(self, own: Outcome, outcomes: Sequence[Outcome], seconds: float) -> str:
        """RETURNS (str): A line on a finished trial: its scores, the best so far, the time left."""
        text = f"Trial {own.number}: {own.state}"
        if own.score is not None:
            scores = ", ".join(f"{name} {100 * z:.2f}" for name, z in own.scores.items())
            text += f", score {100 * own.score:.2f} ({scores})"
        if own.error:
            first, *rest = own.error.splitlines()
            text += f" ({first}{': ' if rest else ''}{rest[-1].strip() if rest else ''})"
        text += f" in {show_time(seconds)}"
        if best := find_best(outcomes):
            text += f"; best {100 * get_score(best):.2f} (trial {best.number})"
        left = max(self.plan.trials - len(outcomes), 0)
        if left:
            time = left * (perf_counter() - self.start) / self.n_finished
            text += f"; {left} of {self.plan.trials} left, about {show_time(time)}"
        return text

    def stop(self) -> None:
        """Stop the running trials. The next search continues them."""
        from optuna.trial import TrialState

        for one in self.running:
            one.process.stop()
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if trial.user_attrs.get(OWNER) == self.owner:
                requeue(self.study, trial)
        self.running = []


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Hold the output folder of a search.

    folder (Path): The folder, made if it is not there.
    RAISES (ValueError): M274 if another search runs in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locking(folder) as is_free:
        if not is_free:
            raise ValueError(Errors.M274.format(path=folder))
        yield


def read_id(folder: Path) -> str:
    """RETURNS (str): The name of the searches in a folder, by which they find their trials in a
    study that other folders share.
    """
    path = folder / ID
    if not path.exists():
        path.write_text(uuid.uuid4().hex)
    return path.read_text()


def is_hopeless(outcomes: Sequence[Outcome]) -> bool:
    """RETURNS (bool): Whether there are some trials and all of them have failed."""
    return len(outcomes) >= MAX_FAILURES and all(o.state == "failed" for o in outcomes)


def check_failures(outcomes: Sequence[Outcome]) -> None:
    """RAISES (ValueError): M268 if all trials have failed, with the end of the first output."""
    if outcomes and all(outcome.state == "failed" for outcome in outcomes):
        raise ValueError(Errors.M268.format(n=len(outcomes), error=outcomes[0].error))


def show_time(seconds: float) -> str:
    """RETURNS (str): A duration, such as "5 min"."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
