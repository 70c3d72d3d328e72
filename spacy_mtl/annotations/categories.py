"""The layer of categories of docs."""

from collections.abc import Iterable, Mapping, Sequence

from spacy.tokens import Doc
from spacy.training import Example

from .base import AnnotationLayer, Comparison, Item


class Categories(AnnotationLayer[Mapping[str, float]]):
    """Categories of docs, in `doc.cats`: a value from 0 to 1 for each that is known.

    `read_gold` returns the known categories with their values.
    """

    name = "cats"
    attributes = ("doc.cats",)
    unit = "docs"
    score_key = "cats_score"
    is_macro = True

    @property
    def comparison_key(self) -> str:
        return "cats_macro_f"

    def is_annotated(self, doc: Doc) -> bool:
        return bool(doc.cats)

    def get_labels(self, doc: Doc) -> list[str] | None:
        """RETURNS (Optional[List[str]]): The categories of at least 0.5; None if none is known."""
        return [label for label, value in doc.cats.items() if value >= 0.5] if doc.cats else None

    def find_labels(self, docs: Iterable[Doc]) -> list[str]:
        """RETURNS (List[str]): The known categories, also those of 0, in order of appearance."""
        return list(dict.fromkeys(label for doc in docs for label in doc.cats))

    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        target.cats = dict(source.cats)

    def strip(self, doc: Doc) -> None:
        doc.cats = {}

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        doc.cats = {label: value for label, value in doc.cats.items() if label not in labels}

    def read_gold(self, example: Example) -> Mapping[str, float]:
        return example.reference.cats

    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """RETURNS (Optional[Comparison]): The best category if they exclude each other, otherwise
        the known categories from the threshold on. Each spans the whole doc.
        """
        known = {k: v for k, v in example.reference.cats.items() if k in labels}
        found = {label: example.predicted.cats.get(label, 0.0) for label in labels}
        if threshold is not None:
            gold = [label for label in known if known[label] > 0]
            best = [label for label in known if found[label] >= threshold]
        elif any(known.values()):
            gold, best = [max(known, key=known.__getitem__)], [max(found, key=found.__getitem__)]
        else:
            return None
        n = len(example.reference)
        items = [{Item(0, n, label) for label in side} for side in (gold, best)]
        return Comparison(*items) if known else None

    def get_answer(self, doc: Doc) -> dict[str, float]:
        return dict(doc.cats)

    def set_answer(self, doc: Doc, answer: Mapping[str, float]) -> None:
        doc.cats = dict(answer)
