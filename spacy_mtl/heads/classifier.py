"""The base class of heads that choose one label for each unit."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic

import numpy
from spacy.training import Example

from ..types import Bools1d, Bools2d, Floats1d, Floats2d, Ints2d, get_ops
from .calibration import Likelihood, get_softmax_confidences, make_softmax_nll
from .losses import cross_entropy, softmax
from .prior import count_masks
from .rating import Rating, RatingHead
from .siblings import Prediction


class ClassifierHead(RatingHead[Floats2d, Prediction], Generic[Prediction]):
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

    def find_places(self, examples: Sequence[Example]) -> list[tuple[int, int, int]]:
        """Find the unit of each row of the scores. A head whose units are neither tokens nor docs
        overrides this, or its labels have no ratings.

        examples (Sequence[Example]): The batch.
        RETURNS (List[Tuple[int, int, int]]): The example, the first predicted token, and the token
            after the last: each token, or each doc if the head does not read tokens.
        """
        lengths = [len(eg.predicted) for eg in examples]
        if not self.reads_tokens:
            return [(i, 0, n) for i, n in enumerate(lengths)]
        return [(i, token, token + 1) for i, n in enumerate(lengths) for token in range(n)]

    def rate_labels(self, examples: Sequence[Example], scores: Floats2d) -> list[list[Rating]]:
        allowed, places = self.get_targets(examples), self.find_places(examples)
        found: list[list[Rating]] = [[] for _ in examples]
        if len(places) != len(allowed):
            return found
        p, names = softmax(scores / self.temperature), self.get_outputs()
        gold, best = allowed.argmax(axis=1), p.argmax(axis=1)
        is_wrong = (allowed.sum(axis=1) == 1) & (gold != best)
        for row in numpy.flatnonzero(is_wrong).tolist():
            (i, start, end), (g, b) = places[row], (gold[row], best[row])
            pair = float(p[row, g]), float(p[row, b])
            found[i].append(Rating(start, end, names[g], names[b], *pair))
        return found
