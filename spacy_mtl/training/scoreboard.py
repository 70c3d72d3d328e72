"""Publishes per-task evaluation scores to early stopping and sampling."""

import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from weakref import ReferenceType, WeakKeyDictionary, ref

from spacy.language import Language
from spacy.pipeline import Pipe
from spacy.scorer import Scorer

from ..annotations import find_layers, name_scores
from ..balancing.early_stopping import EarlyStopping
from ..contracts import ScoreListener, find_tasks
from ..encoder.pipe import SharedEncoder
from ..errors import Errors, Warnings, quote
from ..heads.base import Head
from ..types import Settings

# The scoreboard that publishes the scores of a pipeline: of several loggers the one set up last.
PUBLISHERS: WeakKeyDictionary[Language, "ReferenceType[ScoreBoard]"] = WeakKeyDictionary()


class ScoreBoard:
    """Publishes the score of each task to all ScoreListeners, and to corpora through
    `nlp.meta["task_scores"]`. It freezes the heads of tasks that early stopping has stopped.

    Each logger has one. Only the one of the logger that was set up last publishes, so that each
    evaluation counts once.

    nlp (Language): The pipeline, with the frozen components disabled.
    keys (Mapping[str, str]): The key of each task's score.
    RAISES (ValueError): M257 for a score weight of a score that does not exist.
    """

    def __init__(self, nlp: Language, keys: Mapping[str, str]) -> None:
        self.nlp, self.keys = nlp, dict(keys)
        self.listeners = [*find_listeners(nlp)]
        pipes: list[tuple[str, object]] = [*nlp.pipeline]
        self.heads = {n: pipe for n, pipe in pipes if n in keys and isinstance(pipe, Head)}
        PUBLISHERS[nlp] = ref(self)
        check_score_weights(nlp)
        self._freeze()  # tasks that were stopped in an earlier run

    def publish(self, scores: Settings) -> dict[str, float]:
        """Publish the scores of an evaluation.

        scores (Settings): All scores by key.
        RETURNS (Dict[str, float]): The score of each task that has one.
        """
        found = {task: scores.get(key) for task, key in self.keys.items()}
        own = {task: float(score) for task, score in found.items() if score is not None}
        if PUBLISHERS[self.nlp]() is self:
            self.nlp.meta["task_scores"] = own
            for listener in self.listeners:
                listener.on_scores(own)
            self._freeze()
        return own

    def _freeze(self) -> None:
        for listener in self.listeners:
            if isinstance(listener, EarlyStopping):
                for task in self.heads.keys() & set(listener.frozen):
                    self.heads[task].is_frozen = True


def check_score_weights(nlp: Language) -> None:
    """Check that the pipeline has all scores of `[training.score_weights]`.

    nlp (Language): The pipeline, initialized.
    RAISES (ValueError): M257 for a key with a weight that is no score. A weight of null is allowed,
        and so are all keys of a component's own weights: spaCy's tagger has one for "pos_acc".
    """
    weights = nlp.config.interpolate()["training"]["score_weights"]
    known = find_score_keys(nlp)
    frozen = nlp.config.interpolate()["training"]["frozen_components"]
    trained_or_frozen = [n for n in nlp.component_names if n in nlp.pipe_names or n in frozen]
    metas = [nlp.get_pipe_meta(name) for name in trained_or_frozen]
    allowed = known.union(*(meta.default_score_weights or () for meta in metas))
    unknown = [k for k, weight in weights.items() if weight is not None and k not in allowed]
    if known and unknown:
        raise ValueError(Errors.M257.format(unknown=quote(unknown), known=quote(sorted(known))))


def find_score_keys(nlp: Language) -> set[str]:
    """RETURNS (Set[str]): The keys of all scores of a pipeline: of its tokenizer, its components,
    also frozen ones, and its speed. Empty if a scorer of another package fails without examples.
    """
    frozen = nlp.config.interpolate()["training"]["frozen_components"]
    pipes: list[object] = [nlp.get_pipe(name) for name in frozen if name in nlp.component_names]
    try:
        scores = [Scorer(nlp).score([]), *(p.score([]) for p in pipes if isinstance(p, Pipe))]
    except Exception:
        return set()
    return {"speed", *chain.from_iterable(scores)}


def find_listeners(nlp: Language) -> Iterator[ScoreListener]:
    """YIELDS (ScoreListener): The components and balancers of a pipeline that get scores."""
    pipes: list[object] = [pipe for _, pipe in nlp.pipeline]
    balancers = [pipe.balancer for pipe in pipes if isinstance(pipe, SharedEncoder)]
    for candidate in [*pipes, *balancers]:
        if isinstance(candidate, ScoreListener):
            yield candidate


def find_keys(nlp: Language, given: Mapping[str, str]) -> dict[str, str]:
    """Find the score of each task: the one with the highest weight among its own score weights. Of
    several heads of a kind it is the score with the head's name, such as "people_ents_f".

    nlp (Language): The pipeline.
    given (Mapping[str, str]): The key of the score for some tasks.
    RETURNS (Dict[str, str]): The key of the score for each task. Tasks that share a score and are
        not heads of this package have none, and W005 names them.
    RAISES (ValueError): M043 for a task or a key that does not exist.
    """
    weights = {task: get_score_weights(nlp, task) for task in find_tasks(nlp)}
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
    """RETURNS (Dict[str, Optional[float]]): The default weights of the scores of one task."""
    defaults = nlp.get_pipe_meta(task).default_score_weights
    weights = name_scores(find_layers(nlp, task), defaults)
    pipe: object = nlp.get_pipe(task)
    if isinstance(pipe, Head) and pipe.siblings:
        return {f"{task}_{key}": weight for key, weight in weights.items()}
    return weights


def find_key(weights: Mapping[str, float | None]) -> str | None:
    """RETURNS (Optional[str]): The key with the highest weight, None if no key has a weight."""
    return max(weights, key=lambda key: weights[key] or 0.0) if any(weights.values()) else None
