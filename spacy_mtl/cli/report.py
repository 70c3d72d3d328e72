"""`spacy mtl report`: the scores of several runs in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option
from wasabi import msg

from ..errors import Errors
from ..report.table import make_table, read_metrics
from . import mtl_cli


@mtl_cli.command("report")
def report_cli(
    metrics: Annotated[list[Path], Argument(help="JSON files of `spacy evaluate --output`")],
    names: Annotated[
        str | None,
        Option("--names", "-n", help="The runs' names, with commas; by default the files' names"),
    ] = None,
    output: Annotated[
        Path | None, Option("--output", "-o", help="The Markdown file to write", dir_okay=False)
    ] = None,
) -> None:
    """
    Compare the scores of several runs.

    Prints a Markdown table with a row for each run: tag_acc, ents_f, ents_p, ents_r and cats_score
    in percent, and words per second. The best of each column is bold.
    """
    try:
        table = report(metrics, None if names is None else names.split(","))
    except ValueError as error:
        msg.fail("Cannot report", error, exits=1)
    print(table, end="")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(table, encoding="utf8")


def report(metrics: Sequence[Path], names: Sequence[str] | None = None) -> str:
    """Make a table of the scores of several runs.

    metrics (Sequence[Path]): JSON files that `spacy evaluate --output` has written.
    names (Optional[Sequence[str]]): A name for each run. Otherwise they have the files' names, or
        their paths if two names are the same.
    RETURNS (str): A Markdown table.
    RAISES (ValueError): M201 or M202 if a file cannot be read, M203 for a wrong number of names.
    """
    if names is None:
        names = [path.stem for path in metrics]
        if len(set(names)) < len(names):
            names = [str(path) for path in metrics]
    if len(names) != len(metrics):
        raise ValueError(
            Errors.M203.format(found=len(names), expected=len(metrics), names=", ".join(names))
        )
    return make_table([name.strip() for name in names], [read_metrics(path) for path in metrics])
