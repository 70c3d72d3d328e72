"""`spacy mtl report`: compare runs, and show which tasks help each other."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import srsly
from typer import Argument, Option

from ..errors import Errors, quote
from ..extras import get_install_line
from ..report.content import make_report
from ..report.markdown import to_markdown
from ..report.records import Report
from ..report.runs import read_run
from ..report.tables import make_claims, make_tables
from .app import command
from .options import CodePath, GpuId, prepare

PRINTED = ("Alone or together", "What differs", "All runs")


@command("report", "Cannot report")
def report_cli(
    runs: Annotated[
        list[Path],
        Argument(help="Output folders of training runs, or files of `spacy evaluate --output`"),
    ],
    names: Annotated[
        str | None,
        Option("--names", "-n", help="Names of the runs, separated by commas"),
    ] = None,
    data: Annotated[
        Path | None,
        Option("--data", "-d", help=".spacy file, or folder of them, to run the pipelines on"),
    ] = None,
    output: Annotated[
        Path | None, Option("--output", "-o", help="Markdown file to write", dir_okay=False)
    ] = None,
    json: Annotated[
        Path | None, Option("--json", "-j", help="JSON file to write", dir_okay=False)
    ] = None,
    html: Annotated[
        Path | None, Option("--html", "-H", help="HTML page to write", dir_okay=False)
    ] = None,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Compare runs, and show which tasks help each other.

    Prints a Markdown table of the scores of each run, in percent, and its words per second. The
    best of each column is bold.

    With --data, all pipelines are scored on the same data, label by label. Each task that was
    trained both alone and with other tasks is compared, with a significance test. The files also
    show losses, weights and gradients during training. The page of --html opens offline. It starts
    with a verdict, and its tables can be sorted and downloaded.

    Example: python -m spacy mtl report training -d dev.spacy -H page.html
    """
    for path in filter(None, (output, json, html)):
        path.parent.mkdir(parents=True, exist_ok=True)
    make_page = import_page() if html else None
    prepare(code_path, gpu_id, silent=True)
    content = report(runs, None if names is None else names.split(","), data)
    claims, tables = make_claims(content), make_tables(content)
    print(to_markdown([t for t in tables if t.title in PRINTED], claims), end="")
    if output:
        output.write_text(to_markdown(tables, claims), encoding="utf8")
    if json:
        json.write_text(srsly.json_dumps(asdict(content), indent=2), encoding="utf8")
    if html and make_page:
        html.write_text(make_page(content), encoding="utf8")


def report(
    paths: Sequence[Path], names: Sequence[str] | None = None, data: Path | None = None
) -> Report:
    """Build a report of several runs.

    paths (Sequence[Path]): Output folders of training runs, and JSON files of `spacy evaluate
        --output`.
    names (Optional[Sequence[str]]): The names of the runs. By default the names of their files or
        folders, or their paths if two names are equal.
    data (Optional[Path]): A .spacy file, or a folder of .spacy files, for the pipelines to run on.
    RETURNS (Report): The report.
    RAISES (ValueError): M201 to M206 or M230 to M238 if the runs cannot be reported.
    """
    if names is None:
        names = [path.name if path.is_dir() else path.stem for path in paths]
        if len(set(names)) < len(names):
            names = [str(path) for path in paths]
    if len(names) != len(paths):
        raise ValueError(
            Errors.M203.format(found=len(names), expected=len(paths), names=quote(names))
        )
    runs = [read_run(path, name.strip()) for path, name in zip(paths, names, strict=True)]
    return replace(make_report(runs, data), date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")


def import_page() -> Callable[[Report], str]:
    """RETURNS (Callable): The function that makes the page.
    RAISES (ValueError): M237 without matplotlib.
    """
    try:
        from ..report.page import make_page
    except ImportError as error:
        raise ValueError(
            Errors.M237.format(error=error, install=get_install_line("report"))
        ) from error
    return make_page
