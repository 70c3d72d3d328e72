"""One annotation layer per kind of label. Code that depends on the kind asks its layer."""

from .base import AnnotationLayer, Comparison, Item, has_same_tokens
from .registry import annotation_layers, find_layers, get_layers

__all__ = [
    "AnnotationLayer",
    "Comparison",
    "Item",
    "annotation_layers",
    "find_layers",
    "get_layers",
    "has_same_tokens",
]
