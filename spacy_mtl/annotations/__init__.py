"""One annotation layer per kind of label. Code that depends on the kind asks its layer."""

from .base import AnnotationLayer, Comparison, Item, has_same_tokens
from .registry import (
    annotation_layers,
    find_layers,
    find_main_layer,
    find_scored_layers,
    get_layers,
    match_layers,
    name_scores,
)

__all__ = [
    "AnnotationLayer",
    "Comparison",
    "Item",
    "annotation_layers",
    "find_layers",
    "find_main_layer",
    "find_scored_layers",
    "get_layers",
    "has_same_tokens",
    "match_layers",
    "name_scores",
]
