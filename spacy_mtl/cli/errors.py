"""`spacy mtl errors`: gold labels that a model contradicts with confidence."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option
from wasabi import msg

from ..errors import Errors
from ..extras import get_install_line
from .app import command
from .options import CodePath, GpuId, prepare

if TYPE_CHECKING:
    from ..validation.suspects import Suspect

WIDTH = 60  # characters of texts in the terminal


@command("errors", "Cannot find errors")
def errors_cli(
    source: Annotated[
        str, Argument(help="Output folder of `mtl cv`, or name or folder of a pipeline")
    ],
    data: Annotated[
        Path | None,
        Argument(help="For a pipeline: gold data, a .spacy file or a folder of .spacy files"),
    ] = None,
    output: Annotated[
        Path | None,
        Option("--output", "-o", help="File to write: .csv or .html", dir_okay=False),
    ] = None,
    limit: Annotated[
        int, Option("--limit", "-n", min=1, help="How many labels to print and to write")
    ] = 20,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Find likely errors of annotation.

    Ranks the gold labels that the model contradicts, by the probability of the predicted label
    minus that of the gold label: tags, entities, categories and the labels of other heads that
    choose one label per token or doc.

    Give the output folder of `mtl cv`: no model has learned the labels that it is asked about. Give
    a pipeline and data only if the pipeline was not trained on the data.

    Example: python -m spacy mtl errors cv -o errors.csv --limit 100
    """
    from ..validation.suspects import find_suspects, read_suspects

    if output and output.suffix not in (".csv", ".html"):
        raise ValueError(Errors.M286.format(path=output))
    make_page = import_suspect_page() if output and output.suffix == ".html" else None
    prepare(code_path, gpu_id)
    suspects = read_suspects(Path(source)) if data is None else find_suspects(source, data)
    shown = suspects[:limit]
    print_suspects(shown)
    counts = Counter(suspect.task for suspect in suspects)
    found = ", ".join(f"{n} of {task}" for task, n in sorted(counts.items())) or "none"
    verdict = f"Contradicted labels: {found}"
    msg.good(verdict)
    if output:
        from ..report.downloads import to_csv
        from ..validation.tables import make_suspect_table

        table = make_suspect_table(shown)
        content = make_page(shown, f"{verdict}.") if make_page else to_csv(table)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(content, encoding="utf8", newline="")
        msg.good(f"Wrote {len(shown)} of them: {output}")


def import_suspect_page() -> "Callable[[Sequence[Suspect], str], str]":
    """RETURNS (Callable): The function that makes the page.
    RAISES (ValueError): M237 without matplotlib.
    """
    try:
        from ..validation.page import make_suspect_page
    except ImportError as error:
        install = get_install_line("report")
        raise ValueError(Errors.M237.format(error=error, install=install)) from error
    return make_suspect_page


def print_suspects(suspects: "Sequence[Suspect]") -> None:
    """Print a table with a row for each contradicted label."""
    from ..report.tables import shorten

    rows = [
        (
            s.task,
            s.doc,
            shorten(s.text, WIDTH),
            shorten(s.words, WIDTH // 2),
            s.gold,
            s.predicted,
            f"{s.p_gold:.3f}",
            f"{s.p_predicted:.3f}",
        )
        for s in suspects
    ]
    header = ("Task", "Doc", "Text", "Words", "Gold", "Predicted", "P gold", "P")
    msg.table(rows, header=header, aligns=("l", "r", *"llll", "r", "r"), divider=True)
