"""Measures which tasks help each other: how a step for one task changes the losses of others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from statistics import mean
from typing import Any, TypeAlias

import torch
from spacy.language import Language
from spacy.training import Example
from spacy.training.loop import create_train_batches
from spacy.util import resolve_dot_names
from thinc.api import Optimizer
from tqdm import tqdm

from ..encoder.model.backward import get_weights
from ..encoder.pipe import SharedEncoder
from ..encoder.training_pass import Balancer, TaskBatch
from ..errors import Errors
from ..heads.base import Head
from ..types import Floats2d, Settings
from .adamw import AdamW
from .loop import resolve_training
from .step import StepSettings, train_step

AnyHead: TypeAlias = Head[Any, Any]
Affinity: TypeAlias = dict[str, dict[str, float]]  # from a task's step to a task's loss
MOST = 8  # the most tasks of which all groupings are tried: 4,140


@dataclass
class Grouping:
    """A split of the tasks into groups.

    groups (List[List[str]]): The tasks of each group.
    affinity (float): The mean, over all tasks, of the affinity from the other tasks of the group. A
        task alone counts as 0.
    """

    groups: list[list[str]]
    affinity: float


class LookaheadBalancer:
    """Measures affinities on the batches of another balancer, and leaves the gradients to it.

    balancer (Balancer): The balancer of the encoder.
    encoder (SharedEncoder): The encoder.
    heads (Mapping[str, Head]): The tasks to measure.
    optimizer (Optimizer): Has the length of a step and the names of frozen weights.

    is_on (bool): Whether to measure.
    examples (Sequence[Example]): The examples of the batch that comes next.
    found (List[Affinity]): The measurements.
    """

    def __init__(
        self,
        balancer: Balancer,
        encoder: SharedEncoder,
        heads: Mapping[str, AnyHead],
        optimizer: Optimizer,
    ) -> None:
        self.balancer, self.encoder = balancer, encoder
        self.heads, self.optimizer = heads, optimizer
        self.is_on = False
        self.examples: Sequence[Example] = []
        self.found: list[Affinity] = []

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        """RETURNS (Tuple[Floats2d, Dict[str, float]]): The result of the balancer, after a
        measurement if `is_on`.
        """
        if self.is_on:
            self.found.append(
                look_ahead(self.encoder, self.heads, batch, self.examples, self.optimizer)
            )
        return self.balancer.combine(batch)

    def check(self, tasks: Sequence[str]) -> None:
        """Check the settings of the balancer."""
        self.balancer.check(tasks)

    def step(self) -> None:
        """Advance the state of the balancer."""
        self.balancer.step()

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename tasks in the state of the balancer."""
        self.balancer.rename(names)

    def state_dict(self) -> Settings:
        """RETURNS (Settings): The state of the balancer."""
        return self.balancer.state_dict()

    def load_state_dict(self, state: Settings) -> None:
        """Replace the state of the balancer."""
        self.balancer.load_state_dict(state)


def measure_affinity(nlp: Language, *, steps: int = 0, every: int = 10) -> Affinity:
    """Train a pipeline by its config and measure affinities at regular intervals.

    nlp (Language): The pipeline, initialized. It is trained.
    steps (int): The number of updates; 0 for `max_steps` of the config.
    every (int): The number of updates from one measurement to the next.
    RETURNS (Affinity): The means over all measurements. NaN for two tasks that never had labels in
        one batch.
    RAISES (ValueError): M058 if a number of `[training]` is out of range, M240 without two tasks
        that share an encoder, M241 if training would not end, M242 if it ended before the first
        measurement.
    """
    training = resolve_training(nlp)
    frozen, optimizer = training["frozen_components"], training["optimizer"]
    steps = steps or training["max_steps"]
    if not steps and training["max_epochs"] < 1:
        raise ValueError(Errors.M241)
    encoder, heads = find_shared_tasks(nlp, frozen)
    (corpus,) = resolve_dot_names(nlp.config.interpolate(), [training["train_corpus"]])
    batches = create_train_batches(nlp, corpus, training["batcher"], training["max_epochs"])
    settings = StepSettings.from_training(training)
    bar = tqdm(islice(batches, steps or None), total=steps or None, disable=None, leave=False)
    with looking_ahead(encoder, heads, optimizer) as lookahead:

        def after_part(part: list[Example]) -> None:
            lookahead.examples = part  # the balancer gets their gradients later

        for step, (epoch, batch) in enumerate(bar):
            lookahead.is_on = (step + 1) % every == 0
            train_step(
                nlp,
                optimizer,
                batch,
                settings,
                step=step,
                epoch=epoch,
                losses={},
                after_part=after_part,
            )
    if not lookahead.found:
        raise ValueError(Errors.M242.format(every=every))
    return get_means(list(heads), lookahead.found)


@contextmanager
def looking_ahead(
    encoder: SharedEncoder, heads: Mapping[str, AnyHead], optimizer: Optimizer
) -> Iterator[LookaheadBalancer]:
    """Put a LookaheadBalancer around the balancer of an encoder for a while.

    YIELDS (LookaheadBalancer): The balancer.
    """
    balancer = encoder.balancer
    encoder.balancer = lookahead = LookaheadBalancer(balancer, encoder, heads, optimizer)
    try:
        yield lookahead
    finally:
        encoder.balancer = balancer


