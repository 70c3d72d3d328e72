"""Registration of commands, and their common end: a message and exit code 1 for wrong input."""

import zlib
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer
from spacy.cli._util import app
from spacy.util import logger
from wasabi import msg

HELP = "Multi-task learning: convert corpora, check configs, train, calibrate, compare runs."

mtl_cli: typer.Typer = typer.Typer(name="mtl", help=HELP, no_args_is_help=True)
app.add_typer(mtl_cli)

Options = ParamSpec("Options")
# Errors caused by wrong input or a full disk. Any other error is a bug and keeps its traceback.
EXPECTED = (ValueError, OSError, ImportError, RecursionError, zlib.error)


def command(
    name: str, failure: str, overrides: bool = False
) -> Callable[[Callable[Options, None]], Callable[Options, None]]:
    """Register a command that ends with a message and exit code 1 when its input is wrong.

    name (str): The name of the command after `spacy mtl`.
    failure (str): The title of the message, such as "Cannot train".
    overrides (bool): Whether it takes overrides of a config, such as --training.max_steps 100.
    RETURNS (Callable): The decorator, which returns the function unchanged.
    """
    settings = {"allow_extra_args": overrides, "ignore_unknown_options": overrides}

    def decorate(function: Callable[Options, None]) -> Callable[Options, None]:
        @mtl_cli.command(name, context_settings=settings)
        @wraps(function)
        def run(*args: Options.args, **kwargs: Options.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except EXPECTED as error:
                logger.debug("Traceback of the error below", exc_info=True)  # with --verbose
                msg.fail(failure, str(error) or repr(error), exits=1)

        return function

    return decorate
