"""Mark gold docs with the components that they have labels for."""

from collections.abc import Collection, Iterable
from typing import Any

from spacy.tokens import Doc

from ..concurrency import WeightsLock

KEY = "mtl_components"  # in `user_data`, which copies and serialized docs keep


class Selective:
    """A component that ignores gold docs that are marked for other components. Stock components
    cannot ignore them.

    name (str): The component's name.
    all_heads (Collection[Selective]): All selective components of the pipeline, itself included,
        after an `mtl_transformer` before it has linked them; empty without one.
    lock (WeightsLock): Held while weights are read or changed. An encoder shares its lock with its
        heads.
    """

    name: str
    lock: WeightsLock
    all_heads: Collection[Any] = ()


def is_for(doc: Doc, name: str) -> bool:
    """RETURNS (bool): Whether a gold doc has labels for a component. An unmarked doc has labels for
    all components.
    """
    return name in doc.user_data.get(KEY, (name,))


def mark(doc: Doc, names: Iterable[str]) -> None:
    """Mark a gold doc: it has labels for some components only.

    doc (Doc): The gold doc.
    names (Iterable[str]): The names of the components.
    """
    doc.user_data[KEY] = sorted(names)
