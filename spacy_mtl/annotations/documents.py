"""The layers of numbers and of texts that belong to a doc."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spacy.tokens import Doc
from spacy.training import Example

from ..attributes import CustomAttribute, get_values
from ..errors import Errors
from .base import AnnotationLayer, Comparison, Item

SCORES = CustomAttribute("scores")
DEFAULT_TEXT = "generated"  # the attribute that `mtl_seq2seq` writes by default


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


class Texts(AnnotationLayer[Mapping[str, str]]):
    """Texts that belong to a doc, in custom attributes: all attributes that are strings, or the one
    of a component. None is missing; an empty text is not.

    `read_gold` returns the text of each attribute. The score key of all texts is that of the
    default attribute, "generated".

    attribute (Optional[str]): The name of the only attribute; None for all.
    """

    name = "texts"
    attributes = (f"doc._.{DEFAULT_TEXT}",)
    unit = "docs"
    is_open = True

    def __init__(self, attribute: str | None = None) -> None:
        self.attribute = attribute
        if attribute is not None:
            self.name = f"texts_{attribute}"
        prefix = f"texts_{attribute or DEFAULT_TEXT}"
        self.score_key, self.detail_keys = f"{prefix}_chrf", (f"{prefix}_exact",)

    @property
    def comparison_key(self) -> str:
        return self.detail_keys[0]

    def get_part(self, settings: Mapping[str, Any]) -> "Texts":
        return Texts(settings.get("attribute"))

    def find_parts(self, score_keys: Iterable[str]) -> list["Texts"]:
        matches = [re.fullmatch("texts_(.+)_chrf", key) for key in score_keys]
        return [Texts(match[1]) for match in matches if match] or [self]

    def name_score(self, key: str) -> str:
        default = f"texts_{DEFAULT_TEXT}_"
        is_other = self.attribute is not None and key.startswith(default)
        return f"texts_{self.attribute}_{key.removeprefix(default)}" if is_other else key

    def get_texts(self, doc: Doc) -> dict[str, str]:
        """RETURNS (Dict[str, str]): The known texts of a doc that belong to the layer.
        RAISES (ValueError): M295 if the layer's only attribute is no string.
        """
        values = get_values(doc)
        if self.attribute is None:
            return {name: value for name, value in values.items() if isinstance(value, str)}
        value = values.get(self.attribute)
        if value is not None and not isinstance(value, str):
            message = Errors.M295.format(name=self.attribute, value=value, text=doc.text[:40])
            raise ValueError(message)
        return {} if value is None else {self.attribute: value}

    def is_annotated(self, doc: Doc) -> bool:
        return bool(self.get_texts(doc))

    def get_labels(self, doc: Doc) -> list[str] | None:
        """RETURNS (Optional[List[str]]): The texts; None if there are none."""
        return list(self.get_texts(doc).values()) or None

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        self.write(target, self.get_texts(source))

    def strip(self, doc: Doc) -> None:
        self.write(doc, dict.fromkeys(self.get_texts(doc)))

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        found = self.get_texts(doc)
        self.write(doc, {name: None for name, text in found.items() if text in labels})

    def read_gold(self, example: Example) -> Mapping[str, str]:
        return self.get_texts(example.reference)

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The text of each attribute that the gold doc has. All
        items are about the whole doc.
        """
        gold, n = self.get_texts(example.reference), len(example.reference)
        if not gold:
            return None
        found = self.get_texts(example.predicted)
        sides = gold, {name: found[name] for name in gold if name in found}
        return Comparison(*({Item(0, n, text) for text in side.values()} for side in sides))

    def get_answer(self, doc: Doc) -> dict[str, str]:
        return self.get_texts(doc)

    def set_answer(self, doc: Doc, answer: Mapping[str, str]) -> None:
        self.strip(doc)
        self.write(doc, answer)

    def write(self, doc: Doc, texts: Mapping[str, str | None]) -> None:
        """Set the texts of some attributes, or remove them if they are None."""
        for name, text in texts.items():
            CustomAttribute(name).write(doc, text)
