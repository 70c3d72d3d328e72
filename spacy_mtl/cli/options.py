"""Arguments and options that several commands share, and helpers that apply them."""

from pathlib import Path
from typing import Annotated, TypeAlias

import srsly
from spacy.cli._util import import_code, setup_gpu, show_validation_error
from spacy.language import Language
from spacy.util import load_config
from thinc.api import Config
from typer import Argument, Option
from wasabi import msg

from ..errors import Errors
from ..types import Settings

CodePath: TypeAlias = Annotated[
    Path | None,
    Option("--code", "-c", help="Python file with registered functions, imported before the run"),
]
GpuId: TypeAlias = Annotated[int, Option("--gpu-id", "-g", help="GPU ID, or -1 for the CPU")]
ConfigPath: TypeAlias = Annotated[
    Path, Argument(help="Config file, or - for standard input", exists=True, allow_dash=True)
]
Pipeline: TypeAlias = Annotated[str, Argument(help="Name or folder of the pipeline")]
Data: TypeAlias = Annotated[Path, Argument(help=".spacy file, or folder of .spacy files")]
HeldOutData: TypeAlias = Annotated[
    Path,
    Argument(help="Dev data: .spacy file, folder of .spacy files, or output folder of `mtl cv`"),
]
JsonOutput: TypeAlias = Annotated[
    Path | None, Option("--output", "-o", help="JSON file to write", dir_okay=False)
]

SECTIONS = ("nlp", "components", "corpora", "training", "initialize")


def prepare(code_path: Path | None, gpu_id: int, *, silent: bool = False) -> None:
    """Import the code of --code, and choose the device of --gpu-id."""
    import_code(code_path)
    setup_gpu(gpu_id, silent=silent)


def read_config(path: Path, overrides: Settings) -> Config:
    """Read a config for training.

    path (Path): The file.
    overrides (Dict[str, Any]): Values by key, such as {"training.max_steps": 100}.
    RETURNS (Config): The config, not interpolated.
    RAISES (ValueError): M209 if a section is missing that spaCy does not fill in itself.
    """
    with show_validation_error(path):
        config = load_config(path, overrides=overrides, interpolate=False)
    if missing := [f"[{name}]" for name in SECTIONS if name not in config]:
        raise ValueError(Errors.M209.format(path=path, missing=", ".join(missing)))
    return config


def write_json(path: Path | None, content: object) -> None:
    """Write what --output asks for, in a folder that is made if it is not there."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        srsly.write_json(path, content)


def save_pipeline(nlp: Language, folder: Path, what: str) -> None:
    """Save a pipeline and say so.

    nlp (Language): The pipeline.
    folder (Path): The folder, made if it is not there.
    what (str): What to call it in the message, such as "calibrated pipeline".
    """
    folder.mkdir(parents=True, exist_ok=True)
    nlp.to_disk(folder)
    msg.good(f"Saved the {what}: {folder}")
