"""The `mtl` commands of the spaCy command line: `python -m spacy mtl`."""

import typer
from spacy.cli._util import app

HELP = "Multi-task learning: convert corpora, and look at what tasks share."

mtl_cli: typer.Typer = typer.Typer(name="mtl", help=HELP, no_args_is_help=True)
app.add_typer(mtl_cli)


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
