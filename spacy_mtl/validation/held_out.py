"""Data that pipelines were not trained on: dev data, or the folds of a cross-validation."""

from collections.abc import Iterator
from pathlib import Path

from spacy.language import Language

from ..contracts import find_tasks
from ..errors import Errors, quote
from ..loading import load_pipeline, read_examples
from ..training.calibration import HeldOut
from .names import FOLDS, RESULT, SETTINGS


def read_held_out(data: Path, nlp: Language) -> Iterator[HeldOut]:
    """Read data that a pipeline was not trained on.

    data (Path): A .spacy file, a folder of .spacy files, or the output folder of `mtl cv`.
    nlp (Language): The pipeline.
    YIELDS (Tuple[Language, Sequence[Example]]): The pipeline and the data; or the pipeline of each
        finished fold of the first repeat, and its test data.
    RAISES (ValueError): M204 to M206 if data or pipelines cannot be read, M283 if no fold is
        finished, M287 if the pipelines of the folds lack a task of the pipeline.
    """
    if not (data / SETTINGS).exists():
        yield nlp, read_examples(data, nlp)
        return
    folders = [path.parent for path in sorted(data.glob(f"{FOLDS}/1-*/multi/{RESULT}"))]
    if not folders:
        raise ValueError(Errors.M283.format(path=data))
    for folder in folders:
        fold = load_pipeline(folder / "model-best")
        if missing := find_tasks(nlp).keys() - fold.pipe_names:
            raise ValueError(Errors.M287.format(path=data, names=quote(sorted(missing))))
        yield fold, read_examples(folder.parent / "test.spacy", fold)
