"""Numbers that change with the training step."""

from collections.abc import Callable, Iterator
from itertools import islice

from .errors import Errors


class Schedule:
    """Gives random access to the values of a thinc schedule.

    A schedule that has ended keeps its last value. Generators cannot be copied: a copy has only the
    values that were computed before it was made.

    given (Union[float, Iterator[float]]): A number for all steps, or a schedule.
    check (Callable[[object], float]): Returns a valid value as a float, or raises an error.
    """

    def __init__(self, given: object, check: Callable[[object], float]) -> None:
        self.check = check
        self.rest: Iterator[object] | None = given if isinstance(given, Iterator) else None
        self.known = [check(given if self.rest is None else next(self.rest, None))]
        self.is_cut = False

    def __getitem__(self, step: int) -> float:
        """RETURNS (float): The value of a step, counted from 0.
        RAISES (ValueError): M087 if this is a copy without this value.
        """
        n_missing = step + 1 - len(self.known)
        if n_missing > 0 and self.is_cut:
            raise ValueError(Errors.M087.format(step=step, n=len(self.known)))
        if n_missing > 0 and self.rest is not None:
            self.known += map(self.check, islice(self.rest, n_missing))
        return self.known[min(step, len(self.known) - 1)]

    def __getstate__(self) -> dict[str, object]:
        is_cut = self.is_cut or self.rest is not None
        return {**self.__dict__, "known": list(self.known), "rest": None, "is_cut": is_cut}
