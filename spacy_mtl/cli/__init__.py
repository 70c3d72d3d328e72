"""The `mtl` commands of the spaCy command line: `python -m spacy mtl`."""

import zlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import typer
from spacy.cli._util import app, show_validation_error
from spacy.util import load_config, logger
from thinc.api import Config
from wasabi import msg

from ..errors import Errors

HELP = "Multi-task learning: convert corpora, and look at what tasks share."

mtl_cli: typer.Typer = typer.Typer(name="mtl", help=HELP, no_args_is_help=True)
app.add_typer(mtl_cli)

SECTIONS = ("nlp", "components", "corpora", "training", "initialize")
Command = TypeVar("Command", bound=Callable[..., None])
# What wrong input and a full disk lead to. Anything else is a bug, and gets a traceback.
EXPECTED = (ValueError, OSError, ImportError, RecursionError, zlib.error)


def command(name: str, failure: str, overrides: bool = False) -> Callable[[Command], Command]:
    """Register a command that ends with a message and exit code 1 when its input is wrong.

    name (str): What the command is called after `spacy mtl`.
    failure (str): The title of the message, such as "Cannot train".
    overrides (bool): Whether it takes overrides of a config, such as --training.max_steps 100.
    """
    settings = {"allow_extra_args": overrides, "ignore_unknown_options": overrides}

    def decorate(function: Command) -> Command:
        @mtl_cli.command(name, context_settings=settings)
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except EXPECTED as error:
                logger.debug("Traceback of the error below", exc_info=True)  # with --verbose
                msg.fail(failure, str(error) or repr(error), exits=1)

        return function

    return decorate


def read_config(path: Path, overrides: dict[str, Any]) -> Config:
    """RETURNS (Config): A config for training, not interpolated.
    RAISES (ValueError): M209 if a section is missing that spaCy does not fill in itself.
    """
    with show_validation_error(path):
        config = load_config(path, overrides=overrides, interpolate=False)
    if missing := [f"[{name}]" for name in SECTIONS if name not in config]:
        raise ValueError(Errors.M209.format(path=path, missing=", ".join(missing)))
    return config


def setup_cli() -> typer.Typer:
    """The target of the `spacy_cli` entry point: importing it has registered the commands.

    RETURNS (Typer): The `mtl` commands.
    """
    return mtl_cli


from .affinity import affinity_cli  # noqa: E402, F401
from .bench import bench_cli  # noqa: E402, F401
from .calibrate import calibrate_cli  # noqa: E402, F401
from .convert import convert_cli  # noqa: E402, F401
from .debug import debug_cli  # noqa: E402, F401
from .find_threshold import find_threshold_cli  # noqa: E402, F401
from .report import report_cli  # noqa: E402, F401
from .train import train_cli  # noqa: E402, F401
