"""Which labelled units a head's loss looks at, and how much: hard examples and rare classes."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from thinc.api import Ops

from ..arguments import Range, checked
from ..errors import Errors
from ..schedule import Schedule
from .losses import Focus

NAME = "spacy-mtl.UnitLoss.v1"
KEPT = Range(0, 1, above=True)


class UnitLoss:
    """What a head's config says about its loss. The state is the head's own.

    gamma, keep, only_wrong, class_weights: As in `create_unit_loss_v1`.
    """

    def __init__(self, gamma: float, keep: Any, only_wrong: bool, class_weights: Any) -> None:
        self.gamma = gamma
        self.keep = Schedule(keep, partial(KEPT.check, NAME, "keep"))
        self.only_wrong = only_wrong
        self.class_weights = {} if class_weights is None else class_weights

    def get_focus(self, step: int, weights: Sequence[float], ops: Ops) -> Focus:
        """Find out what counts at a step.

        step (int): How often the head has been updated.
        weights (Sequence[float]): The weight of each output, C.
        ops (Ops): The head's, to make arrays.
        RETURNS (Focus): What the losses need to know.
        """
        array = ops.asarray1f(list(weights))  # type: ignore[arg-type]
        return Focus(self.gamma, self.keep[step], self.only_wrong, array)

    def check_classes(self, name: str, classes: Iterable[str]) -> None:
        """RAISES (ValueError): M038 for a weight of a class that the head does not have."""
        known = list(dict.fromkeys(classes))
        if unknown := sorted(set(self.class_weights) - set(known)):
            raise ValueError(Errors.M038.format(unknown=unknown, name=name, classes=known))


@checked(NAME)
def create_unit_loss_v1(
    gamma: Annotated[float, Range(0, 100)] = 0.0,
    keep: Any = 1.0,
    only_wrong: bool = False,
    class_weights: dict[str, Annotated[float, Range()]] | Literal["balanced"] | None = None,
) -> UnitLoss:
    """Turn the loss of a head to what is hard or rare. A unit is what the head labels: a token, a
    doc, or with several categories one category of a doc. The loss is a mean over the units that
    are kept, weighted by class; the weights add up to 1, so that they change no task's share.

    gamma (float): From 0 to 100. Each unit's loss is multiplied by (1 - p) ** gamma, where p is
        the probability of what is right: the focal loss of Lin et al. (2017), "Focal Loss for
        Dense Object Detection", section 3.
    keep (Union[float, Iterable[float]]): The share of a batch's labelled units that counts, those
        with the highest cross-entropy, at least one: a number, or a schedule that moves on with
        the head's updates. See Shrivastava et al. (2016), "Training Region-based Object Detectors
        with Online Hard Example Mining". After `only_wrong` it is the share of what is left.
    only_wrong (bool): Whether only units count whose best label is not right.
    class_weights (Optional[Union[Dict[str, float], str]]): Weights by label, 1 where none is
        given; for entities by type and "O"; for several categories the weight of a category being
        there, against 1 for its not being there. "balanced" finds them at initialization: units /
        (classes * units of the class), and for several categories no / yes. They are saved with
        the head.
    RAISES (ValueError): M058 for an argument out of range; M038, when the head is initialized, for
        a label that it does not have.
    """
    return UnitLoss(gamma, keep, only_wrong, class_weights)