def find_shared_tasks(
    nlp: Language, frozen: Sequence[str] = ()
) -> tuple[SharedEncoder, dict[str, AnyHead]]:
    """RETURNS (Tuple[SharedEncoder, Dict[str, Head]]): The encoder with the most tasks, and these
    tasks by name.
    RAISES (ValueError): M240 if no encoder has two tasks.
    """
    pipes: dict[str, object] = {name: pipe for name, pipe in nlp.pipeline if name not in frozen}
    heads = {name: pipe for name, pipe in pipes.items() if isinstance(pipe, Head)}
    shared = [
        (pipe, {name: heads[name] for name in pipe.listener_map if name in heads})
        for pipe in pipes.values()
        if isinstance(pipe, SharedEncoder)
    ]
    if not shared or len((found := max(shared, key=lambda pair: len(pair[1])))[1]) < 2:
        raise ValueError(Errors.M240.format(pipes=nlp.pipe_names, frozen=list(frozen)))
    return found


def look_ahead(
    encoder: SharedEncoder,
    heads: Mapping[str, AnyHead],
    batch: TaskBatch,
    examples: Sequence[Example],
    optimizer: Optimizer,
) -> Affinity:
    """Measure how a step of the encoder for each task alone changes the losses L of all tasks to
    L': 1 - L'/L. Fifty et al. (2021), "Efficiently Identifying Task Groupings for Multi-Task
    Learning", eq. 1.

    A step follows the task's negative gradient -g. Its length is the encoder's learning rate times
    the norm of the weights W: a rate of `learn_rate * |W| / |g|`, as in LARS (You et al. 2017). So
    the steps of all tasks are equally long, and long enough to change a loss measurably. Losses are
    computed at float32 without dropout. The weights are restored afterwards.

    encoder (SharedEncoder): The encoder.
    heads (Mapping[str, Head]): The tasks whose losses are measured.
    batch (TaskBatch): The gradients of the tasks.
    examples (Sequence[Example]): The examples of the batch.
    optimizer (Optimizer): Has the learning rate, and in `freeze` patterns of frozen weights.
    RETURNS (Affinity): From each task with a gradient to each task with a loss above 0.
    """
    module = encoder.model.transformer
    learn_rate, freeze = optimizer.learn_rate, list[str]()
    if isinstance(optimizer, AdamW):
        learn_rate, freeze = optimizer.encoder_learn_rate, optimizer.freeze
    frozen = {id(p) for n, p in module.named_parameters() if any(fnmatchcase(n, f) for f in freeze)}
    everything = get_weights(module, "params")
    weights = [p for p in everything if id(p) not in frozen]
    length = learn_rate * get_norm(weights)
    examples = [Example(eg.predicted.copy(), eg.reference) for eg in examples]
    before = get_losses(encoder, heads, examples)
    affinity = {}
    for task in [task for task in batch.names if batch.norms[task]]:
        (row,) = batch.get_rows([task], "params")
        parts = zip(everything, torch.split(row, [p.numel() for p in everything]), strict=True)
        gradient = [g.view_as(p) for p, g in parts if id(p) not in frozen]
        rate = length / max(get_norm(gradient), 1e-12)
        with moved(weights, [-rate * g for g in gradient]):
            after = get_losses(encoder, heads, examples)
        affinity[task] = {t: 1 - after[t] / loss for t, loss in before.items() if loss > 0}
    encoder.model.shim.for_prediction.forget()
    return affinity


@contextmanager
def moved(weights: Sequence[torch.nn.Parameter], steps: Sequence[torch.Tensor]) -> Iterator[None]:
    """Move weights for a while. Autograd does not notice changes of `data`, so that the encoder's
    backward can still run.
    """
    saved = [weight.detach().clone() for weight in weights]
    for weight, step in zip(weights, steps, strict=True):
        weight.data.add_(step)
    try:
        yield
    finally:
        for weight, old in zip(weights, saved, strict=True):
            weight.data.copy_(old)


def get_losses(
    encoder: SharedEncoder, heads: Mapping[str, AnyHead], examples: Sequence[Example]
) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The loss of each task that has labels in the examples."""
    model = encoder.model
    model.shim.for_prediction.forget()  # changes of `data` are not detected
    docs = [eg.predicted for eg in examples]
    precision, model.attrs["precision"] = model.attrs["precision"], "float32"
    try:
        encoder.set_annotations(docs, model.predict(docs))
    finally:
        model.attrs["precision"] = precision
    losses = {}
    for task, head in heads.items():
        if any(head.has_labels(eg.reference) for eg in examples):
            loss, _, n = head.loss(examples, head.model.predict(docs))
            if n:
                losses[task] = float(loss)
    return losses


def get_norm(tensors: Sequence[torch.Tensor]) -> float:
    """RETURNS (float): The Euclidean norm of all tensors together."""
    return float(torch.stack([tensor.detach().norm() for tensor in tensors]).norm())


def get_means(tasks: Sequence[str], found: Sequence[Affinity]) -> Affinity:
    """RETURNS (Affinity): The mean of each pair of tasks, NaN for a pair without measurements."""

    def get_mean(source: str, target: str) -> float:
        values = [a[source][target] for a in found if target in a.get(source, {})]
        return mean(values) if values else math.nan

    return {source: {target: get_mean(source, target) for target in tasks} for source in tasks}


def propose_groups(affinity: Affinity) -> list[Grouping]:
    """Find the best split of the tasks into one, two, three ... models.

    affinity (Affinity): The affinity from each task to each task. NaN counts as 0.
    RETURNS (List[Grouping]): For each number of groups the split with the highest affinity.
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
    """YIELDS (List[List[str]]): Each way to split the tasks into groups."""
    if not tasks:
        yield []
        return
    *others, last = tasks
    for groups in split(others):
        for i, group in enumerate(groups):
            yield [*groups[:i], [*group, last], *groups[i + 1 :]]
        yield [*groups, [last]]
