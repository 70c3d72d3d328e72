"""The `mtl` commands of the spaCy command line: `python -m spacy mtl`."""

import typer

from . import (  # noqa: F401
    affinity,
    bench,
    calibrate,
    convert,
    cv,
    debug,
    doctor,
    embed,
    errors,
    find_threshold,
    init,
    package,
    report,
    train,
    tune,
)
from .app import mtl_cli


def setup_cli() -> typer.Typer:
    """The target of the `spacy_cli` entry point: importing it has registered the commands.

    RETURNS (Typer): The `mtl` commands.
    """
    return mtl_cli
