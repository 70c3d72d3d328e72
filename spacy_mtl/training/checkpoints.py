"""The logger `spacy-mtl.TaskCheckpoints.v1`: keeps the best pipeline of each task."""

import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO, TypedDict

import srsly
from spacy.language import Language

from ..arguments import checked
from ..files import replacing
from ..types import Settings
from .logger import LogStep, SetUpLogger
from .scoreboard import ScoreBoard, find_keys


class Evaluation(TypedDict):
    """The step of an evaluation, and the score of each task that has one."""

    step: int
    scores: dict[str, float]


@checked("spacy-mtl.TaskCheckpoints.v1")
def create_task_checkpoints_v1(
    scores: dict[str, str] = {},  # noqa: B006
) -> SetUpLogger:
    """Keep the best pipeline of each task beside model-best.

    model-best-NAME is the pipeline of the first evaluation with the best score of the component
    NAME. pareto.json lists the evaluations that are not dominated: no other one is as good for all
    tasks and better for one. Both are written only if training has an --output.

    The pipelines are copies of model-last. They contain the changes of `before_to_disk` and the
    optimizer's averages, and each takes as much disk space. The best pipelines of an earlier run
    into the same folder stay until their tasks have a score.

    Publishes the scores to `spacy-mtl.EarlyStopping.v1` and to corpora with dynamic sampling.
    Prints nothing: chain it after another logger with `spacy.ChainLogger.v1`.

    scores (Dict[str, str]): The score to follow for a component, such as {"ner": "ents_r"}. By
        default it is the score with the highest weight in the component's own score weights.
    """

    def setup_logger(
        nlp: Language, stdout: TextIO = sys.stdout, stderr: TextIO = sys.stderr
    ) -> tuple[LogStep, Callable[[], None]]:
        return TaskCheckpoints(nlp, find_keys(nlp, scores)).log_step, lambda: None

    return setup_logger


class TaskCheckpoints:
    """Compares each evaluation with the earlier evaluations, task by task.

    nlp (Language): The pipeline, with the frozen components disabled.
    keys (Mapping[str, str]): The key of each task's score.
    """

    def __init__(self, nlp: Language, keys: Mapping[str, str]) -> None:
        self.keys, self.board = dict(keys), ScoreBoard(nlp, keys)
        self.evaluations: list[Evaluation] = []

    def log_step(self, info: Settings | None) -> None:
        """Publish the scores of an evaluation, and copy model-last for each task with a new best
        score.

        info (Optional[Settings]): The info of the training loop, None without an evaluation.
        RAISES (WriteError): M091 if a pipeline cannot be written. The old one is still there.
        """
        if info is None:
            return
        scores = self.board.publish(info["other_scores"])
        best = find_best(self.evaluations)
        self.evaluations.append({"step": info["step"], "scores": scores})
        if "output_path" in info:  # the path of model-last, which was saved before
            last = Path(info["output_path"])
            now = find_best(self.evaluations)
            for task in [task for task in now if now[task] != best.get(task)]:
                with replacing(last.with_name(f"model-best-{task}")) as new:
                    shutil.copytree(last, new)
            front = {"keys": self.keys, "best": now, "front": find_front(self.evaluations)}
            with replacing(last.with_name("pareto.json")) as new:
                srsly.write_json(new, front)


def find_best(evaluations: Sequence[Evaluation]) -> dict[str, int]:
    """RETURNS (Dict[str, int]): The first step at which each task had its highest score."""
    best: dict[str, tuple[float, int]] = {}
    for evaluation in evaluations:
        for task, score in evaluation["scores"].items():
            if score > best.get(task, (-math.inf, 0))[0]:
                best[task] = score, evaluation["step"]
    return {task: step for task, (_, step) in best.items()}


def find_front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """RETURNS (List[Evaluation]): The evaluations that are not dominated: no other one is as good
    for all tasks, and better for one task or earlier.
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
