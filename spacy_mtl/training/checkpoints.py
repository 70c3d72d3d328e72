"""The logger `spacy-mtl.TaskCheckpoints.v1`: follows each task's own score."""

import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import srsly
from spacy.language import Language

from ..arguments import checked
from ..files import replacing
from .logger import Finalize, LogStep
from .scoreboard import ScoreBoard, find_keys


@checked("spacy-mtl.TaskCheckpoints.v1")
def create_task_checkpoints_v1(
    scores: dict[str, str] = {},  # noqa: B006
) -> Callable[..., tuple[LogStep, Finalize]]:
    """Keep the best pipeline of each task beside model-best: model-best-NAME is the one of the
    first evaluation at which the component NAME scored best. pareto.json has the evaluations that
    no other is as good as for all tasks and better for one. Both only if training has an --output.

    The pipelines are copies of model-last: `before_to_disk` and an optimizer's averages are in
    them, and each takes as much room. What was best in an earlier training into the same folder
    stays until a task has a score.

    Tells the scores to `spacy-mtl.EarlyStopping.v1` and to corpora that are drawn by them. Prints
    nothing: use it behind another in `spacy.ChainLogger.v1`.

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
        self.keys, self.board = dict(keys), ScoreBoard(nlp, keys)
        self.evaluations: list[dict[str, Any]] = []

    def log_step(self, info: dict[str, Any] | None) -> None:
        """Look at an evaluation.

        info (Optional[Dict[str, Any]]): What spaCy's training loop tells of it.
        RAISES (ValueError): M091 if a pipeline cannot be written. The one before is still there.
        """
        if info is None:
            return
        scores = self.board.tell(info["other_scores"])
        best = find_best(self.evaluations)
        self.evaluations.append({"step": info["step"], "scores": scores})
        if "output_path" in info:  # of model-last, which is there already
            last = Path(info["output_path"])
            now = find_best(self.evaluations)
            for task in [task for task in now if now[task] != best.get(task)]:
                with replacing(last.with_name(f"model-best-{task}")) as new:
                    shutil.copytree(last, new)
            front = {"keys": self.keys, "best": now, "front": find_front(self.evaluations)}
            with replacing(last.with_name("pareto.json")) as new:
                srsly.write_json(new, front)


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
