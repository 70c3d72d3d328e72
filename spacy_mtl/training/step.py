"""One update of a pipeline: what `mtl train` and `mtl affinity` repeat, and `mtl debug` tries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from typing import Annotated

from spacy.language import Language
from spacy.training import Example
from spacy.ty import TrainableComponent
from thinc.api import Optimizer

from ..arguments import Count, Range, Rate, check
from ..types import Settings

NUMBERS = {
    "dropout": Rate,
    "accumulate_gradient": Count,
    "patience": Annotated[int, Range()],
    "max_epochs": Annotated[int, Range(-1)],
    "max_steps": Annotated[int, Range()],
    "eval_frequency": Count,
}
BeforeUpdate = Callable[[Language, dict[str, int]], None]


@dataclass
class StepSettings:
    """The settings of `[training]` for updates.

    dropout (Iterator[float]): The dropout rate of each update.
    accumulate_gradient (int): The number of parts of a batch whose gradients are added up.
    frozen (Sequence[str]): The components that are not updated.
    annotating (Sequence[str]): The components that annotate the docs for the later ones.
    before_update (Optional[Callable]): Called before each update with the pipeline and
        {"step": int, "epoch": int}.
    """

    dropout: Iterator[float] = field(default_factory=lambda: repeat(0.0))
    accumulate_gradient: int = 1
    frozen: Sequence[str] = ()
    annotating: Sequence[str] = ()
    before_update: BeforeUpdate | None = None

    @classmethod
    def from_training(cls, training: Settings) -> "StepSettings":
        """RETURNS (StepSettings): The settings of the resolved section `[training]`."""
        dropout = training["dropout"]
        return cls(
            repeat(dropout) if isinstance(dropout, float) else dropout,
            training["accumulate_gradient"],
            training["frozen_components"],
            training["annotating_components"],
            training["before_update"],
        )


def train_step(
    nlp: Language,
    optimizer: Optimizer,
    batch: Sequence[Example],
    settings: StepSettings,
    *,
    step: int,
    epoch: int,
    losses: dict[str, float],
    after_part: Callable[[list[Example]], None] = lambda part: None,
) -> None:
    """Update a pipeline once, as spaCy's `train_while_improving` does.

    nlp (Language): The pipeline.
    optimizer (Optimizer): The optimizer. Its schedules advance.
    batch (Sequence[Example]): The batch.
    settings (StepSettings): The settings. The dropout rate advances.
    step (int): The number of the update, from 0.
    epoch (int): The number of the pass over the corpus, from 0.
    losses (Dict[str, float]): Gets the components' losses added.
    after_part (Callable): Called with each part of the batch after its losses were computed. The
        encoder's backward for this part may not have run yet.
    """
    drop = begin_step(nlp, settings, step=step, epoch=epoch)
    for part in split_batch(batch, settings.accumulate_gradient):
        add_gradients(nlp, part, settings, losses, drop)
        after_part(part)
    apply_gradients(nlp, optimizer, settings.frozen)
    optimizer.step_schedules()  # type: ignore[no-untyped-call]


def skip_step(
    nlp: Language, optimizer: Optimizer, settings: StepSettings, *, step: int, epoch: int
) -> None:
    """Advance schedules and call the callback as `train_step` does, without updating weights.

    nlp, optimizer, settings, step, epoch: As in `train_step`.
    """
    begin_step(nlp, settings, step=step, epoch=epoch)
    optimizer.step_schedules()  # type: ignore[no-untyped-call]


def begin_step(nlp: Language, settings: StepSettings, *, step: int, epoch: int) -> float:
    """RETURNS (float): The dropout rate of an update, after `before_update` was called."""
    if settings.before_update:
        settings.before_update(nlp, {"step": step, "epoch": epoch})
    return next(settings.dropout)


def split_batch(batch: Sequence[Example], n_parts: int) -> Iterator[list[Example]]:
    """Split a batch into parts of docs of about one length.

    batch (Sequence[Example]): The batch.
    n_parts (int): The number of parts of equal size.
    YIELDS (List[Example]): The parts with examples, shortest docs first. The last one has the
        examples that remain after the division.
    """
    examples = sorted(batch, key=lambda eg: len(eg.predicted))
    size = len(examples) // n_parts
    bounds = [*(i * size for i in range(n_parts + 1)), len(examples)]
    for start, end in pairwise(bounds):
        if start < end:
            yield examples[start:end]


def add_gradients(
    nlp: Language,
    examples: Sequence[Example],
    settings: StepSettings,
    losses: dict[str, float],
    drop: float,
) -> None:
    """Add the gradients of all components for some examples, without updating weights.

    nlp (Language): The pipeline.
    examples (Sequence[Example]): The examples.
    settings (StepSettings): Says which components are frozen, and which annotate.
    losses (Dict[str, float]): Gets the components' losses added.
    drop (float): The dropout rate.
    """
    nlp.update(
        examples,
        drop=drop,
        losses=losses,
        sgd=False,  # type: ignore[arg-type]
        exclude=settings.frozen,
        annotates=settings.annotating,
    )


def apply_gradients(nlp: Language, optimizer: Optimizer, frozen: Sequence[str] = ()) -> None:
    """Update the weights of all components by the gradients that they have.

    nlp (Language): The pipeline.
    optimizer (Optimizer): The optimizer.
    frozen (Sequence[str]): The components that are not updated.
    """
    for pipe in find_trainable(nlp, frozen).values():
        pipe.finish_update(optimizer)


def find_trainable(nlp: Language, frozen: Sequence[str] = ()) -> dict[str, TrainableComponent]:
    """RETURNS (Dict[str, TrainableComponent]): The components that an update changes, by name."""
    pipes: list[tuple[str, object]] = [*nlp.pipeline]
    return {
        name: pipe
        for name, pipe in pipes
        if name not in frozen
        and isinstance(pipe, TrainableComponent)
        and pipe.is_trainable
        and pipe.model not in (True, False, None)
    }


def check_training(training: Mapping[str, object]) -> None:
    """RAISES (ValueError): M058 if a number of the section `[training]` is out of range."""
    for name, expected in NUMBERS.items():
        check("[training]", name, training[name], expected)
