"""The interface of annotation layers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from spacy.attrs import ORTH
from spacy.tokens import Doc
from spacy.training import Example

Gold = TypeVar("Gold", covariant=True)


class Item(NamedTuple):
    """One label on a span of a doc. A prediction is right if the same item is in the gold doc.

    start (int): The span's first token.
    end (int): The token after its last.
    label (str): The label.
    target (int): The token that the label relates the span to, such as the head of a dependent; -1
        if there is none.
    """

    start: int
    end: int
    label: str
    target: int = -1


class Comparison(NamedTuple):
    """The items of a gold doc and of the predicted doc, both in tokens of the gold doc.

    gold (Set[Item]): The items that are right.
    predicted (Set[Item]): The items that the pipeline found, except where the gold is missing.
    """

    gold: set[Item]
    predicted: set[Item]


class AnnotationLayer(ABC, Generic[Gold]):
    """A kind of label on docs, such as tags, entities or categories.

    A layer has no state. A package adds its own by an entry point in the group
    `spacy_mtl_annotation_layers`: a subclass, under its `name`.

    name (str): The name of the layer, such as "ents".
    attributes (Sequence[str]): The attributes that the layer is stored in, as factories declare
        them in `assigns`, the main one first: ("doc.ents", "token.ent_iob", "token.ent_type").
    unit (str): The unit that has one label, in the plural, such as "entities".
    score_key (str): The key of its main score in spaCy's scores, such as "ents_f".
    detail_keys (Sequence[str]): The keys of further scores, such as ("ents_p", "ents_r").
    comparison_key (str): The score that the items of `compare` sum up to: `score_key`, unless a
        layer has another. It is their micro F, or macro F over the labels if `is_macro`.
    is_macro (bool): Whether `comparison_key` is a macro average.
    is_open (bool): Whether labels come from no fixed set, such as lemmas.
    """

    name: str
    attributes: ClassVar[Sequence[str]]
    unit: ClassVar[str]
    score_key: str
    detail_keys: Sequence[str] = ()
    is_macro: ClassVar[bool] = False
    is_open: ClassVar[bool] = False

    @property
    def comparison_key(self) -> str:
        return self.score_key

    def get_part(self, settings: Mapping[str, Any]) -> "AnnotationLayer[Gold]":
        """Get the part of the annotation that a component learns and writes, as a layer with its
        own name and score keys.

        settings (Mapping[str, Any]): The settings of the component, such as "spans_key".
        RETURNS (AnnotationLayer): The layer, by default this one.
        """
        return self

    def find_parts(self, score_keys: Iterable[str]) -> Sequence["AnnotationLayer[Gold]"]:
        """Find the parts of the annotation that scores are about.

        score_keys (Iterable[str]): The keys of spaCy's scores.
        RETURNS (Sequence[AnnotationLayer]): The layers, by default this one.
        """
        return [self]

    def name_score(self, key: str) -> str:
        """RETURNS (str): The key of a score of the layer, from the key that a factory declares in
        `default_score_weights`. By default it is the same.
        """
        return key

    @abstractmethod
    def is_annotated(self, doc: Doc) -> bool:
        """RETURNS (bool): Whether a doc has the annotation, if only on some of its tokens. A doc
        that is annotated with no label, such as one without entities, has it.
        """

    @abstractmethod
    def get_labels(self, doc: Doc) -> list[str] | None:
        """RETURNS (Optional[List[str]]): The label of each annotated unit; None if the doc does not
        have the annotation.
        """

    def split_label(self, label: str) -> list[str]:
        """RETURNS (List[str]): The labels that a head learns of which the label of a unit consists:
        the label itself by default.
        """
        return [label]

    def find_labels(self, docs: Iterable[Doc]) -> list[str]:
        """RETURNS (List[str]): The labels that gold docs name and that a head learns, each once, in
        the order in which a head numbers them.
        """
        units = {label for doc in docs for label in self.get_labels(doc) or ()}
        return sorted({part for label in units for part in self.split_label(label)})

    @abstractmethod
    def copy(self, source: Doc, target: Doc, start: int = 0) -> None:
        """Copy the annotation. Where it is missing in the source, it is missing in the target.

        source (Doc): The doc to copy from.
        target (Doc): A doc without this annotation. Its tokens are those of the source from
            `start` on: all, or a part of whole sentences.
        start (int): The target's first token in the source.
        """

    @abstractmethod
    def strip(self, doc: Doc) -> None:
        """Remove the annotation, so that it is missing."""

    @abstractmethod
    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        """Remove some labels, as if the doc had never been annotated with them. The rest stays."""

    def find_joined(self, doc: Doc) -> set[int]:
        """RETURNS (Set[int]): The tokens before which a cut would split a labelled span."""
        return set()

    @abstractmethod
    def read_gold(self, example: Example) -> Gold:
        """Read the gold annotation for the predicted tokens.

        example (Example): The example. If both docs have the same tokens, as in nearly all
            training, layers skip the alignment, which takes several times as long.
        RETURNS: The label of each unit, with a value for missing ones. The type is the layer's.
        """

    @abstractmethod
    def compare(
        self, example: Example, labels: Sequence[str], threshold: float | None = None
    ) -> Comparison | None:
        """Compare the prediction with the gold annotation, as spaCy's scorer does.

        example (Example): An example with its prediction.
        labels (Sequence[str]): The labels of the component.
        threshold (Optional[float]): The least probability of a predicted category; None if
            categories are exclusive.
        RETURNS (Optional[Comparison]): The items; None if the gold annotation is missing.
        """

    @abstractmethod
    def get_answer(self, doc: Doc) -> Any:
        """RETURNS: The annotation of a doc, as JSON can hold it."""

    @abstractmethod
    def set_answer(self, doc: Doc, answer: Any) -> None:
        """Replace the annotation of a doc.

        doc (Doc): The doc. Its tokens may have been merged or split.
        answer: An annotation that `get_answer` returned for a doc of the same text.
        """


def has_same_tokens(example: Example) -> bool:
    """RETURNS (bool): Whether both docs of an example have the same words."""
    ours, theirs = example.predicted, example.reference
    return len(ours) == len(theirs) and bool((ours.to_array(ORTH) == theirs.to_array(ORTH)).all())


def has_annotation(doc: Doc, attribute: str) -> bool:
    """RETURNS (bool): Whether a token has the attribute. A doc without tokens has none."""
    return len(doc) > 0 and doc.has_annotation(attribute)
