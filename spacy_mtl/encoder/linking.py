"""Links listeners and heads to an encoder, and follows their names."""

import warnings
from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from thinc.api import Model

from ..corpora.scope import Selective
from ..errors import Errors, Warnings
from . import stock
from .layer_mix import get_numbers
from .listener import TaskListener
from .model.transformer import SharedTransformer

T = TypeVar("T")


class ListenerSet(WeakSet[T], Generic[T]):
    """Objects linked to an encoder, as long as they exist. spaCy's own map lacks components that
    are disabled while it links the others.
    """

    def __reduce__(self) -> tuple[type, tuple[list[T]]]:
        return ListenerSet, (list(self),)


class ListenedTo:
    """Keeps the listeners of an encoder, by the contract of spaCy's `ListenedToComponent`.

    name (str): The encoder's component name.
    model (SharedTransformer): The encoder.
    listener_map (Dict[str, List[Model]]): The listeners of each enabled component.
    all_listeners (ListenerSet[Model]): Those of disabled components too.
    heads (ListenerSet[Selective]): Our heads of the pipeline, also behind other encoders.
    readers (Set[str]): The components that listen and do not learn.
    sourced (List[Pipe]): The components that were disabled when the pipeline was initialized.
    """

    name: str
    model: SharedTransformer

    def __init__(self) -> None:
        self.listener_map: dict[str, list[Any]] = {}
        self.all_listeners: ListenerSet[Any] = ListenerSet()
        self.heads: ListenerSet[Selective] = ListenerSet()
        self.readers: set[str] = set()
        self.sourced: list[Any] = []

    @property
    def listeners(self) -> list[Any]:
        """RETURNS (List[Model]): The listeners of enabled components. Usually internal."""
        return [listener for own in self.listener_map.values() for listener in own]

    @property
    def listening_components(self) -> list[str]:
        """RETURNS (List[str]): The enabled components that listen. Usually internal."""
        return list(self.listener_map)

    @property
    def tasks(self) -> list[str]:
        """RETURNS (List[str]): The enabled components that listen and learn."""
        return [name for name in self.listener_map if name not in self.readers]

    def add_listener(self, listener: Any, component_name: str) -> None:
        """Link a listener. Usually internal.

        listener (Model): The listener.
        component_name (str): Its component.
        RAISES (ValueError): M073 if it asks for layers that the encoder lacks.
        """
        own = self.listener_map.setdefault(component_name, [])
        if listener not in own:
            own.append(listener)
        if self.model.has_dim("nO") and listener.has_dim("nO") is None:
            listener.set_dim("nO", self.model.get_dim("nO"))
        for other in [known for known in self.all_listeners if known.task == component_name]:
            if other not in own:  # of a component that has been replaced
                self.all_listeners.discard(other)
        listener.task = component_name
        if isinstance(listener, TaskListener):
            listener.sample = {}
        self.all_listeners.add(listener)
        self.ask_for_layers()

    def remove_listener(self, listener: Any, component_name: str) -> bool:
        """Unlink a listener. Usually internal.

        listener (Model): The listener.
        component_name (str): Its component.
        RETURNS (bool): Whether it was linked.
        """
        self.all_listeners.discard(listener)
        own = self.listener_map.get(component_name, [])
        if listener not in own:
            return False
        # A new list: `nlp.replace_listeners` iterates over the old one meanwhile.
        left = self.listener_map[component_name] = [other for other in own if other is not listener]
        if not left:
            del self.listener_map[component_name]
        return True

    def find_listeners(self, component: Any) -> None:
        """Link the listeners of a component, ours and spacy-transformers'.

        component (Pipe): The component.
        RAISES (ValueError): M070 if it was trained with an encoder of another width.
        """
        model = getattr(component, "model", None)  # any component, such as a function
        nodes = list(model.walk()) if isinstance(model, Model) else []
        for node in nodes:
            if not (isinstance(node, TaskListener) or stock.is_stock_listener(node)):
                continue
            if node.upstream_name in ("*", self.name):
                self.add_listener(node, component.name)
        if nodes:
            learns = getattr(component, "is_trainable", True)
            (self.readers.discard if learns else self.readers.add)(component.name)
        if isinstance(component, ListenedTo):
            component.heads = self.heads  # encoders of a pipeline share the set of heads
        if isinstance(component, Selective):
            self._add_head(component)
        if nodes and component.name in self.listener_map:
            self._check_width(component.name)
            for node in nodes:
                if (pooling := stock.get_pooling(node)) not in (None, "reduce_mean"):
                    warnings.warn(Warnings.W001.format(name=component.name, pooling=pooling))

    def _add_head(self, head: Selective) -> None:
        for replaced in [known for known in self.heads if known.name == head.name]:
            self.heads.discard(replaced)
        self.heads.add(head)
        head.all_heads = self.heads
        if head.name in self.listener_map:
            head.lock = self.model.lock

    def link_sourced(self) -> None:
        """Link the sourced components again. spaCy disables them while it initializes the others,
        and does not link them afterwards.
        """
        for component in self.sourced:
            self.find_listeners(component)

    def ask_for_layers(self) -> None:
        """Tell the encoder which layers listeners read, if any reads more than the last, and
        whether any reads shares.
        """
        asked: set[int] = set()
        for listener in self.listeners:
            layers = listener.attrs.get("layers")
            if layers is not None and self.model.attrs["has_transformer"]:
                last = self.model.transformer.config.num_hidden_layers
                numbers = get_numbers(layers, last)
                listener.attrs["layers"] = list(numbers)
                asked.update(numbers)
        self.model.attrs["layers"] = sorted(asked) or None
        self.model.attrs["shares"] = any(own.attrs.get("shares") for own in self.listeners)

    def get_names(self) -> Mapping[str, ListenerSet[Any]]:
        """RETURNS (Mapping[str, ListenerSet]): The listeners of each task, disabled ones too."""
        named: dict[str, ListenerSet[Any]] = {}
        for listener in self.all_listeners:
            if listener.task in self.readers:
                continue
            named.setdefault(listener.task, ListenerSet()).add(listener)
        return named

    def _check_width(self, task: str) -> None:
        width = self.model.maybe_get_dim("nO")
        for listener in self.listener_map[task]:
            found = listener.maybe_get_dim("nO")
            if width and found and found != width:
                raise ValueError(
                    Errors.M070.format(task=task, found=found, encoder=self.name, expected=width)
                )
