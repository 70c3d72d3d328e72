"""`spacy mtl affinity`: which tasks should be trained together."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy
from spacy.cli._util import parse_config_overrides, show_validation_error
from spacy.training.initialize import init_nlp
from typer import Context, Option
from wasabi import msg

from ..errors import Errors, quote
from ..extras import get_install_line
from ..report.records import Matrix
from ..types import Settings
from .app import command
from .options import CodePath, ConfigPath, GpuId, JsonOutput, prepare, read_config, write_json


@command("affinity", "Cannot measure", overrides=True)
def affinity_cli(
    ctx: Context,
    config_path: ConfigPath,
    output: JsonOutput = None,
    plot: Annotated[
        Path | None, Option("--plot", "-p", help="Picture to write: .png, .svg", dir_okay=False)
    ] = None,
    steps: Annotated[
        int, Option("--steps", "-s", min=0, help="Number of updates; 0 for max_steps of the config")
    ] = 0,
    every: Annotated[
        int, Option("--every", "-e", min=1, help="Updates from one measurement to the next")
    ] = 10,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Find the tasks that should be trained together.

    At regular intervals the encoder takes a step for one task alone, and takes it back. The
    measurement is by how many percent this step lowers the loss of each task. Prints and plots the
    means. Prints the best split of the tasks for each number of models. The pipeline is not saved.
    Overrides of the config are given as for `spacy train`, such as --paths.train
    corpus/train.spacy.

    Example: python -m spacy mtl affinity config.cfg --steps 200 --plot plot.png
    """
    from ..training.affinity import measure_affinity, propose_groups

    overrides = parse_config_overrides(ctx.args)
    prepare(code_path, gpu_id)
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
        save_heatmap(plot, make_matrix(affinity))
    known = {
        source: {target: z if math.isfinite(z) else None for target, z in row.items()}
        for source, row in affinity.items()
    }
    write_json(output, {"affinity": known, "groupings": groupings})


def import_save_heatmap(path: Path) -> Callable[[Path, Matrix], None]:
    """RETURNS (Callable): The function that saves a matrix as a picture.
    RAISES (ValueError): M089 without matplotlib, M090 if it does not write such files.
    """
    try:
        from ..report.plots import FORMATS, save_heatmap
    except ImportError as error:
        raise ValueError(
            Errors.M089.format(error=error, install=get_install_line("report"))
        ) from error
    if path.suffix[1:].lower() not in FORMATS:
        raise ValueError(Errors.M090.format(path=path, formats=quote(sorted(FORMATS))))
    return save_heatmap


def make_matrix(affinity: Mapping[str, Mapping[str, float]]) -> Matrix:
    """RETURNS (Matrix): The affinities in percent. Colours are clipped to the range of the values
    between different tasks: a step changes the task's own loss most, and would pale the others.
    """
    tasks = list(affinity)
    values = 100 * numpy.array([list(row.values()) for row in affinity.values()])
    texts = [[f"{value:+.3f}" for value in row] for row in values]
    most = numpy.nanmax(abs(values[~numpy.eye(len(tasks), dtype=bool)]), initial=0.0)
    colors = numpy.clip(values, -most, most)
    return Matrix("% off the loss", colors, texts, tasks, tasks, ("loss of", "a step for"))


def print_affinity(affinity: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table with a row for the step of each task."""
    rows = [
        (source, *(f"{100 * z:+.3f}" if math.isfinite(z) else "-" for z in row.values()))
        for source, row in affinity.items()
    ]
    header = ("% off the loss of", *affinity)
    msg.table(rows, header=header, aligns=("l", *"r" * len(affinity)), divider=True)
    unknown = [task for task, row in affinity.items() if not any(map(math.isfinite, row.values()))]
    if unknown:
        msg.warn(f"No step had labels for {quote(unknown)}: '-' counts as 0 below")


def print_groupings(groupings: list[Settings]) -> None:
    """Print a table with a row for each number of groups, and name the best split."""
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
