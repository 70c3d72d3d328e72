"""The logger `spacy-mtl.TaskCheckpoints.v1`: follows each task's own score."""

import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import srsly
from spacy.language import Language

from ..errors import Errors
from .logger import Finalize, LogStep, get_tasks


def create_task_checkpoints_v1(
    scores: dict[str, str] = {},  # noqa: B006
) -> Callable[..., tuple[LogStep, Finalize]]:
    """Keep the best pipeline of each task beside model-best: model-best-NAME is the one of the
    first evaluation at which the component NAME scored best. pareto.json has the evaluations that
    no other is as good as for all tasks and better for one. Both only if training has an --output.

    The pipelines are copies of model-last: `before_to_disk` and an optimizer's averages are in
    them, and each takes as much room. What was best in an earlier training into the same folder
    stays until a task has a score.

    Tells the scores to `spacy-mtl.EarlyStopping.v1`, which does nothing without. Prints nothing:
    use it behind another in `spacy.ChainLogger.v1`.

    scores (Dict[str, str]): The score to follow for a component, such as {"ner": "ents_r"}; by
        default the one with the highest weight of its own score weights.
    """

    def setup_logger(
        nlp: Language, stdout: IO = sys.stdout, stderr: IO = sys.stderr
    ) -> tuple[LogStep, Finalize]:
        return TaskCheckpoints(nlp, find_keys(nlp, scores)).log_step, lambda: None

    return setup_logger


class TaskCheckpoints:
    """Compares each evaluation with those before, task by task.

    nlp (Language): The pipeline, with the frozen components disabled.
    keys (Dict[str, str]): The score of each task.
    """

    def __init__(self, nlp: Language, keys: Mapping[str, str]) -> None:
        self.keys = keys
        self.evaluations: list[dict[str, Any]] = []
        pipes: dict[str, Any] = dict(nlp.pipeline)
        balancers: list[Any] = [getattr(pipe, "balancer", None) for pipe in pipes.values()]
        self.stoppers = [balancer for balancer in balancers if hasattr(balancer, "observe")]
        self.heads = {task: pipes[task] for task in keys if hasattr(pipes[task], "is_frozen")}
        self._freeze()  # what had stopped in the training before

    def log_step(self, info: dict[str, Any] | None) -> None:
        """Look at an evaluation.

        info (Optional[Dict[str, Any]]): What spaCy's training loop tells of it.
        """
        if info is None:
            return
        found = {task: info["other_scores"].get(key) for task, key in self.keys.items()}
        scores = {task: float(score) for task, score in found.items() if score is not None}
        best = find_best(self.evaluations)
        self.evaluations.append({"step": info["step"], "scores": scores})
        if "output_path" in info:  # of model-last, which is there already
            last = Path(info["output_path"])
            now = find_best(self.evaluations)
            for task in [task for task in now if now[task] != best.get(task)]:
                target = last.with_name(f"model-best-{task}")
                if target.exists():
                    shutil.rmtree(target)
                shutil.copytree(last, target)
            front = {"keys": dict(self.keys), "best": now, "front": find_front(self.evaluations)}
            srsly.write_json(last.with_name("pareto.json"), front)
        for stopper in self.stoppers:
            stopper.observe(scores)
        self._freeze()

    def _freeze(self) -> None:
        for stopper in self.stoppers:
            for task in self.heads.keys() & set(stopper.frozen):
                self.heads[task].is_frozen = True


def find_keys(nlp: Language, given: Mapping[str, str]) -> dict[str, str]:
    """Find the score of each task.

    nlp (Language): The pipeline.
    given (Mapping[str, str]): The score to take for a task.
    RETURNS (Dict[str, str]): A score for each task that has one.
    RAISES (ValueError): M043 for a task or a score that is not there.
    """
    weights = {
        task: dict(nlp.get_pipe_meta(task).default_score_weights or {}) for task in get_tasks(nlp)
    }
    known = set(nlp.config.interpolate()["training"]["score_weights"]).union(*weights.values())
    for task, key in given.items():
        if task not in weights or key not in known:
            raise ValueError(
                Errors.M043.format(task=task, key=key, tasks=list(weights), keys=sorted(known))
            )
    own = {
        task: max(keys, key=lambda key: keys[key] or 0.0)
        for task, keys in weights.items()
        if any(keys.values())
    }
    return own | dict(given)


def find_best(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """RETURNS (Dict[str, int]): The step at which each task had its highest score first."""
    best: dict[str, tuple[float, int]] = {}
    for evaluation in evaluations:
        for task, score in evaluation["scores"].items():
            if score > best.get(task, (-math.inf, 0))[0]:
                best[task] = score, evaluation["step"]
    return {task: step for task, (_, step) in best.items()}


def find_front(evaluations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """RETURNS (List[Mapping[str, Any]]): The evaluations that are not dominated: no other is as
    good for all tasks, and better for one or earlier.
    """
    tasks = {task for evaluation in evaluations for task in evaluation["scores"]}
    points = [[e["scores"].get(t, -math.inf) for t in tasks] for e in evaluations]

    def is_dominated(i: int) -> bool:
        return any(
            all(a >= b for a, b in zip(other, points[i], strict=True))
            and (other != points[i] or j < i)
            for j, other in enumerate(points)
            if j != i
        )

    return [evaluation for i, evaluation in enumerate(evaluations) if not is_dominated(i)]
