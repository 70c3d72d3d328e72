"""The registry of annotation layers: the package's own and those of other packages."""

import catalogue
from spacy.language import Language

from ..errors import Errors
from .base import AnnotationLayer

annotation_layers = catalogue.create("spacy_mtl", "annotation_layers", entry_points=True)


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
    layers = get_layers().values()
    found: dict[str, AnnotationLayer[object]] = {}
    for attribute in nlp.get_pipe_meta(component).assigns:
        own = [layer for layer in layers if attribute in layer.attributes]
        own.sort(key=lambda layer: list(layer.attributes).index(attribute))
        found |= {layer.name: layer for layer in own if layer.name not in found}
    return list(found.values())
