"""Which components a gold doc has labels for."""

from collections.abc import Collection, Iterable
from typing import Any

from spacy.tokens import Doc

from ..concurrency import WeightsLock

KEY = "mtl_components"  # in the `user_data` of a gold doc: copies and serialized docs keep it


class Selective:
    """A component that reads the labels of a gold doc only if `is_for` allows it. All other
    components read every label of their kind.

    name (str): The component's name.
    peers (Collection[Selective]): All such components of the pipeline, itself included, once an
        `mtl_transformer` before it has linked them.
    lock (WeightsLock): Held while weights are read or changed. An encoder gives its heads its own.
    """

    name: str
    lock: WeightsLock
    peers: Collection[Any] = ()


def is_for(doc: Doc, name: str) -> bool:
    """RETURNS (bool): Whether a gold doc has labels for a component. A doc that no corpus with
    `tasks` has marked is for all components.
    """
    return name in doc.user_data.get(KEY, (name,))


def mark(doc: Doc, names: Iterable[str]) -> None:
    """Mark a gold doc as one with labels for some components only.

    doc (Doc): The gold doc.
    names (Iterable[str]): The components.
    """
    doc.user_data[KEY] = sorted(names)
