"""Independence from settings of the host application. Imports no torch before it is needed."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def isolated(function: Function) -> Function:
    """RETURNS (Callable): The function, which runs under torch's and numpy's default settings,
    whatever the host application has set.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        from .settings import default_settings

        with default_settings():
            return function(*args, **kwargs)

    return cast(Function, run)
