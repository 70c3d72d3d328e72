"""`spacy mtl cv`: cross-validation by document."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from spacy import blank
from spacy.cli._util import parse_config_overrides
from typer import Context, Exit, Option
from wasabi import msg

from ..annotations import get_layers
from ..corpora.documents import DOCUMENT
from ..extras import find_missing, get_install_line
from .app import command
from .options import CodePath, ConfigPath, Data, GpuId, prepare, read_config, write_json

if TYPE_CHECKING:
    from ..validation.cv import CrossValidation

STOPPED = 130  # the exit code of a command that Ctrl-C has stopped


@command("cv", "Cannot cross-validate", overrides=True)
def cv_cli(
    ctx: Context,
    config_path: ConfigPath,
    data: Data,
    output: Annotated[
        Path, Option("--output", "-o", help="The folder for models and results", file_okay=False)
    ],
    k: Annotated[int, Option("--folds", "-k", min=2, help="How many folds")] = 5,
    group_by: Annotated[
        str,
        Option(
            "--group-by",
            help="Key in doc.user_data: docs with the same value stay in one fold. none takes each "
            "doc by itself.",
        ),
    ] = DOCUMENT,
    stratify: Annotated[
        str | None,
        Option(
            "--stratify",
            help="The annotation whose labels are divided evenly, such as cats. By default those "
            "of all tasks.",
        ),
    ] = None,
    repeats: Annotated[
        int, Option("--repeat", min=1, help="How often to divide the docs into other folds")
    ] = 1,
    jobs: Annotated[int, Option("--jobs", "-j", min=1, help="Folds to train at once")] = 1,
    single: Annotated[
        bool, Option("--single", help="Also train each task alone, and compare it on each fold")
    ] = False,
    merged: Annotated[
        list[Path] | None,
        Option("--merge", "-m", help="Another corpus to merge with the data. May be repeated."),
    ] = None,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Train and test on each fold of a corpus.

    Each fold is a run of `mtl train` in a process of its own. A tenth of its training documents is
    held out to choose model-best, so the test data of a fold have no influence. The chunks of a
    document stay in one fold, and the labels of all tasks are divided evenly. Warnings name
    near-duplicates in different folds, and labels that one fold cannot learn. With --merge they
    also count labels that differ only in case, and texts that corpora label differently.

    Prints the scores of the folds with their mean, spread and confidence interval. The output
    folder gets summary.json, page.html, and the predictions for all docs by models that were not
    trained on them: predictions.spacy and gold.spacy, for `mtl errors`.

    Ctrl-C stops it with a summary of what is finished. The same command goes on: finished folds are
    kept, and interrupted ones resume from their checkpoints.

    Example: python -m spacy mtl cv config.cfg corpus.spacy -o cv -k 5 --training.max_steps 500
    """
    from ..validation.cv import CrossValidation
    from ..validation.merging import merge_corpora

    prepare(code_path, gpu_id)
    config = read_config(config_path, parse_config_overrides(ctx.args))
    layers = {name: layer for name, layer in get_layers().items() if not layer.is_open}
    docs = merge_corpora([data, *(merged or ())], blank(config["nlp"]["lang"]).vocab, layers)
    options = ["--gpu-id", str(gpu_id), *(["--code", str(code_path)] if code_path else [])]
    cv = CrossValidation(
        config, docs, output, k, group_by, stratify, repeats, single, options=options
    )
    todo = [fold for fold in cv.list_folds() if not cv.is_finished(fold)]
    msg.info(f"{len(todo)} of {len(cv.list_folds())} models to train")
    is_stopped = False
    try:
        with closing(cv.run(jobs)) as folds:
            for fold in folds:
                msg.good(f"Finished fold {fold.name} ({fold.model})")
    except KeyboardInterrupt:
        is_stopped = True
        msg.warn("Stopped. Run the same command again to go on.")
    finally:
        write_results(cv)
    if is_stopped:
        raise Exit(STOPPED)


def write_results(cv: "CrossValidation") -> None:
    """Print the scores of the finished folds, and write all results to the output folder.

    cv (CrossValidation): The cross-validation.
    """
    from ..report.markdown import to_markdown
    from ..validation.names import PAGE, SUMMARY
    from ..validation.summary import save_predictions, summarize
    from ..validation.suspects import read_suspects
    from ..validation.tables import make_tables, make_verdict

    summary = summarize(cv)
    if not summary.finished:
        return
    paths = save_predictions(cv)
    print(to_markdown(make_tables(summary), make_verdict(summary)), end="")
    write_json(cv.output / SUMMARY, asdict(summary))
    if find_missing("report"):
        msg.info(f"No {PAGE} without matplotlib: {get_install_line('report')}")
        return
    from ..validation.page import make_cv_page

    page = make_cv_page(summary, read_suspects(cv.output) if paths else [])
    (cv.output / PAGE).write_text(page, encoding="utf8")
    msg.good(f"Wrote the page: {cv.output / PAGE}")
