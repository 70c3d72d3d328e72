"""`spacy mtl calibrate`: probabilities that can be believed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from spacy.cli._util import import_code, setup_gpu
from spacy.language import Language
from spacy.training import Corpus, Example
from typer import Argument, Option
from wasabi import msg

from ..errors import Errors, quote
from ..heads.head import Head
from ..training.calibration import Calibration, calibrate
from . import command
from .bench import load_pipeline


@command("calibrate", "Cannot calibrate")
def calibrate_cli(
    pipeline: Annotated[str, Argument(help="Name or folder of the pipeline")],
    data: Annotated[Path, Argument(help="A .spacy file, or a folder of them, such as dev")],
    output: Annotated[
        Path, Option("--output", "-o", help="Where to write the pipeline", file_okay=False)
    ],
    code_path: Annotated[
        Path | None, Option("--code", "-c", help="Python file with registered functions to import")
    ] = None,
    gpu_id: Annotated[int, Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """
    Make the probabilities of a pipeline agree with how often it is right.

    Finds for each head the temperature at which the labels of the data are most likely, and writes
    a pipeline whose scores are divided by it: in doc.cats, and for entities in doc.spans. Which
    tags, entities and categories are found stays the same. The data should not be what was trained
    on, nor what is tested on.
    """
    import_code(code_path)
    setup_gpu(gpu_id, silent=False)
    nlp = load_pipeline(pipeline)
    found = calibrate(nlp, read_examples(data, nlp))
    output.mkdir(parents=True, exist_ok=True)
    print_calibrations(found)
    others = [name for name, pipe in nlp.pipeline if isinstance(pipe, Head) and name not in found]
    if others:
        msg.warn(f"Left as they were, since the data has no labels of theirs: {quote(others)}")
    nlp.to_disk(output)
    msg.good(f"Saved the calibrated pipeline: {output}")


def read_examples(path: Path, nlp: Language) -> list[Example]:
    """RETURNS (List[Example]): The docs of a .spacy file, or of all in a folder.
    RAISES (ValueError): M205 if a file cannot be read, M206 if there is no word.
    """
    try:
        examples = list(Corpus(path)(nlp))
    except Exception as error:
        raise ValueError(Errors.M205.format(path=path, error=error)) from error
    if not any(len(eg.predicted) for eg in examples):
        raise ValueError(Errors.M206.format(path=path, docs=len(examples)))
    return examples


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
