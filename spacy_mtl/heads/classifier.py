"""The base class of heads that choose one label for each unit."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic

from spacy.training import Example

from ..types import Bools1d, Bools2d, Floats1d, Floats2d, Ints2d, get_ops
from .calibration import CalibratableHead, Likelihood, get_softmax_confidences, make_softmax_nll
from .losses import cross_entropy
from .prior import count_masks
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

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d:
        masks = (self.get_targets([example]) for example in examples)
        return count_masks(masks, len(self.get_outputs()))

    def make_nll(self, examples: Sequence[Example], scores: Floats2d) -> Likelihood:
        return make_softmax_nll(self.get_targets(examples), scores)

    def get_confidences(
        self, examples: Sequence[Example], scores: Floats2d, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        return get_softmax_confidences(self.get_targets(examples), scores, temperature)
