"""`spacy mtl calibrate`: probabilities that agree with the share of correct predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from typer import Option
from wasabi import msg

from ..contracts import find_tasks
from ..errors import quote
from ..heads.calibration import CalibratableHead
from ..loading import load_pipeline
from ..training.calibration import Calibration, calibrate_by
from ..validation.held_out import read_held_out
from .app import command
from .options import CodePath, GpuId, HeldOutData, Pipeline, prepare, save_pipeline


@command("calibrate", "Cannot calibrate")
def calibrate_cli(
    pipeline: Pipeline,
    data: HeldOutData,
    output: Annotated[
        Path,
        Option("--output", "-o", help="Folder for the calibrated pipeline", file_okay=False),
    ],
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Make probabilities agree with the share of right answers.

    Finds the temperature of each head at which the labels of the data are most likely, and saves a
    pipeline that divides the head's scores by it. This changes the probabilities in doc.cats, and
    those of entities in doc.spans. Predicted tags, entities and categories stay the same. Give data
    that is used neither for training nor for testing, such as dev. The output folder of `mtl cv`
    is such data, too: each of its pipelines scores the fold that it was not trained on.

    Example: python -m spacy mtl calibrate training/model-best dev.spacy -o out
    """
    prepare(code_path, gpu_id)
    nlp = load_pipeline(pipeline)
    found = calibrate_by(read_held_out(data, nlp), nlp)
    print_calibrations(found)
    others = [
        name
        for name, pipe in find_tasks(nlp).items()
        if isinstance(pipe, CalibratableHead) and name not in found
    ]
    if others:
        msg.warn(f"Not calibrated, since the data has no labels for them: {quote(others)}")
    save_pipeline(nlp, output, "calibrated pipeline")


def print_calibrations(found: Mapping[str, Calibration]) -> None:
    """Print a table with a row for each head."""
    rows = [
        (
            name,
            f"{c.units:,}",
            f"{c.temperature[1]:.3f}",
            *(f"{x:.4f}" for x in c.nll),
            *(f"{100 * x:.2f}" for x in c.ece),
        )
        for name, c in found.items()
    ]
    header = ("Head", "Labels", "Temperature", "NLL", "calibrated", "ECE %", "calibrated")
    msg.table(rows, header=header, aligns=("l", *"r" * 6), divider=True)
