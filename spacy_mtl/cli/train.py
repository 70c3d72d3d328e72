"""`spacy mtl train`: `spacy train` that can be stopped at any time and resumed."""

import logging
import sys
from pathlib import Path
from typing import Annotated

from spacy import util
from spacy.cli._util import (
    import_code,
    parse_config_overrides,
    setup_gpu,
    show_validation_error,
)
from spacy.training.initialize import init_nlp
from typer import Context, Option
from wasabi import msg

from ..errors import Errors
from .app import command
from .options import CodePath, ConfigPath, GpuId, read_config


@command("train", "Cannot train", overrides=True)
def train_cli(
    ctx: Context,
    config_path: ConfigPath,
    output: Annotated[
        Path | None,
        Option("--output", "--output-path", "-o", help="The folder to save to", file_okay=False),
    ] = None,
    resume: Annotated[
        bool, Option("--resume", "-r", help="Resume from the checkpoint in the output folder")
    ] = False,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Start again in an output folder that has a checkpoint")
    ] = False,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
    verbose: Annotated[
        bool, Option("--verbose", "-V", "-VV", help="Display more information for debugging")
    ] = False,
) -> None:
    """
    Train like `spacy train`, and resume after a stop.

    Writes a checkpoint to the output folder at each evaluation and at the end.

    --resume continues a run from its checkpoint, however it was stopped. On the same machine the
    pipelines and the log become the same, bit for bit, as without the stop. On a GPU this holds
    only if its operations are deterministic. The config and its overrides must be those of the
    first run, except training.max_steps, max_epochs, patience and the logger. Without a checkpoint
    a new run starts. A folder with a checkpoint is refused without --resume or --overwrite.

    Example: python -m spacy mtl train config.cfg --output training --resume
    """
    from ..training.loop import CHECKPOINT, train
    from ..training.resume import read_checkpoint

    if verbose:
        util.logger.setLevel(logging.DEBUG)
    overrides = parse_config_overrides(ctx.args)
    import_code(code_path)
    if resume and overwrite:
        raise ValueError(Errors.M208)
    if output:
        if (output / CHECKPOINT).exists() and not (resume or overwrite):
            raise ValueError(Errors.M207.format(path=output))
        output.mkdir(parents=True, exist_ok=True)
        msg.info(f"Saving to output directory: {output}")
    elif resume:
        raise ValueError(Errors.M063)
    else:
        msg.info("No output directory provided")
    setup_gpu(gpu_id)
    config = read_config(config_path, overrides)
    msg.divider("Initializing pipeline")
    with show_validation_error(config_path, hint_fill=False):
        nlp = init_nlp(config, use_gpu=gpu_id)
    msg.good("Initialized pipeline")
    past = None
    if resume and output:
        path = output / CHECKPOINT
        if path.exists():
            past = read_checkpoint(path, nlp)
            msg.info(f"Resuming after step {past['step']}")
        else:
            msg.info(f"No checkpoint in {output}: a new run starts")
    msg.divider("Training pipeline")
    train(nlp, output, past, use_gpu=gpu_id, stdout=sys.stdout, stderr=sys.stderr)
