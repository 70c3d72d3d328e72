"""Isolates functions from the host application's settings. Imports torch only when called."""

from collections.abc import Callable
from functools import wraps
from threading import local
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Isolation(local):
    """Whether the current thread computes with default settings already."""

    is_active = False


ISOLATION = Isolation()


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """RETURNS (Callable): The function, run with torch's and numpy's default settings instead of
    the host application's.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if ISOLATION.is_active:
            return function(*args, **kwargs)
        from .settings import default_settings

        with default_settings():
            ISOLATION.is_active = True
            try:
                return function(*args, **kwargs)
            finally:
                ISOLATION.is_active = False

    return run
