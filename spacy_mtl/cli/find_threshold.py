"""`spacy mtl find-threshold`: the least probability of a category, span or relation."""

from pathlib import Path
from typing import Annotated

from spacy.language import Language
from typer import Argument, Option
from wasabi import msg

from ..errors import Errors, quote
from ..loading import load_pipeline
from ..training.thresholds import (
    MACRO,
    MICRO,
    Thresholds,
    find_thresholds_by,
    get_scores,
    set_threshold,
)
from ..validation.held_out import read_held_out
from .app import command
from .options import CodePath, GpuId, HeldOutData, Pipeline, prepare, save_pipeline


@command("find-threshold", "Cannot find a threshold")
def find_threshold_cli(
    pipeline: Pipeline,
    data: HeldOutData,
    component: Annotated[
        str | None,
        Argument(help="Component with categories, spans or relations, if the pipeline has several"),
    ] = None,
    scores_key: Annotated[
        str | None,
        Option(
            "--scores-key",
            "-s",
            help=f"Score of categories to maximize: {MACRO}, the default, or {MICRO}",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            help="Folder for the pipeline with the best threshold",
            file_okay=False,
        ),
    ] = None,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Find the best threshold for categories, spans or relations.

    The pipeline runs over the data once, and every threshold that changes a prediction is tried.
    Prints the F of each label at the current threshold, at the best threshold for all labels, and
    at the best threshold for this label alone. A component has one threshold: to use one for each
    label, compare doc.cats with them in your own code. With the output folder of `mtl cv` as data,
    each of its pipelines runs over the fold that it was not trained on.

    Example: python -m spacy mtl find-threshold training/model-best dev.spacy
    """
    prepare(code_path, gpu_id)
    nlp = load_pipeline(pipeline)
    name = pick_component(nlp, component)
    found = find_thresholds_by(read_held_out(data, nlp), nlp, name, scores_key)
    print_thresholds(found, scores_key or get_scores(nlp.get_pipe(name))[0])
    if output:
        set_threshold(nlp, name, found.threshold[1])
        save_pipeline(nlp, output, "pipeline with this threshold")


def pick_component(nlp: Language, name: str | None) -> str:
    """Find the component whose threshold to set.

    nlp (Language): The pipeline.
    name (Optional[str]): The component; if not given, the only one with a threshold.
    RETURNS (str): The name of the component.
    RAISES (ValueError): M081 if there is no such component, M082 if there are several.
    """
    names = [key for key, pipe in nlp.pipeline if get_scores(pipe)]
    if (name is None and not names) or (name is not None and name not in names):
        known = quote(names) or "none"
        raise ValueError(Errors.M081.format(name=name or "-", names=known))
    if name is None and len(names) > 1:
        raise ValueError(Errors.M082.format(n=len(names), names=quote(names)))
    return name or names[0]


def print_thresholds(found: Thresholds, scores_key: str) -> None:
    """Print a table with a row for each label, and the best threshold."""
    before, best = (f"{threshold:.4f}" for threshold in found.threshold)
    rows = [
        (label.label, label.support, *(f"{100 * f:.1f}" for f in label.f[:2]))
        + (("-", "-") if label.best is None else (f"{label.best:.4f}", f"{100 * label.f[2]:.1f}"))
        for label in found.labels
    ]
    header = ("Label", "Support", f"F at {before}", f"F at {best}", "Own best", "F")
    msg.table(rows, header=header, aligns=("l", *"r" * 5), divider=True)
    scores = [f"{100 * score:.2f}" for score in found.score]
    msg.good(f"Best threshold: {best} with {scores_key} {scores[1]} (at {before}: {scores[0]})")
