"""Heads with a temperature: Guo et al. (2017), "On Calibration of Modern Neural Networks", section
4.2.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias

import numpy
from spacy.training import Example

from ..types import Bools1d, Bools2d, Floats1d, Floats2d
from .base import Head, Scores
from .losses import cross_entropy, softmax
from .siblings import Prediction

# For a temperature: the mean negative log-likelihood per labelled unit in nats, its derivative with
# respect to 1 / temperature, and the number of labelled units.
Likelihood: TypeAlias = Callable[[float], tuple[float, float, int]]
LOWEST, HIGHEST = -80, 10  # the scores between which float32 tells probabilities apart


class CalibratableHead(Head[Scores, Prediction], Generic[Scores, Prediction]):
    """A head that divides its scores by a temperature before they become probabilities. `mtl
    calibrate` fits the temperature, and `mtl report` shows the confidences.

    A subclass also implements `make_nll` and `get_confidences`.
    """

    LEARNED_STATE = {**Head.LEARNED_STATE, "temperature": 1.0}

    @property
    def temperature(self) -> float:
        """RETURNS (float): The divisor of the scores before they become probabilities."""
        temperature: float = self.cfg["temperature"]
        return temperature

    def set_temperature(self, value: float) -> None:
        """Change the temperature. Losses and decisions do not depend on it."""
        self.cfg["temperature"] = value

    @abstractmethod
    def make_nll(self, examples: Sequence[Example], scores: Scores) -> Likelihood:
        """Prepare the likelihood of the gold labels, without label smoothing and loss weights.

        examples (Sequence[Example]): The batch.
        scores: The output of the model for the batch, on the CPU.
        RETURNS (Likelihood): The likelihood as a function of the temperature.
        """

    @abstractmethod
    def get_confidences(
        self, examples: Sequence[Example], scores: Scores, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        """Get the probability of each prediction whose gold label is known.

        examples, scores: The arguments of `make_nll`.
        temperature (float): The divisor of the scores.
        RETURNS (Tuple[Floats1d, Bools1d]): The probability of each prediction, P, and whether it is
            right, P.
        """


class ThresholdHead(CalibratableHead[Scores, Prediction], Generic[Scores, Prediction]):
    """A head that predicts a label from a probability on: the setting `threshold`. A probability is
    the sigmoid of a score divided by the temperature.
    """

    def reset_state(self) -> None:
        if self.temperature != 1:
            self.set_temperature(1.0)  # moves the threshold too
        super().reset_state()

    def set_temperature(self, value: float) -> None:
        """Change the temperature, and move the threshold with the probabilities, so that no
        decision changes.
        """
        threshold = self.cfg["threshold"]
        if 0 < threshold < 1:
            score = self.temperature * math.log(threshold / (1 - threshold))
            # A lower temperature would round all probabilities around the threshold to one value.
            bound = max(score / HIGHEST, score / LOWEST)
            value = max(value, min(bound, self.temperature))
            self.cfg["threshold"] = 1 / (1 + math.exp(-score / value))
        self.cfg["temperature"] = value


def make_softmax_nll(allowed: Bools2d, scores: Floats2d) -> Likelihood:
    """RETURNS (Likelihood): The likelihood of the allowed labels of each row, R x C, under the
    softmax of its scores, R x C.
    """

    def nll(temperature: float) -> tuple[float, float, int]:
        loss, d_scores, n = cross_entropy(scores / temperature, allowed)
        return loss, float(numpy.vdot(d_scores, scores)), n

    return nll


def get_softmax_confidences(
    allowed: Bools2d, scores: Floats2d, temperature: float
) -> tuple[Floats1d, Bools1d]:
    """RETURNS (Tuple[Floats1d, Bools1d]): The probability of the best label of each row with one
    gold label, and whether it is the gold label.
    """
    known = (allowed.sum(axis=1) == 1) & (allowed.shape[1] > 1)
    p, allowed = softmax(scores[known] / temperature), allowed[known]
    best = p.argmax(axis=1)[:, None]
    return p.max(axis=1), numpy.take_along_axis(allowed, best, axis=1)[:, 0]
