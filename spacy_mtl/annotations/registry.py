"""The registry of annotation layers: the package's own and those of other packages."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import catalogue
from spacy.language import Language

from ..errors import Errors
from .base import AnnotationLayer

annotation_layers = catalogue.create("spacy_mtl", "annotation_layers", entry_points=True)


@runtime_checkable
class LayeredPipe(Protocol):
    """A component that names the layer that it learns, as a head does."""

    layer: AnnotationLayer[object]


def get_layers() -> dict[str, AnnotationLayer[object]]:
    """RETURNS (Dict[str, AnnotationLayer]): All registered layers, by name.
    RAISES (ValueError): M127 if something else is registered.
    """
    layers: dict[str, AnnotationLayer[object]] = {}
    for name, layer in sorted(annotation_layers.get_all().items()):
        is_layer = isinstance(layer, type) and issubclass(layer, AnnotationLayer)
        if not is_layer or layer.name != name:
            raise ValueError(Errors.M127.format(name=name, value=layer))
        layers[name] = layer()
    return layers


def find_layers(nlp: Language, component: str) -> list[AnnotationLayer[object]]:
    """Find the layers that a component writes and learns from, by what its factory assigns.

    nlp (Language): The pipeline.
    component (str): The component's name.
    RETURNS (List[AnnotationLayer]): The layers, the main one first; none if no layer is stored in
        an attribute that the factory assigns.
    """
    return match_layers(nlp.get_pipe_meta(component).assigns, nlp.get_pipe_config(component))


def match_layers(
    attributes: Iterable[str], settings: Mapping[str, Any]
) -> list[AnnotationLayer[object]]:
    """RETURNS (List[AnnotationLayer]): The layers of a component that assigns some attributes and
    has some settings.
    """
    layers = get_layers().values()
    found: dict[str, AnnotationLayer[object]] = {}
    for attribute in attributes:
        own = [layer for layer in layers if attribute in layer.attributes]
        own.sort(key=lambda layer: list(layer.attributes).index(attribute))
        parts = [layer.get_part(settings) for layer in own]
        found |= {layer.name: layer for layer in parts if layer.name not in found}
    return list(found.values())


def name_scores(
    layers: Iterable[AnnotationLayer[object]], defaults: Mapping[str, float | None] | None
) -> dict[str, float | None]:
    """RETURNS (Dict[str, Optional[float]]): The `default_score_weights` of a factory, with the keys
    of a component's own scores, such as those of its group of spans.

    layers (Iterable[AnnotationLayer]): The layers of the component.
    defaults (Optional[Mapping[str, Optional[float]]]): The weights that the factory declares.
    """
    weights = dict(defaults or {})
    for layer in layers:
        weights = {layer.name_score(key): weight for key, weight in weights.items()}
    return weights


def find_scored_layers(score_keys: Iterable[str]) -> list[AnnotationLayer[object]]:
    """RETURNS (List[AnnotationLayer]): All registered layers, divided into the parts that scores
    are about, such as the groups of spans.
    """
    return [part for layer in get_layers().values() for part in layer.find_parts(score_keys)]


def find_main_layer(nlp: Language, component: str) -> AnnotationLayer[object] | None:
    """Find the layer that a component learns.

    nlp (Language): The pipeline.
    component (str): The component's name.
    RETURNS (Optional[AnnotationLayer]): The layer of a head. For other components the main layer by
        what the factory assigns, or None if there is none.
    """
    pipe: object = nlp.get_pipe(component)
    if isinstance(pipe, LayeredPipe):
        return pipe.layer
    return next(iter(find_layers(nlp, component)), None)
