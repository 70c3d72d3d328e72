"""Gold labels for a component. What a gold doc holds for other components is missing.

Where the predicted tokens are the gold ones, as in nearly all training, nothing has to be aligned,
which takes several times as long.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from spacy.attrs import ENT_IOB, IS_SPACE, ORTH, TAG
from spacy.training import Example

from ..corpora.scope import is_for
from ..types import Ints1d

OUTSIDE = 2  # of ENT_IOB


def has_same_tokens(example: Example) -> bool:
    """RETURNS (bool): Whether both docs of an example have the same words."""
    ours, theirs = example.predicted, example.reference
    return len(ours) == len(theirs) and bool((ours.to_array(ORTH) == theirs.to_array(ORTH)).all())


def get_tags(example: Example, name: str) -> Ints1d:
    """RETURNS (Ints1d): The hash of each token's tag for a component, 0 where none is known or can
    be aligned.
    """
    if not is_for(example.reference, name):
        return numpy.zeros(len(example.predicted), dtype="uint64")
    if has_same_tokens(example):
        return example.reference.to_array(TAG)
    return numpy.array([tag or 0 for tag in example.get_aligned("TAG")], dtype="uint64")


def get_entity_tags(example: Example, name: str) -> Sequence[str | None]:
    """RETURNS (Sequence[Optional[str]]): The BILUO tag of each token for a component, None where
    none is known or can be aligned: what `Example.get_aligned_ner` finds.
    """
    doc = example.reference
    if not is_for(doc, name):
        return [None] * len(example.predicted)
    if not has_same_tokens(example):
        return example.get_aligned_ner()
    tags: Any = numpy.full(len(doc), None, dtype=object)
    if doc.has_annotation("ENT_IOB"):
        tags[(doc.to_array(ENT_IOB) == OUTSIDE) | (doc.to_array(IS_SPACE) == 1)] = "O"
        for ent in doc.ents:
            tags[ent.start : ent.end] = f"I-{ent.label_}"
            tags[ent.start], tags[ent.end - 1] = f"B-{ent.label_}", f"L-{ent.label_}"
            if len(ent) == 1:
                tags[ent.start] = f"U-{ent.label_}"
    return tags.tolist()


def get_cats(example: Example, name: str) -> Mapping[str, float]:
    """RETURNS (Mapping[str, float]): The categories of the doc for a component."""
    return example.reference.cats if is_for(example.reference, name) else {}
