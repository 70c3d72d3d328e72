"""The base class of heads that choose one label for each unit."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Generic

from spacy.training import Example

from ..types import Bools1d, Bools2d, Floats1d, Floats2d, get_ops
from .calibration import CalibratableHead, Likelihood, get_softmax_confidences, make_softmax_nll
from .losses import cross_entropy
from .siblings import Prediction


class ClassifierHead(CalibratableHead[Floats2d, Prediction], Generic[Prediction]):
    """A head that chooses one label for each token, doc or other unit, by a softmax of its scores,
    R x C. It can be calibrated.

    A subclass sets `layer` and implements `get_targets`, `decode` and `annotate`. The setting
    `label_smoothing` is the share of each target that is spread over all labels.
    """

    @abstractmethod
    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        """Read the gold labels of a batch.

        examples (Sequence[Example]): The batch.
        RETURNS (Bools2d): The labels that the annotation allows for each row of the scores, R x C,
            on the CPU. All labels are allowed where the annotation is missing.
        """

    def loss(self, examples: Sequence[Example], scores: Floats2d) -> tuple[float, Floats2d, int]:
        allowed = get_ops(self.model).asarray(self.get_targets(examples))
        smoothing = self.cfg.get("label_smoothing", 0.0)
        return cross_entropy(scores, allowed, label_smoothing=smoothing, weights=self.get_weights())

    def balance_classes(self, examples: Iterable[Example]) -> dict[str, float]:
        masks = (self.get_targets([example]) for example in examples)
        return balance_classes(self.get_outputs(), masks)

    def make_nll(self, examples: Sequence[Example], scores: Floats2d) -> Likelihood:
        return make_softmax_nll(self.get_targets(examples), scores)

    def get_confidences(
        self, examples: Sequence[Example], scores: Floats2d, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        return get_softmax_confidences(self.get_targets(examples), scores, temperature)


def balance_classes(classes: Sequence[str], targets: Iterable[Bools2d]) -> dict[str, float]:
    """Compute class weights under which all classes that occur have the same total weight.

    classes (Sequence[str]): The class of each output, C.
    targets (Iterable[Bools2d]): Masks of allowed outputs, each R x C.
    RETURNS (Dict[str, float]): The weight of each class that occurs.
    """
    counts = Counter[str]()
    for allowed in targets:
        gold = allowed[allowed.sum(axis=1) == 1].argmax(axis=1)
        counts.update(classes[i] for i in gold.tolist())
    return {label: counts.total() / (len(counts) * n) for label, n in counts.items()}
