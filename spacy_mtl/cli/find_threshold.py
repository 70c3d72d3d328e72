"""`spacy mtl find-threshold`: from which probability on a category is given."""

from pathlib import Path
from typing import Annotated

from spacy.cli._util import import_code, setup_gpu
from spacy.language import Language
from spacy.pipeline.textcat_multilabel import MultiLabel_TextCategorizer
from typer import Argument, Option
from wasabi import msg

from ..errors import Errors, quote
from ..training.thresholds import SCORES, Thresholds, find_thresholds, set_threshold
from . import command
from .bench import load_pipeline
from .calibrate import read_examples


@command("find-threshold", "Cannot find a threshold")
def find_threshold_cli(
    pipeline: Annotated[str, Argument(help="Name or folder of the pipeline")],
    data: Annotated[Path, Argument(help="A .spacy file, or a folder of them, such as dev")],
    component: Annotated[
        str | None, Argument(help="The component; by default the only one there is")
    ] = None,
    scores_key: Annotated[
        str, Option("--scores-key", "-s", help=f"What to maximize: {', '.join(SCORES)}")
    ] = SCORES[0],
    output: Annotated[
        Path | None,
        Option("--output", "-o", help="Where to write the pipeline with it", file_okay=False),
    ] = None,
    code_path: Annotated[
        Path | None, Option("--code", "-c", help="Python file with registered functions to import")
    ] = None,
    gpu_id: Annotated[int, Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """
    Find the best threshold of categories that are independent.

    The pipeline runs over the data once, and all thresholds that make a difference are tried.
    Prints F of each label by the threshold that the component has, by the best one for all, and by
    the label's own best one, which a component has no room for: it is for your own use of doc.cats.
    """
    import_code(code_path)
    setup_gpu(gpu_id, silent=False)
    if scores_key not in SCORES:
        raise ValueError(
            Errors.M113.format(value=scores_key, option="--scores-key", choices=list(SCORES))
        )
    nlp = load_pipeline(pipeline)
    name = pick_component(nlp, component)
    found = find_thresholds(nlp, read_examples(data, nlp), name, scores_key)
    print_thresholds(found, scores_key)
    if output:
        set_threshold(nlp, name, found.threshold[1])
        output.mkdir(parents=True, exist_ok=True)
        nlp.to_disk(output)
        msg.good(f"Saved the pipeline with this threshold: {output}")


def pick_component(nlp: Language, name: str | None) -> str:
    """RETURNS (str): The component with independent categories that is meant.
    RAISES (ValueError): M081 if there is none, M082 if there are several.
    """
    names = [key for key, pipe in nlp.pipeline if isinstance(pipe, MultiLabel_TextCategorizer)]
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
    header = ("Label", "Support", f"F at {before}", f"F at {best}", "Its best", "F")
    msg.table(rows, header=header, aligns=("l", *"r" * 5), divider=True)
    scores = [f"{100 * score:.2f}" for score in found.score]
    msg.good(f"Best threshold: {best} with {scores_key} {scores[1]} (at {before}: {scores[0]})")
