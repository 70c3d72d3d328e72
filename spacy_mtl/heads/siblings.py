"""Heads of the same kind in one pipeline. They write to the same attribute of a doc, so each keeps
its own answers and is scored by them.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Generic, TypeVar

from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example

from ..annotations import AnnotationLayer
from ..corpora.scope import Selective, is_for
from ..types import Settings

Prediction = TypeVar("Prediction")
ANSWERS = "mtl_answers"  # in `doc.user_data`: the answer of each head by its name


class ScoredHead(Selective, TrainablePipe, Generic[Prediction]):  # type: ignore[misc]
    """A component that is scored as if it were the only one of its annotation layer.

    layer (AnnotationLayer): The kind of label that the head learns and writes.
    """

    layer: AnnotationLayer[object]

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (Tuple[str]): The labels of the head."""
        raise NotImplementedError

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Prediction]) -> None:
        """Write predictions to docs."""
        raise NotImplementedError

    @property
    def siblings(self) -> list["ScoredHead[Prediction]"]:
        """RETURNS (List[ScoredHead]): The other heads of the pipeline with the same annotation
        layer, sorted by name.
        """
        heads = [head for head in self.all_heads if isinstance(head, ScoredHead)]
        others = [h for h in heads if h.layer.name == self.layer.name and h.name != self.name]
        return sorted(others, key=lambda head: head.name)

    def set_annotations(self, docs: Iterable[Doc], predictions: Sequence[Prediction]) -> None:
        """Write predictions to docs. A head with siblings also keeps them in
        `doc.user_data["mtl_answers"]` under its name.

        docs (Iterable[Doc]): The docs.
        predictions (Sequence): The result of `predict` for them.
        """
        docs = list(docs)
        self.annotate(docs, predictions)
        if self.siblings:
            for doc, prediction in zip(docs, predictions, strict=True):
                answers = doc.user_data.setdefault(ANSWERS, {})
                answers[self.name] = self.get_answer(doc, prediction)

    def get_answer(self, doc: Doc, prediction: Prediction) -> object:
        """RETURNS: A prediction for a doc, in the format of the layer's `get_answer`."""
        own = doc.copy()
        self.layer.strip(own)
        self.annotate([own], [prediction])
        return self.layer.get_answer(own)

    def set_answer(self, doc: Doc, answer: Any) -> None:
        """Replace the annotation of a doc by a result of `get_answer`."""
        self.layer.set_answer(doc, answer)

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        """Remove the labels of siblings from a gold doc."""
        self.layer.remove_labels(doc, labels)

    def isolate(self, example: Example) -> Example | None:
        """Give an example the answers and gold labels of this head alone.

        example (Example): An example with its prediction. It is not changed.
        RETURNS (Optional[Example]): The example as this head alone would have it; None if its gold
            labels are not for this head.
        """
        if not is_for(example.reference, self.name):
            return None
        answers = example.predicted.user_data.get(ANSWERS, {})
        siblings = self.siblings
        if not siblings or self.name not in answers:
            return example
        predicted, reference = example.predicted.copy(), example.reference.copy()
        self.set_answer(predicted, answers[self.name])
        others = {label for head in siblings for label in head.labels}
        self.remove_labels(reference, others.difference(self.labels))
        return Example(predicted, reference)

    def score(self, examples: Iterable[Example], **kwargs: object) -> Settings:
        """Score the examples whose gold labels are for this head.

        With siblings, the scores of the head NAME have keys such as NAME_ents_f, and spaCy's own
        keys, such as ents_f, hold the means over the head and its siblings.

        examples (Iterable[Example]): The examples with their predictions.
        **kwargs: Arguments of the scorer.
        RETURNS (Dict[str, Any]): The scores.
        """
        examples = list(examples)
        own = self.score_alone(examples, **kwargs)
        siblings = self.siblings
        if not siblings:
            return own
        by_head = {self.name: own}
        for head in siblings:
            if any(head.name in eg.predicted.user_data.get(ANSWERS, ()) for eg in examples):
                by_head[head.name] = head.score_alone(examples, **kwargs)
        scores = merge_scores([by_head[name] for name in sorted(by_head)])
        return scores | {f"{self.name}_{key}": value for key, value in own.items()}

    def score_alone(self, examples: Iterable[Example], **kwargs: object) -> Settings:
        """RETURNS (Dict[str, Any]): The scores of this head under spaCy's keys. All are None if no
        example has gold labels for this head.
        """
        isolated = [own for eg in examples if (own := self.isolate(eg)) is not None]
        scores: Settings = super().score(isolated, **kwargs)
        if isolated:
            return scores
        return {key: value if isinstance(value, str) else None for key, value in scores.items()}


def merge_scores(scores: Sequence[Settings]) -> Settings:
    """Merge the scores of several heads of one kind.

    scores (Sequence[Dict[str, Any]]): The scores of each head; None for an unknown one.
    RETURNS (Dict[str, Any]): The means of numbers, the union of dicts, and the joined texts.
    """
    merged: Settings = {}
    for key in dict.fromkeys(key for own in scores for key in own):
        values = [own[key] for own in scores if own.get(key) is not None]
        if not values:
            merged[key] = None
        elif isinstance(values[0], Mapping):
            merged[key] = {label: value for own in values for label, value in own.items()}
        elif isinstance(values[0], str):
            merged[key] = ", ".join(dict.fromkeys(values))
        else:
            merged[key] = fmean(values)
    return merged
