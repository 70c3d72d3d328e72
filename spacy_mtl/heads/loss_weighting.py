"""`spacy-mtl.UnitLoss.v1`: weights of hard units and rare classes in a head's loss."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

from thinc.api import Ops

from ..arguments import Range, check, checked
from ..errors import Errors
from ..schedule import Schedule
from .losses import ExampleWeights

NAME = "spacy-mtl.UnitLoss.v1"
KEPT = Range(0, 1, above=True)
Weight: TypeAlias = Annotated[float, Range()]
ClassWeights: TypeAlias = dict[str, Weight] | list[Any] | Literal["balanced"] | None


class LossWeighting:
    """The settings of a head's loss weights. The state is kept by the head.

    gamma, keep, only_wrong, class_weights: The arguments of `create_unit_loss_v1`.
    """

    def __init__(
        self,
        gamma: float,
        keep: object,
        only_wrong: bool,
        class_weights: dict[str, float] | Literal["balanced"],
    ) -> None:
        self.gamma = gamma
        self.keep = Schedule(keep, partial(KEPT.check, NAME, "keep"))
        self.only_wrong = only_wrong
        self.class_weights = class_weights

    def get_weights(self, step: int, class_weights: Sequence[float], ops: Ops) -> ExampleWeights:
        """Get the weights for one update.

        step (int): The number of the head's updates so far.
        class_weights (Sequence[float]): The weight of each output, C.
        ops (Ops): The head's ops, for its device.
        RETURNS (ExampleWeights): The argument of the losses.
        """
        array: Any = ops.asarray1f(list(class_weights))
        return ExampleWeights(self.gamma, self.keep[step], self.only_wrong, array)

    def check_classes(self, name: str, classes: Iterable[str]) -> None:
        """Check that the head has the classes that have a weight.

        RAISES (ValueError): M038 for a weight of a class that the head does not have.
        """
        known = list(dict.fromkeys(classes))
        if unknown := sorted(set(self.class_weights) - set(known)):
            raise ValueError(Errors.M038.format(unknown=unknown, name=name, classes=known))


@checked(NAME)
def create_unit_loss_v1(
    gamma: Annotated[float, Range(0, 100)] = 0.0,
    keep: Any = 1.0,
    only_wrong: bool = False,
    class_weights: ClassWeights = None,
) -> LossWeighting:
    """Weight hard units and rare classes in the loss of a head.

    A unit is what the head labels: a token, a doc, or with several categories one category of a
    doc. The loss is the mean over the selected units, weighted by class. The weights are scaled to
    add up to 1, so they do not change the task's share of the encoder's loss.

    gamma (float): From 0 to 100. Each unit's loss is multiplied by (1 - p) ** gamma, where p is
        the probability of the gold label: the focal loss of Lin et al. (2017), "Focal Loss for
        Dense Object Detection", section 3.
    keep (Union[float, Iterable[float]]): The share of a batch's labelled units to select, the ones
        with the highest cross-entropy, at least one. A number, or a schedule that advances with
        the head's updates. See Shrivastava et al. (2016), "Training Region-based Object Detectors
        with Online Hard Example Mining". With `only_wrong` it is a share of the wrong units.
    only_wrong (bool): Whether to select only units whose best label is wrong.
    class_weights (Optional[Union[Dict[str, float], List[Tuple[str, float]], str]]): Weights by
        label, 1 by default: {"NN": 2.0}, or [["NN", 2.0]] for labels that a config cannot have as
        keys, such as those with ":", "=" or "[". For entities the classes are the entity types and
        "O". With several categories the weight is that of a positive category; a negative one has
        the weight 1. "balanced" computes them at initialization: units / (classes * units of the
        class), and with several categories negatives / positives. They are saved with the head.
    RAISES (ValueError): M058 for an argument out of range, or for weights without a label, which a
        config leaves of such keys. M038, when the head is initialized, for
        a label that the head does not have.
    """
    return LossWeighting(gamma, keep, only_wrong, read_class_weights(class_weights))


def read_class_weights(weights: ClassWeights) -> dict[str, float] | Literal["balanced"]:
    """RETURNS (Union[Dict[str, float], str]): The weights by label, or "balanced".
    RAISES (ValueError): M058 for a list of other items than pairs, or for weights without a label.
    """
    if weights is None or weights == "balanced":
        return weights or {}
    pairs = list(weights.items()) if isinstance(weights, dict) else weights
    if not pairs or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        allowed = 'null, "balanced", or a list of pairs such as [["NN", 2.0]]'
        message = Errors.M058.format(
            function=NAME, name="class_weights", value=weights, allowed=allowed
        )
        raise ValueError(message)
    found: dict[str, float] = dict(pairs)
    check(NAME, "class_weights", found, dict[str, Weight])
    return found
