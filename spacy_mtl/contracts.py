"""The protocols between components, balancers, loggers and training."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from spacy.language import Language
from spacy.ty import ListenedToComponent, TrainableComponent
from thinc.api import Model

from .types import Settings


@runtime_checkable
class EncoderPipe(ListenedToComponent, Protocol):
    """A component that other components listen to: ours, or one of spaCy or spacy-transformers."""

    name: str


@runtime_checkable
class Listener(Protocol):
    """A layer of a model that reads its output from an encoder, ours or a stock one."""

    upstream_name: str


@runtime_checkable
class TrainingState(Protocol):
    """Has state that is learned in training, besides weights and settings."""

    def state_dict(self) -> Settings:
        """RETURNS (Dict[str, Any]): The state, as JSON can hold it."""

    def load_state_dict(self, state: Settings) -> None:
        """Replace the state by one that `state_dict` returned."""


@runtime_checkable
class ScoreListener(Protocol):
    """Is told the score of each task after an evaluation."""

    def on_scores(self, scores: Mapping[str, float]) -> None:
        """Receive the scores by component name. Higher is better."""


@runtime_checkable
class ModuleOptimizer(Protocol):
    """An optimizer that updates torch modules at once, and clips by component."""

    @property
    def freeze(self) -> Sequence[str]:
        """RETURNS (Sequence[str]): Patterns of names of encoder parameters that do not change."""

    def step_module(self, key: int, module: Any) -> None:
        """Update the weights of a module that have a gradient."""

    def clip_model(self, model: Model[Any, Any]) -> None:
        """Scale the gradients of a thinc model down to the largest norm allowed."""


def find_encoders(nlp: Language) -> dict[str, EncoderPipe]:
    """RETURNS (Dict[str, EncoderPipe]): The enabled components that others may listen to."""
    pipes: list[tuple[str, object]] = [*nlp.pipeline]
    return {name: pipe for name, pipe in pipes if isinstance(pipe, EncoderPipe)}


def find_tasks(nlp: Language) -> dict[str, TrainableComponent]:
    """RETURNS (Dict[str, TrainableComponent]): The enabled components that learn from labels: all
    trainable ones except encoders.
    """
    encoders, pipes = find_encoders(nlp), list[tuple[str, object]](nlp.pipeline)
    return {
        name: pipe
        for name, pipe in pipes
        if isinstance(pipe, TrainableComponent) and pipe.is_trainable and name not in encoders
    }
