"""Try one batch: does each task send a gradient to its encoder?"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from spacy.language import Language
from spacy.training import Example
from spacy.ty import TrainableComponent
from thinc.api import Adam

from ..annotations import AnnotationLayer
from ..contracts import EncoderPipe, find_encoders, find_tasks
from ..corpora.counts import read_labels
from ..corpora.inventory import Corpus, TaskLayers, count_corpora
from ..errors import Errors, Warnings
from ..training.step import StepSettings, add_gradients, apply_gradients
from ..weights import ModelWeights
from .finding import Finding

SAMPLED = 16  # labelled docs of each task to make batches of


@dataclass
class TaskStep:
    """The effect of a batch on a task.

    labelled (bool): Whether the batch has labels for the task.
    loss (float): The loss before training, in nats per labelled unit if `in_nats`, otherwise in
        the unit of the stock component.
    in_nats (bool): Whether the component is a head of spacy-mtl.
    encoder (Optional[str]): The encoder that the component listens to.
    weight (Optional[float]): The weight from the balancer, if there is one.
    gradient (Optional[float]): The norm of the task's gradient at the encoder's output, N x H. A
        stock encoder does not separate the tasks: then it is the norm of the gradient of all tasks
        at the encoder's parameters. None if the encoder is frozen.
    """

    labelled: bool
    loss: float
    in_nats: bool
    encoder: str | None
    weight: float | None
    gradient: float | None


@dataclass
class Received:
    """The gradient of a task that an encoder has received.

    weight (Optional[float]): The weight from the balancer, if there is one.
    norm (float): The norm of the gradient, as in `TaskStep`.
    """

    weight: float | None
    norm: float


def pick_batch(
    examples: Sequence[Example],
    tasks: TaskLayers,
    batcher: Callable[[Iterable[Example]], Iterable[list[Example]]],
) -> list[Example]:
    """Make a batch as training does, with labels for as many tasks as possible.

    examples (Sequence[Example]): The examples to choose from.
    tasks (Mapping[str, Optional[AnnotationLayer]]): The layer of each task.
    batcher (Callable): The batcher of the config.
    RETURNS (List[Example]): Of the batches from a few labelled docs for each task, the one with
        labels for the most tasks.
    """
    counted = [(task, layer) for task, layer in tasks.items() if layer]
    turns = zip_longest(
        *(islice(find_labelled(examples, *pair), SAMPLED) for pair in counted), examples[:SAMPLED]
    )
    sample = {id(eg): eg for turn in turns for eg in turn if eg is not None}

    def count_labelled(batch: list[Example]) -> int:
        return sum(any(read_labels(eg.reference, *pair) for eg in batch) for pair in counted)

    return max(map(list, batcher(sample.values())), key=count_labelled, default=[])


def find_labelled(
    examples: Iterable[Example], task: str, layer: AnnotationLayer[object]
) -> Iterator[Example]:
    """YIELDS (Example): The examples with labels for a task."""
    return (eg for eg in examples if read_labels(eg.reference, task, layer))


def try_batch(
    nlp: Language,
    batch: Sequence[Example],
    tasks: TaskLayers,
    *,
    frozen: Collection[str] = (),
    annotating: Collection[str] = (),
) -> dict[str, TaskStep]:
    """Train on a batch to measure each task's loss and its gradient at the encoder.

    nlp (Language): The pipeline, initialized. The weights of its tasks change.
    batch (Sequence[Example]): The batch.
    tasks (Mapping[str, Optional[AnnotationLayer]]): The layer of each task.
    frozen (Collection[str]): The components that are not trained.
    annotating (Collection[str]): The components that annotate the docs in training.
    RETURNS (Dict[str, TaskStep]): The effect on each task that is not frozen.
    """
    from ..heads.base import Head

    settings = StepSettings(frozen=[*frozen], annotating=[*annotating])
    losses = start_heads(nlp, batch, settings)
    received = measure_gradients(nlp, batch, settings)
    upstream = {
        task: name for name, pipe in find_encoders(nlp).items() for task in pipe.listener_map
    }
    counts = count_corpora({"": Corpus(list(batch))}, tasks)[""].tasks
    steps = {}
    for task, head in find_tasks(nlp).items():
        if task not in frozen:
            source, loss = upstream.get(task), float(losses.get(task, 0.0))
            own = received[source].get(task, Received(None, 0.0)) if source in received else None
            steps[task] = TaskStep(
                labelled=counts[task].units > 0 if task in counts else loss != 0,
                loss=loss,
                in_nats=isinstance(head, Head),
                encoder=source,
                weight=own.weight if own else None,
                gradient=own.norm if own else None,
            )
    return steps


def start_heads(
    nlp: Language, batch: Sequence[Example], settings: StepSettings
) -> dict[str, float]:
    """Update the tasks once, but not the encoders. New output layers are zero, and pass no
    gradient on before they are updated.

    nlp (Language): The pipeline.
    batch (Sequence[Example]): The batch.
    settings (StepSettings): The frozen and the annotating components.
    RETURNS (Dict[str, float]): The losses before the update.
    """
    losses: dict[str, float] = {}
    add_gradients(nlp, batch, settings, losses, drop=0.0)
    apply_gradients(nlp, Adam(0.0), [*settings.frozen, *find_tasks(nlp)])
    apply_gradients(nlp, Adam(0.001), [*settings.frozen, *find_encoders(nlp)])
    return losses


def measure_gradients(
    nlp: Language, batch: Sequence[Example], settings: StepSettings
) -> dict[str, dict[str, Received]]:
    """RETURNS (Dict[str, Dict[str, Received]]): For each encoder that is not frozen, the gradient
    of each task for a batch.
    """
    encoders = {n: pipe for n, pipe in find_encoders(nlp).items() if n not in settings.frozen}
    for encoder in encoders.values():
        take_gradients(encoder)  # of earlier batches
    add_gradients(nlp, batch, settings, {}, drop=0.0)
    return {name: take_gradients(encoder) for name, encoder in encoders.items()}


def take_gradients(encoder: EncoderPipe) -> dict[str, Received]:
    """RETURNS (Dict[str, Received]): The gradient of each task that an encoder has received. Its
    statistics are reset.
    """
    from ..encoder.pipe import SharedEncoder

    if isinstance(encoder, SharedEncoder):
        encoder.flush()
        means = encoder.diagnostics.take()
        return {task: Received(mean["weight"], mean["grad_norm"]) for task, mean in means.items()}
    models = {encoder.name: encoder.model} if isinstance(encoder, TrainableComponent) else {}
    norm = ModelWeights(models).get_norm()
    return {task: Received(None, norm) for task in encoder.listener_map}


def check_steps(steps: Mapping[str, TaskStep]) -> list[Finding]:
    """Find tasks that the encoder does not learn from.

    steps (Mapping[str, TaskStep]): The effect of a batch on each task.
    RETURNS (List[Finding]): M225 if the gradient does not reach the encoder, W224 if its weight is
        0, W225 if the component listens to no encoder, W230 if the batch has no labels for it.
    """
    findings = []
    for task, step in steps.items():
        if step.encoder is None:
            findings.append(Finding(Warnings.W225.format(task=task)))
        elif not step.labelled:
            findings.append(Finding(Warnings.W230.format(task=task)))
        elif step.gradient is not None and not 0 < step.gradient < math.inf:
            message = Errors.M225.format(
                task=task, encoder=step.encoder, gradient=step.gradient, loss=step.loss
            )
            findings.append(Finding(message, is_failure=True))
        elif step.weight == 0:
            findings.append(Finding(Warnings.W224.format(task=task, encoder=step.encoder)))
    return findings
