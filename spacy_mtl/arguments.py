"""Checks the arguments of registered functions: types, choices and ranges of numbers."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from .errors import Errors, quote

P = ParamSpec("P")
R = TypeVar("R")
KINDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    NoneType: "null",
    list: "a list",
    dict: "a mapping",
    Callable: "a function",
}


@dataclass(frozen=True)
class Range:
    """A range of finite numbers, used in annotations: `Annotated[float, Range(0, 1)]`.

    least, most (float): The bounds.
    above, below (bool): Whether `least` or `most` itself is outside the range.
    """

    least: float = 0
    most: float = 1e9
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        bounds = ">" if self.above else ">=", "<" if self.below else "<="
        return f"{bounds[0]} {self.least:.10g} and {bounds[1]} {self.most:.10g}"

    def contains(self, value: float) -> bool:
        is_in = self.least <= value <= self.most
        is_excluded = (self.above and value == self.least) or (self.below and value == self.most)
        return is_in and not is_excluded

    def check(self, function: str, name: str, value: object) -> float:
        """Check a number that is not an argument, such as the next value of a schedule.

        function (str): The registered name, for the message.
        name (str): The name of the number, for the message.
        value (object): The number.
        RETURNS (float): The number.
        RAISES (ValueError): M058 if the value is not a number or is outside the range.
        """
        check(function, name, value, Annotated[float, self])
        assert isinstance(value, Real)
        return float(value)


Count = Annotated[int, Range(1)]
Size = Annotated[int, Range(1, 65536)]  # of arrays that are allocated
Seed = Annotated[int, Range(0, 2**32 - 1)]
Rate = Annotated[float, Range(0, 1, below=True)]  # of dropout, smoothing, decay
Share = Annotated[float, Range(0, 1)]
Factor = Annotated[float, Range(-1000, 1000)]  # of a gradient; negative values reverse it


def checked(function: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a registered function, so that its arguments are checked against its annotations.

    function (str): The registered name, for messages.
    RETURNS (Callable): The decorator. The decorated function raises M058 for a wrong argument.
    """

    def decorate(build: Callable[P, R]) -> Callable[P, R]:
        signature, hints = inspect.signature(build), get_type_hints(build, include_extras=True)

        @wraps(build)
        def check_and_build(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                check(function, name, value, hints[name])
            return build(*args, **kwargs)

        # spaCy inspects factories with getfullargspec, which reads only __signature__
        check_and_build.__signature__ = signature  # type: ignore[attr-defined]
        return check_and_build

    return decorate


def check(function: str, name: str, value: object, expected: object) -> None:
    """Check one argument.

    function (str): The registered name, for the message.
    name (str): The name of the argument, for the message.
    value (object): The argument.
    expected (object): Its annotation.
    RAISES (ValueError): M058 if the value has another type, is none of the choices or is outside
        the range.
    """
    origin, args = get_origin(expected), get_args(expected)
    if origin is dict and isinstance(value, dict) and all(fits(key, args[0]) for key in value):
        for key, item in value.items():
            check(function, f"{name}[{key!r}]", item, args[1])
    elif not fits(value, expected):
        raise ValueError(
            Errors.M058.format(
                function=function, name=name, value=value, allowed=describe(expected)
            )
        )


def fits(value: object, expected: object) -> bool:
    """RETURNS (bool): Whether a value conforms to an annotation."""
    origin, args = get_origin(expected) or expected, get_args(expected)
    if origin is Any:
        return True
    if origin is Annotated:
        base, *ranges = args
        return fits(value, base) and all(numbers.contains(value) for numbers in ranges)
    if origin in (Union, UnionType):
        return any(fits(value, choice) for choice in args)
    if origin is Literal:
        return value in args
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(item, args[0]) for item in value)
    if origin is dict:
        items = value.items() if isinstance(value, dict) else [(None, None)]
        return all(fits(k, args[0]) and fits(v, args[1]) for k, v in items)
    if origin in (int, float):
        kind = Integral if origin is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if isinstance(origin, type) and issubclass(origin, Iterator):  # thinc's Generator
        return isinstance(value, Iterator)
    return not isinstance(origin, type) or isinstance(value, origin)


def describe(expected: object) -> str:
    """RETURNS (str): The values that an annotation allows, in words."""
    origin, args = get_origin(expected) or expected, get_args(expected)
    if origin is Annotated:
        return " ".join([describe(args[0]), *map(str, args[1:])])
    if origin in (Union, UnionType):
        return " or ".join(map(describe, args))
    if origin is Literal:
        return f"one of {quote(args)}"
    if isinstance(origin, type) and issubclass(origin, Iterator):
        return "a schedule"
    name = KINDS.get(origin, f"a {getattr(origin, '__name__', origin)}")
    return f"{name} of strings" if origin is list and args == (str,) else name
