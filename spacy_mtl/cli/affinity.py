"""`spacy mtl affinity`: which tasks should be trained together."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy
import srsly
from spacy.cli._util import (
    import_code,
    parse_config_overrides,
    setup_gpu,
    show_validation_error,
)
from spacy.training.initialize import init_nlp
from typer import Argument, Context, Option
from wasabi import msg

from ..errors import Errors, quote
from . import command, read_config


@command("affinity", "Cannot measure", overrides=True)
def affinity_cli(
    ctx: Context,
    config_path: Annotated[Path, Argument(help="The config", exists=True, allow_dash=True)],
    output: Annotated[
        Path | None, Option("--output", "-o", help="The JSON file to write", dir_okay=False)
    ] = None,
    plot: Annotated[
        Path | None, Option("--plot", "-p", help="The picture to write: .png, .svg", dir_okay=False)
    ] = None,
    steps: Annotated[
        int, Option("--steps", "-s", min=0, help="Updates to make; 0 for max_steps of the config")
    ] = 0,
    every: Annotated[
        int, Option("--every", "-e", min=1, help="Updates from one look to the next")
    ] = 10,
    code_path: Annotated[
        Path | None, Option("--code", "-c", help="Python file with registered functions to import")
    ] = None,
    gpu_id: Annotated[int, Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """
    Find out, in one training, which tasks should be trained together.

    Now and then a step of the encoder for one task alone is tried on the batch and taken back:
    how much, in percent, does it lower each task's loss? Prints and plots the means, and prints for
    each number of models the split of the tasks that promises most. The pipeline is not saved.
    Settings of the config are overridden as for `spacy train`, such as --paths.train
    corpus/train.spacy.
    """
    from ..training.affinity import measure_affinity, propose_groups

    overrides = parse_config_overrides(ctx.args)
    import_code(code_path)
    setup_gpu(gpu_id)
    save_heatmap = import_save_heatmap(plot) if plot else None
    with show_validation_error(config_path):
        nlp = init_nlp(read_config(config_path, overrides), use_gpu=gpu_id)
    affinity = measure_affinity(nlp, steps=steps, every=every)
    print_affinity(affinity)
    try:
        groupings = [asdict(grouping) for grouping in propose_groups(affinity)]
    except ValueError as error:
        msg.warn("No groups proposed", error)
        groupings = []
    print_groupings(groupings)
    if plot and save_heatmap:
        plot.parent.mkdir(parents=True, exist_ok=True)
        save_heatmap(plot, *make_matrix(affinity))
    if output:
        known = {
            source: {target: z if math.isfinite(z) else None for target, z in row.items()}
            for source, row in affinity.items()
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        srsly.write_json(output, {"affinity": known, "groupings": groupings})


def import_save_heatmap(path: Path) -> Any:
    """RETURNS (Callable): What saves a matrix as a picture.
    RAISES (ValueError): M089 without matplotlib, M090 if it does not write such files.
    """
    try:
        from ..report.plots import FORMATS, save_heatmap
    except ImportError as error:
        raise ValueError(Errors.M089.format(error=error)) from error
    if path.suffix[1:].lower() not in FORMATS:
        raise ValueError(Errors.M090.format(path=path, formats=quote(sorted(FORMATS))))
    return save_heatmap


def make_matrix(affinity: Mapping[str, Mapping[str, float]]) -> tuple[Any, ...]:
    """RETURNS (Tuple): What `save_heatmap` wants. A task's own loss, which its steps change most,
    does not pale the others.
    """
    tasks = list(affinity)
    values = 100 * numpy.array([list(row.values()) for row in affinity.values()])
    texts = [[f"{value:+.3f}" for value in row] for row in values]
    most = numpy.nanmax(abs(values[~numpy.eye(len(tasks), dtype=bool)]), initial=0.0)
    colors = numpy.clip(values, -most, most)
    return "% off the loss", colors, texts, tasks, tasks, ("loss of", "a step for")


def print_affinity(affinity: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table with a row for each task whose step it is."""
    rows = [
        (source, *(f"{100 * z:+.3f}" if math.isfinite(z) else "-" for z in row.values()))
        for source, row in affinity.items()
    ]
    header = ("% off the loss of", *affinity)
    msg.table(rows, header=header, aligns=("l", *"r" * len(affinity)), divider=True)
    unknown = [task for task, row in affinity.items() if not any(map(math.isfinite, row.values()))]
    if unknown:
        msg.warn(f"No step had labels for {quote(unknown)}: what is '-' counts as 0 below")


def print_groupings(groupings: list[dict[str, Any]]) -> None:
    """Print a table with a row for each number of groups, and which is best."""
    if not groupings:
        return
    names = [" | ".join(" + ".join(group) for group in g["groups"]) for g in groupings]
    rows = [
        (len(g["groups"]), name, f"{100 * g['affinity']:+.3f}")
        for g, name in zip(groupings, names, strict=True)
    ]
    msg.table(rows, header=("Models", "Tasks", "Affinity"), aligns=("r", "l", "r"), divider=True)
    best = max(range(len(names)), key=lambda i: groupings[i]["affinity"])
    msg.good(f"Best: {names[best]}")
