"""Heads that tell how probable gold labels are, by which likely annotation errors are found."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple

from spacy.training import Example

from .base import Scores
from .calibration import CalibratableHead
from .siblings import Prediction


class Rating(NamedTuple):
    """A gold label that a head contradicts.

    start, end (int): The first predicted token of the unit, and the token after its last.
    gold, predicted (str): The gold label and the predicted one.
    p_gold, p_predicted (float): Their probabilities.
    """

    start: int
    end: int
    gold: str
    predicted: str
    p_gold: float
    p_predicted: float


class RatingHead(CalibratableHead[Scores, Prediction], Generic[Scores, Prediction]):
    """A head that knows the probability of any gold label. `mtl errors` ranks its contradictions.

    A subclass also implements `rate_labels`.
    """

    @abstractmethod
    def rate_labels(self, examples: Sequence[Example], scores: Scores) -> Sequence[list[Rating]]:
        """Find the gold labels that differ from the most probable ones.

        examples (Sequence[Example]): The batch.
        scores: The output of the model for the batch, on the CPU.
        RETURNS (Sequence[List[Rating]]): The contradicted labels of each example, in order. Units
            without a gold label have none.
        """
