"""The public interface for other packages: heads, balancers, formats and annotation layers.

This module follows semantic versioning: a name is removed, or changes its meaning, only in a new
major version of spacy-mtl. Registered names, such as `spacy-mtl.TaggerHead.v1`, keep their
behaviour; a change gets the next number. All other modules are private and may change at any time.
docs/third_party.md is the tutorial, and lists the names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .annotations import AnnotationLayer, Comparison, Item, get_layers
from .annotations.categories import Categories
from .annotations.relations import make_relation_arcs
from .annotations.spans import Entities
from .annotations.tokens import Pos, Tags, TokenLayer
from .arguments import Count, Factor, Range, Rate, Seed, Share, Size, checked
from .heads.base import Head, show_as
from .heads.calibration import CalibratableHead, Likelihood
from .heads.classifier import ClassifierHead
from .heads.layers import linear, score_docs, score_tokens, skip_empty, with_options
from .heads.loss_weighting import LossWeighting
from .heads.losses import (
    ExampleWeights,
    binary_cross_entropy,
    cross_entropy,
    one_hot,
    sigmoid,
    softmax,
)
from .heads.rating import Rating, RatingHead
from .pairs import make_pair
from .types import (
    Bools1d,
    Bools2d,
    Floats1d,
    Floats2d,
    Floats3d,
    Ints1d,
    Ints2d,
    Settings,
    get_ops,
    get_xp,
)

if TYPE_CHECKING:
    from .balancing.base import GradientBalancer, ScalarBalancer
    from .corpora.formats import FolderFormat, Format
    from .encoder.listener import build_task_listener_v1 as build_task_listener
    from .encoder.training_pass import TaskBatch

# Names whose modules import torch or transformers. They are imported on first use, since spaCy
# imports the factory modules of all packages with every pipeline.
LAZY = {
    "FolderFormat": ("corpora.formats", "FolderFormat"),
    "Format": ("corpora.formats", "Format"),
    "GradientBalancer": ("balancing.base", "GradientBalancer"),
    "ScalarBalancer": ("balancing.base", "ScalarBalancer"),
    "TaskBatch": ("encoder.training_pass", "TaskBatch"),
    "build_task_listener": ("encoder.listener", "build_task_listener_v1"),
}

__all__ = [
    "AnnotationLayer",
    "Bools1d",
    "Bools2d",
    "CalibratableHead",
    "Categories",
    "ClassifierHead",
    "Comparison",
    "Count",
    "Entities",
    "ExampleWeights",
    "Factor",
    "Floats1d",
    "Floats2d",
    "Floats3d",
    "FolderFormat",
    "Format",
    "GradientBalancer",
    "Head",
    "Ints1d",
    "Ints2d",
    "Item",
    "Likelihood",
    "LossWeighting",
    "Pos",
    "Range",
    "Rate",
    "Rating",
    "RatingHead",
    "ScalarBalancer",
    "Seed",
    "Settings",
    "Share",
    "Size",
    "Tags",
    "TaskBatch",
    "TokenLayer",
    "binary_cross_entropy",
    "build_task_listener",
    "checked",
    "cross_entropy",
    "get_layers",
    "get_ops",
    "get_xp",
    "linear",
    "make_pair",
    "make_relation_arcs",
    "one_hot",
    "score_docs",
    "score_tokens",
    "show_as",
    "sigmoid",
    "skip_empty",
    "softmax",
    "with_options",
]


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = LAZY[name]
    return getattr(import_module(f".{module}", __package__), attribute)
