"""The layers of numbers and of texts that belong to a doc."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spacy.tokens import Doc
from spacy.training import Example

from ..attributes import CustomAttribute
from ..errors import Errors
from .base import AnnotationLayer, Comparison

SCORES = CustomAttribute("scores")


class Numbers(AnnotationLayer[Mapping[str, float]]):
    """Numbers that belong to a doc, in `doc._.scores`: a dict from names to numbers. A number that
    is None or nan is missing.

    `read_gold` returns the known numbers.
    """

    name = "scores"
    attributes = ("doc._.scores",)
    unit = "docs"
    score_key = "scores_pearson"
    detail_keys = ("scores_spearman", "scores_mae")
    is_open = True

    def is_annotated(self, doc: Doc) -> bool:
        return bool(get_numbers(doc))

    def get_labels(self, doc: Doc) -> list[str] | None:
        """RETURNS (Optional[List[str]]): The names of the known numbers; None if there are none."""
        return list(get_numbers(doc)) or None

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        self.set_answer(target, SCORES.read(source))

    def strip(self, doc: Doc) -> None:
        SCORES.write(doc, None)

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        kept = {name: value for name, value in get_numbers(doc).items() if name not in labels}
        self.set_answer(doc, kept or None)

    def read_gold(self, example: Example) -> Mapping[str, float]:
        return get_numbers(example.reference)

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): None: numbers are not right or wrong."""
        return None

    def get_answer(self, doc: Doc) -> dict[str, float] | None:
        found = SCORES.read(doc)
        return None if found is None else dict(found)

    def set_answer(self, doc: Doc, answer: Mapping[str, float] | None) -> None:
        SCORES.write(doc, None if answer is None else dict(answer))


def get_numbers(doc: Doc) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The known numbers of a doc.
    RAISES (ValueError): M291 if a number is infinite or no number.
    """
    found: dict[str, Any] = SCORES.read(doc) or {}
    known = {}
    for name, value in found.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and (not is_number or math.isinf(value)):
            raise ValueError(Errors.M291.format(name=name, value=value, text=doc.text[:40]))
        if value is not None and not math.isnan(value):
            known[name] = float(value)
    return known


def write_numbers(doc: Doc, numbers: Iterable[tuple[str, float | None]]) -> None:
    """Add numbers to a doc, or replace those of the same names. None is a missing number."""
    SCORES.write(doc, {**(SCORES.read(doc) or {}), **dict(numbers)})
