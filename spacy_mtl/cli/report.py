"""`spacy mtl report`: what trainings led to, and which tasks help each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import srsly
from spacy.cli._util import import_code, setup_gpu
from typer import Argument, Option

from ..errors import Errors, quote
from ..report.content import make_content
from ..report.runs import read_run
from ..report.table import make_tables, to_markdown
from . import command

PRINTED = ("What differs", "Alone or together", "All runs")


@command("report", "Cannot report")
def report_cli(
    runs: Annotated[
        list[Path],
        Argument(help="Folders of `spacy train --output`, or files of `spacy evaluate --output`"),
    ],
    names: Annotated[
        str | None,
        Option("--names", "-n", help="The runs' names, with commas; by default the files' names"),
    ] = None,
    data: Annotated[
        Path | None,
        Option("--data", "-d", help="A .spacy file, or a folder of them, to run the pipelines on"),
    ] = None,
    output: Annotated[
        Path | None, Option("--output", "-o", help="The Markdown file to write", dir_okay=False)
    ] = None,
    json: Annotated[
        Path | None, Option("--json", "-j", help="The JSON file to write", dir_okay=False)
    ] = None,
    html: Annotated[
        Path | None, Option("--html", "-H", help="The HTML page to write", dir_okay=False)
    ] = None,
    code_path: Annotated[
        Path | None, Option("--code", "-c", help="Python file with registered functions to import")
    ] = None,
    gpu_id: Annotated[int, Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """
    Compare several runs, and tell which tasks help each other.

    Prints a Markdown table with a row for each run: tag_acc, ents_f, ents_p, ents_r and cats_score
    in percent, and words per second. The best of each column is bold.

    With --data the pipelines are scored on it, label by label, and each task that was trained both
    alone and with others is compared, with a test of significance. The files have also what the
    tasks' losses, weights and gradients were in training.
    """
    import_code(code_path)
    for path in filter(None, (output, json, html)):
        path.parent.mkdir(parents=True, exist_ok=True)
    make_page = import_page() if html else lambda _: ""
    setup_gpu(gpu_id, silent=True)
    content = report(runs, None if names is None else names.split(","), data)
    tables = make_tables(content)
    print(to_markdown([table for table in tables if table.title in PRINTED]), end="")
    for path, make_text in (
        (output, lambda: to_markdown(tables)),
        (json, lambda: srsly.json_dumps(content, indent=2)),
        (html, lambda: make_page(content)),
    ):
        if path:
            path.write_text(make_text(), encoding="utf8")


def report(
    paths: Sequence[Path], names: Sequence[str] | None = None, data: Path | None = None
) -> dict[str, Any]:
    """Find out what there is to say of several runs.

    paths (Sequence[Path]): Folders of trainings, and JSON files that `spacy evaluate --output` has
        written.
    names (Optional[Sequence[str]]): A name for each run. Otherwise they have the names of their
        files or folders, or their paths if two names are the same.
    data (Optional[Path]): A .spacy file, or a folder of them, for the pipelines to run over.
    RETURNS (Dict[str, Any]): As of `make_content`.
    RAISES (ValueError): M201 to M205 or M230 to M238 if there is nothing to say of them.
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
    return make_content(runs, data)


def import_page() -> Any:
    """RETURNS (Callable): What makes the page. RAISES (ValueError): M237 without matplotlib."""
    try:
        from ..report.page import make_page
    except ImportError as error:
        raise ValueError(Errors.M237.format(error=error)) from error
    return make_page
