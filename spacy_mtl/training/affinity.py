"""Which tasks help each other: what a step for one task does to the losses of the others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice, repeat
from statistics import mean
from typing import Any, TypeAlias

import torch
from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.training import Example
from spacy.training.loop import create_train_batches, subdivide_batch
from spacy.util import registry, resolve_dot_names
from thinc.api import Optimizer, fix_random_seed
from tqdm import tqdm

from ..encoder.hub import TaskBatch
from ..encoder.levels import get_weights
from ..encoder.pipe import SharedEncoder
from ..errors import Errors
from ..heads.head import Head
from ..types import Floats2d

Affinity: TypeAlias = dict[str, dict[str, float]]  # of a task's step to a task's loss
MOST = 8  # tasks of which all groupings are tried: 4,140


@dataclass
class Grouping:
    """A split of the tasks, and the mean affinity onto a task from the others of its group, which
    is 0 for a task that is alone.
    """

    groups: list[list[str]]
    affinity: float


class Lookahead:
    """Looks ahead at each batch on its way to the balancer, which it stands for.

    encoder (SharedEncoder): Whose balancer it is.
    heads (Dict[str, Head]): The tasks to measure.
    optimizer (Optimizer): Tells how long a step is, and what is frozen.

    is_on (bool): Whether to look.
    examples (Sequence[Example]): Of the batch that comes next.
    found (List[Affinity]): What has been measured.
    """

    def __init__(
        self, encoder: SharedEncoder, heads: Mapping[str, Any], optimizer: Optimizer
    ) -> None:
        self.encoder, self.heads, self.optimizer = encoder, heads, optimizer
        self.balancer = encoder.balancer
        self.is_on = False
        self.examples: Sequence[Example] = []
        self.found: list[Affinity] = []

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        if self.is_on:
            self.found.append(
                look_ahead(self.encoder, self.heads, batch, self.examples, self.optimizer)
            )
        return self.balancer.combine(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.balancer, name)


def measure_affinity(nlp: Language, *, steps: int = 0, every: int = 10) -> Affinity:
    """Train a pipeline as its config says, and look ahead now and then.

    nlp (Language): The pipeline, initialized. It is trained.
    steps (int): Updates to make; 0 for `max_steps` of the config.
    every (int): Updates from one look to the next.
    RETURNS (Affinity): The means over all looks, NaN for tasks that were never in one together.
    RAISES (ValueError): M240 without two tasks that share an encoder, M241 if training would not
        end, M242 if it has ended before the first look.
    """
    config = nlp.config.interpolate()
    if config["training"]["seed"] is not None:
        fix_random_seed(config["training"]["seed"])
    T = registry.resolve(config["training"], schema=ConfigSchemaTraining)
    frozen, optimizer = T["frozen_components"], T["optimizer"]
    steps = steps or T["max_steps"]
    if not steps and T["max_epochs"] < 1:
        raise ValueError(Errors.M241)
    encoder, heads = find_tasks(nlp, frozen)
    (corpus,) = resolve_dot_names(config, [T["train_corpus"]])
    batches = create_train_batches(nlp, corpus, T["batcher"], T["max_epochs"])
    drops = repeat(T["dropout"]) if isinstance(T["dropout"], float) else T["dropout"]
    lookahead: Any = Lookahead(encoder, heads, optimizer)
    encoder.balancer = lookahead
    bar = tqdm(islice(batches, steps or None), total=steps or None, disable=None, leave=False)
    try:
        for step, (epoch, batch) in enumerate(bar):
            lookahead.is_on = (step + 1) % every == 0
            if T["before_update"]:
                T["before_update"](nlp, {"step": step, "epoch": epoch})
            drop = next(drops)
            for part in subdivide_batch(batch, T["accumulate_gradient"]):
                nlp.update(
                    part,
                    drop=drop,
                    sgd=False,  # type: ignore[arg-type]
                    exclude=frozen,
                    annotates=T["annotating_components"],
                )
                lookahead.examples = part  # the gradients come to the balancer later
            for name, pipe in nlp.pipeline:
                if name not in frozen and getattr(pipe, "is_trainable", False):
                    pipe.finish_update(optimizer)  # type: ignore[attr-defined]
            optimizer.step_schedules()
    finally:
        encoder.balancer = lookahead.balancer
    if not lookahead.found:
        raise ValueError(Errors.M242.format(every=every))
    return get_means(list(heads), lookahead.found)


def find_tasks(nlp: Language, frozen: Sequence[str] = ()) -> tuple[SharedEncoder, dict[str, Any]]:
    """RETURNS (Tuple[SharedEncoder, Dict[str, Head]]): The encoder that most tasks share, and they.
    RAISES (ValueError): M240 if there are not two.
    """
    pipes = {name: pipe for name, pipe in nlp.pipeline if name not in frozen}
    shared = [
        (pipe, {n: pipes[n] for n in pipe.listener_map if isinstance(pipes.get(n), Head)})
        for pipe in pipes.values()
        if isinstance(pipe, SharedEncoder)
    ]
    if not shared or len((found := max(shared, key=lambda pair: len(pair[1])))[1]) < 2:
        raise ValueError(Errors.M240.format(pipes=nlp.pipe_names, frozen=list(frozen)))
    return found


def look_ahead(
    encoder: SharedEncoder,
    heads: Mapping[str, Any],
    batch: TaskBatch,
    examples: Sequence[Example],
    optimizer: Optimizer,
) -> Affinity:
    """Find what a step of the encoder for one task alone would do to the losses of all: 1 - L'/L.
    Fifty et al. (2021), "Efficiently Identifying Task Groupings for Multi-Task Learning", eq. 1.

    A step goes down the task's gradient g. Its length is the encoder's learning rate times the
    norm of its weights W: a rate of `learn_rate * |W| / |g|`, as in LARS (You et al. 2017). So
    every task's step is equally long, and long enough to be seen in a loss. Losses are measured at
    float32 without dropout. Nothing is changed: the weights are put back as they were.

    encoder (SharedEncoder): The encoder.
    heads (Mapping[str, Head]): The tasks whose losses to measure.
    batch (TaskBatch): What the tasks want of the encoder.
    examples (Sequence[Example]): What it was made of.
    optimizer (Optimizer): Has the learning rate, and in `freeze` patterns of weights that stay.
    RETURNS (Affinity): Of each task with a gradient onto each task with a loss above 0.
    """
    module = encoder.model.transformer
    freeze = getattr(optimizer, "freeze", [])
    frozen = {id(p) for n, p in module.named_parameters() if any(fnmatchcase(n, f) for f in freeze)}
    everything = get_weights(module, "params")
    weights = [p for p in everything if id(p) not in frozen]
    length = getattr(optimizer, "encoder_learn_rate", optimizer.learn_rate) * get_norm(weights)
    examples = [Example(eg.predicted.copy(), eg.reference) for eg in examples]
    before = get_losses(encoder, heads, examples)
    affinity = {}
    for task in [task for task in batch.names if batch.norms[task]]:
        (row,) = batch.get_rows([task], "params")
        parts = zip(everything, row.split([p.numel() for p in everything]), strict=True)
        gradient = [g.view_as(p) for p, g in parts if id(p) not in frozen]
        rate = length / max(get_norm(gradient), 1e-12)
        with moved(weights, [-rate * g for g in gradient]):
            after = get_losses(encoder, heads, examples)
        affinity[task] = {t: 1 - after[t] / loss for t, loss in before.items() if loss > 0}
    encoder.model.layers[0].shims[0].for_prediction.forget()
    return affinity


@contextmanager
def moved(weights: Sequence[torch.nn.Parameter], steps: Sequence[torch.Tensor]) -> Iterator[None]:
    """Move weights for a while. Through `data`, of which the backward to come knows nothing."""
    saved = [weight.detach().clone() for weight in weights]
    for weight, step in zip(weights, steps, strict=True):
        weight.data.add_(step)
    try:
        yield
    finally:
        for weight, old in zip(weights, saved, strict=True):
            weight.data.copy_(old)


def get_losses(
    encoder: SharedEncoder, heads: Mapping[str, Any], examples: Sequence[Example]
) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The loss of each task that the examples have labels for."""
    model = encoder.model
    model.layers[0].shims[0].for_prediction.forget()  # it would not notice that weights moved
    docs = [eg.predicted for eg in examples]
    precision, model.attrs["precision"] = model.attrs["precision"], "float32"
    try:
        encoder.set_annotations(docs, model.predict(docs))
    finally:
        model.attrs["precision"] = precision
    losses = {}
    for task, head in heads.items():
        if any(head.has_labels(eg.reference) for eg in examples):
            loss, _, n = head.get_mean_loss(examples, head.model.predict(docs))
            if n:
                losses[task] = float(loss)
    return losses


