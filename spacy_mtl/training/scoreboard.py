"""Each task's own score at an evaluation, for all that goes by it."""

import warnings
from collections.abc import Mapping
from typing import Any

from spacy.language import Language

from ..errors import Errors, Warnings
from ..heads.head import Head


class ScoreBoard:
    """Tells the scores of the tasks to `spacy-mtl.EarlyStopping.v1`, and leaves them in
    `nlp.meta["task_scores"]`, where corpora look. Of several loggers that have one, the last that
    is set up is listened to.

    nlp (Language): The pipeline, with the frozen components disabled.
    keys (Mapping[str, str]): The score of each task.
    """

    def __init__(self, nlp: Language, keys: Mapping[str, str]) -> None:
        self.nlp, self.keys = nlp, keys
        pipes: dict[str, Any] = dict(nlp.pipeline)
        balancers: list[Any] = [getattr(pipe, "balancer", None) for pipe in pipes.values()]
        self.stoppers = [balancer for balancer in balancers if hasattr(balancer, "observe")]
        self.heads = {task: pipes[task] for task in keys if hasattr(pipes[task], "is_frozen")}
        for stopper in self.stoppers:
            stopper.observer = self
        self._freeze()  # what had stopped in the training before

    def tell(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """Look at an evaluation.

        scores (Mapping[str, Any]): All scores, by their keys.
        RETURNS (Dict[str, float]): The scores of the tasks that have one.
        """
        found = {task: scores.get(key) for task, key in self.keys.items()}
        own = {task: float(score) for task, score in found.items() if score is not None}
        self.nlp.meta["task_scores"] = own
        for stopper in self.stoppers:
            if stopper.observer is self:
                stopper.observe(own)
        self._freeze()
        return own

    def _freeze(self) -> None:
        for stopper in self.stoppers:
            for task in self.heads.keys() & set(stopper.frozen):
                self.heads[task].is_frozen = True


def get_tasks(nlp: Language) -> list[str]:
    """RETURNS (List[str]): The components that train, other than encoders."""
    return [
        name
        for name, pipe in nlp.pipeline
        if getattr(pipe, "is_trainable", False) and not hasattr(pipe, "listening_components")
    ]


def find_keys(nlp: Language, given: Mapping[str, str]) -> dict[str, str]:
    """Find the score of each task: the one with the highest weight of its own score weights. Of
    several heads of a kind it is the one with the head's name, such as "people_ents_f".

    nlp (Language): The pipeline.
    given (Mapping[str, str]): The score to take for a task.
    RETURNS (Dict[str, str]): A score for each task that has one. Other components that would share
        a score have none, and W005 names them.
    RAISES (ValueError): M043 for a task or a score that is not there.
    """
    weights = {task: get_score_weights(nlp, task) for task in get_tasks(nlp)}
    known = set(nlp.config.interpolate()["training"]["score_weights"]).union(*weights.values())
    for task, key in given.items():
        if task not in weights or key not in known:
            raise ValueError(
                Errors.M043.format(task=task, key=key, tasks=list(weights), keys=sorted(known))
            )
    own = {task: key for task, keys in weights.items() if (key := find_key(keys))}
    found = own | dict(given)
    for key in set(found.values()):
        if len(tasks := [task for task in found if found[task] == key]) > 1:
            warnings.warn(Warnings.W005.format(tasks=tasks, key=key))
            found = {task: other for task, other in found.items() if other != key}
    return found


def get_score_weights(nlp: Language, task: str) -> dict[str, float | None]:
    """RETURNS (Dict[str, Optional[float]]): The default weights of the scores of a task alone."""
    weights = dict(nlp.get_pipe_meta(task).default_score_weights or {})
    pipe = nlp.get_pipe(task)
    if isinstance(pipe, Head) and pipe.siblings:
        return {f"{task}_{key}": weight for key, weight in weights.items()}
    return weights


def find_key(weights: Mapping[str, float | None]) -> str | None:
    """RETURNS (Optional[str]): The score with the highest weight, None if no score has one."""
    return max(weights, key=lambda key: weights[key] or 0.0) if any(weights.values()) else None
