"""Registration of commands, and their common end: a message and exit code 1 for wrong input."""

import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import TextIOWrapper
from typing import ParamSpec

import typer
from spacy.cli._util import app
from spacy.util import logger
from wasabi import msg

HELP = "Multi-task learning: convert corpora, write and check configs, train, compare, package."

mtl_cli: typer.Typer = typer.Typer(name="mtl", help=HELP, no_args_is_help=True)
app.add_typer(mtl_cli)

Options = ParamSpec("Options")
# Errors caused by wrong input or a full disk. Any other error is a bug and keeps its traceback.
EXPECTED = (ValueError, OSError, ImportError, RecursionError, zlib.error)


@contextmanager
def _plain_output() -> Iterator[None]:
    """Print warnings as sentences without a place in the code, and escape the characters that the
    terminal cannot show.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    formatted = warnings.formatwarning
    warnings.formatwarning = _format_warning
    try:
        yield
    finally:
        warnings.formatwarning = formatted


def _format_warning(message: Warning | str, *place: object, **line: object) -> str:
    return f"Warning: {message}\n"


def command(
    name: str,
    failure: str,
    *,
    overrides: bool = False,
    more_arguments: bool = False,
    group: typer.Typer = mtl_cli,
) -> Callable[[Callable[Options, None]], Callable[Options, None]]:
    """Register a command that ends with a message and exit code 1 when its input is wrong.

    name (str): The name of the command after `spacy mtl`.
    failure (str): The title of the message, such as "Cannot train".
    overrides (bool): Whether it takes overrides of a config, such as --training.max_steps 100.
    more_arguments (bool): Whether it takes arguments besides those it names, in `ctx.args`.
    group (Typer): The group of commands, by default `spacy mtl`.
    RETURNS (Callable): The decorator, which returns the function unchanged.
    """
    settings = {
        "allow_extra_args": overrides or more_arguments,
        "ignore_unknown_options": overrides,
    }

    def decorate(function: Callable[Options, None]) -> Callable[Options, None]:
        @group.command(name, context_settings=settings)
        @wraps(function)
        def run(*args: Options.args, **kwargs: Options.kwargs) -> None:
            try:
                with _plain_output():
                    function(*args, **kwargs)
            except EXPECTED as error:
                logger.debug("Traceback of the error below", exc_info=True)  # with --verbose
                msg.fail(failure, str(error) or repr(error), exits=1)

        return function

    return decorate