def get_norm(tensors: Sequence[torch.Tensor]) -> float:
    return float(torch.stack([tensor.detach().norm() for tensor in tensors]).norm())


def get_means(tasks: Sequence[str], found: Sequence[Affinity]) -> Affinity:
    """RETURNS (Affinity): The means, NaN where there is nothing."""

    def get_mean(source: str, target: str) -> float:
        values = [a[source][target] for a in found if target in a.get(source, {})]
        return mean(values) if values else math.nan

    return {source: {target: get_mean(source, target) for target in tasks} for source in tasks}


def propose_groups(affinity: Affinity) -> list[Grouping]:
    """Find which tasks to train together, if there are to be one, two, three ... models.

    affinity (Affinity): Of each task onto each. One that is not known counts as 0.
    RETURNS (List[Grouping]): For each number of groups the split that has the highest affinity.
    RAISES (ValueError): M243 for more than 8 tasks.
    """
    tasks = list(affinity)
    if len(tasks) > MOST:
        raise ValueError(Errors.M243.format(n=len(tasks), most=MOST))

    def get_affinity(groups: list[list[str]]) -> float:
        gains = [
            mean([z if math.isfinite(z := affinity[i][j]) else 0.0 for i in group if i != j] or [0])
            for group in groups
            for j in group
        ]
        return mean(gains)

    best: dict[int, Grouping] = {}
    for groups in split(tasks):
        found = Grouping(groups, get_affinity(groups))
        if len(groups) not in best or found.affinity > best[len(groups)].affinity:
            best[len(groups)] = found
    return [best[n] for n in sorted(best)]


def split(tasks: Sequence[str]) -> Iterator[list[list[str]]]:
    """YIELDS (List[List[str]]): The tasks in groups, in all ways."""
    if not tasks:
        yield []
        return
    *others, last = tasks
    for groups in split(others):
        for i, group in enumerate(groups):
            yield [*groups[:i], [*group, last], *groups[i + 1 :]]
        yield [*groups, [last]]
