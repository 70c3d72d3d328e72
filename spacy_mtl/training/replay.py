"""Brings a new process to the step of a checkpoint: same batches, schedules and random numbers."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from spacy.language import Language
from thinc.api import Optimizer

from ..errors import Errors
from ..types import Settings
from .resume import (
    get_random_states,
    get_state,
    seed_cupy,
    set_random_states,
    set_state,
    write_checkpoint,
)

T = TypeVar("T")
UNSAVED = ("checkpoints", "output_path")  # entries of an evaluation's info


@runtime_checkable
class Array(Protocol):
    """An array or a number of numpy, cupy or torch."""

    def tolist(self) -> object:
        """RETURNS: The same as lists and numbers of Python."""


class ResumeReplay:
    """Replays the steps before a checkpoint without updating weights, then restores its state.

    Batches are drawn again, so that readers, batchers and schedules reach their state of the
    checkpoint. Evaluations are not repeated: their results are in the checkpoint. In a new run
    there is nothing to replay, and this only records.

    nlp (Language): The pipeline.
    optimizer (Optimizer): The optimizer.
    past (Settings): The checkpoint; empty in a new run.

    step (int): The current step, from 0; -1 before the first.
    n_past (int): The number of steps before the checkpoint.
    evaluations (Dict[int, Settings]): The info for the logger, by the step of the evaluation.
    rng_history (Dict[int, Settings]): The states of random number generators before a batch
        was drawn, by its step, if they differ from the states after the last draw.
    """

    def __init__(self, nlp: Language, optimizer: Optimizer, past: Settings) -> None:
        self.nlp, self.optimizer, self.past = nlp, optimizer, past
        self.step = -1
        self.n_past: int = past.get("step", -1) + 1
        self.evaluations: dict[int, Settings] = {
            info["step"]: info for info in past.get("evaluations", [])
        }
        self.rng_history: dict[int, Settings] = dict(past.get("rng_history", []))

    @property
    def is_past(self) -> bool:
        """RETURNS (bool): Whether the current step is before the checkpoint."""
        return max(self.step, 0) < self.n_past

    def draw(self, batches: Iterable[T]) -> Iterator[T]:
        """YIELDS: The batches. In a resumed run they are those of the first run."""
        after_last: Settings = {}
        for step, stream in enumerate(repeat(iter(batches))):
            if step < self.n_past:
                set_random_states(after_last | self.rng_history.get(step, {}))
            elif step and step == self.n_past:
                self.restore()
            before = get_random_states()
            try:
                batch = next(stream)
            except StopIteration:
                return
            after = get_random_states()
            used = [kind for kind in after if before.get(kind) != after[kind]]
            changed = {
                kind: before[kind]
                for kind in used
                if kind in before and before[kind] != after_last.get(kind)
            }
            if changed:
                self.rng_history[step] = changed
            after_last |= {kind: after[kind] for kind in used}
            self.step = step
            yield batch

    def get_losses(self) -> dict[str, float]:
        """RETURNS (Dict[str, float]): The sums of the losses to continue from, at the last step
        before the checkpoint.
        """
        losses: dict[str, float] = self.past["losses"] if self.step == self.n_past - 1 else {}
        return losses

    def recall(self, words: int) -> Settings:
        """Return the evaluation of the current step from the checkpoint.

        words (int): The number of words in the batches so far.
        RETURNS (Settings): The info for the logger.
        RAISES (ValueError): M062 if the batches of the first run had another number of words.
        """
        info = self.evaluations[self.step]
        if info["words"] != words:
            reason = f"{words} words until step {self.step}, not {info['words']}"
            raise ValueError(Errors.M062.format(reason=reason))
        return info

    def remember(self, info: Mapping[str, object]) -> None:
        """Record the info of an evaluation for the checkpoint."""
        known = {key: value for key, value in info.items() if key not in UNSAVED}
        self.evaluations[self.step] = json.loads(json.dumps(known, default=to_plain, skipkeys=True))

    def save(self, path: Path, losses: Mapping[str, float]) -> None:
        """Write a checkpoint.

        path (Path): The file.
        losses (Mapping[str, float]): The sums of the losses since the last evaluation.
        RAISES (WriteError): M091 if it cannot be written.
        """
        tensors, plain = get_state(self.nlp, self.optimizer)
        plain |= {
            "step": self.step,
            "evaluations": list(self.evaluations.values()),
            "rng_history": list(self.rng_history.items()),
            "losses": {name: float(loss) for name, loss in losses.items()},
        }
        write_checkpoint(path, self.nlp, tensors, plain)
        seed_cupy(self.step)

    def restore(self) -> None:
        """Give the pipeline, the optimizer and the generators the state of the checkpoint."""
        set_state(self.nlp, self.optimizer, self.past["tensors"], self.past)
        seed_cupy(self.step)
        self.past = {}


def to_plain(value: object) -> object:
    """RETURNS: The numbers of an array; the description of any other object."""
    return value.tolist() if isinstance(value, Array) else repr(value)
