"""Numbers that change from step to step."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from .errors import Errors


class Schedule:
    """The numbers of a thinc schedule, which can be asked for again. One that has ended keeps its
    last number. A generator cannot be copied: a copy knows what had been asked for until then.

    given (Union[float, Iterator[float]]): A number for all steps, or a schedule.
    check (Callable[[Any], float]): Returns each number, or raises an error.
    """

    def __init__(self, given: Any, check: Callable[[Any], float]) -> None:
        self.check = check
        self.rest: Iterator[Any] | None = given if hasattr(given, "__next__") else None
        self.known = [check(given if self.rest is None else next(self.rest, None))]
        self.is_cut = False

    def __getitem__(self, step: int) -> float:
        """RETURNS (float): The number of a step, counted from 0.
        RAISES (ValueError): M087 for a copy that does not know it.
        """
        n_missing = step + 1 - len(self.known)
        if n_missing > 0 and self.is_cut:
            raise ValueError(Errors.M087.format(step=step, n=len(self.known)))
        if n_missing > 0 and self.rest is not None:
            self.known += map(self.check, islice(self.rest, n_missing))
        return self.known[min(step, len(self.known) - 1)]

    def __getstate__(self) -> dict[str, Any]:
        is_cut = self.is_cut or self.rest is not None
        return {**self.__dict__, "known": list(self.known), "rest": None, "is_cut": is_cut}
