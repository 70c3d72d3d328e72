"""Read the config, the log and the scores of runs, and group the runs by setting."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypedDict, cast

import srsly
from spacy.util import load_config

from ..annotations import find_scored_layers
from ..errors import Errors, quote
from ..types import Settings
from .records import Curves

ENCODERS = {"mtl_transformer", "transformer", "curated_transformer", "tok2vec"}
STATS = ("loss", "weight", "grad_norm")
MODELS = ("model-best", "model-last")


class LogLine(TypedDict):
    """A line of ProgressLogger.

    step (int): The update.
    score (Optional[float]): The weighted score of the evaluation.
    scores (Dict[str, Optional[float]]): The scores by key.
    tasks (Dict[str, Dict[str, Optional[float]]]): `STATS` by task.
    cosines (Dict[str, float]): The cosine of the gradients of each pair of tasks.
    """

    step: int
    score: float | None
    scores: dict[str, float | None]
    tasks: dict[str, dict[str, float | None]]
    cosines: dict[str, float]


@dataclass
class Run:
    """A training run, or a file of scores.

    name (str): Its name in the report.
    scores (Dict[str, Any]): Scores as `spacy evaluate` writes them.
    source (str): Where the scores come from.
    curves (Curves): Loss, weight and gradient norm of each task, scores, and the cosine of each
        pair of tasks.
    steps (Optional[int]): The number of updates.
    is_out_of_patience (bool): Whether the run ended because the score had stopped improving.
    model (Optional[Path]): The folder of the pipeline; None for a file of scores.
    tasks (List[str]): The trained components, without encoders.
    seed (int): The seed of the training run.
    setup (Dict[str, Any]): The config without seeds and logger. Runs with the same setup differ
        only by chance.
    """

    name: str
    scores: Settings
    source: str
    curves: Curves = field(default_factory=dict)
    steps: int | None = None
    is_out_of_patience: bool = False
    model: Path | None = None
    tasks: list[str] = field(default_factory=list)
    seed: int = 0
    setup: Settings = field(default_factory=dict)


def read_run(path: Path, name: str) -> Run:
    """Read a run.

    path (Path): A JSON file of `spacy evaluate --output`, or the output folder of a training run
        with model-best or model-last. The files of ProgressLogger and `spacy evaluate` may be in
        the folder too.
    name (str): Its name in the report.
    RETURNS (Run): The run. Its scores are from the file of `spacy evaluate`, or else from the best
        line of the log, or else from the scores that spaCy has saved with the pipeline.
    RAISES (ValueError): M201, M202, M204 or M230 to M232 if no run can be read.
    """
    if not path.is_dir():
        return Run(name, read_metrics(path), path.name)
    models = [path / model for model in MODELS if (path / model / "config.cfg").is_file()]
    if not models:
        raise ValueError(Errors.M230.format(path=path, models=" or ".join(MODELS)))
    try:
        config = load_config(models[0] / "config.cfg").interpolate()
    except Exception as error:
        raise ValueError(Errors.M204.format(name=models[0], error=error)) from error
    log = read_log(find_file(path, "*.jsonl", {"step", "tasks"}.intersection))
    scores, source = read_scores(path, log, models[0])
    return Run(
        name,
        scores,
        source,
        curves=get_curves(log),
        steps=log[-1]["step"] if log else None,
        is_out_of_patience=has_lost_patience(log, config["training"].get("patience", 0)),
        model=models[0],
        tasks=get_trained_tasks(config),
        seed=config["training"]["seed"] or 0,
        setup=without_seeds(config),
    )


def read_scores(folder: Path, log: Sequence[LogLine], model: Path) -> tuple[Settings, str]:
    """RETURNS (Tuple[Dict[str, Any], str]): The scores of a training run, and their source."""
    metrics = find_file(folder, "*.json", find_score_keys)
    if metrics is not None:
        return read_metrics(metrics), metrics.name
    return read_best(log) if log else read_meta(model)


def read_metrics(path: Path) -> Settings:
    """Read the scores of a run.

    path (Path): A JSON file of `spacy evaluate --output`.
    RETURNS (Dict[str, Any]): The scores.
    RAISES (ValueError): M201 if there is no such file, M202 if it holds something else.
    """
    if not path.is_file():
        raise ValueError(Errors.M201.format(path=path))
    try:
        metrics = srsly.read_json(path)
    except ValueError as err:
        raise ValueError(Errors.M202.format(path=path, reason=err)) from err
    if not isinstance(metrics, dict) or not find_score_keys(metrics):
        keys = ", ".join(get_score_keys(()))
        raise ValueError(Errors.M202.format(path=path, reason=f"no score among {keys}"))
    return metrics


def get_score_keys(found: Iterable[str]) -> list[str]:
    """RETURNS (List[str]): The keys of all scores that a report shows, grouped by layer. The keys
    that were found may add layers, such as other groups of spans.
    """
    layers = find_scored_layers(found)
    return [key for layer in layers for key in (layer.score_key, *layer.detail_keys)]


def find_score_keys(keys: Iterable[str]) -> set[str]:
    """RETURNS (Set[str]): The keys of scores that a report shows."""
    return set(keys).intersection(get_score_keys(keys))


def find_file(
    folder: Path, pattern: str, find_keys: Callable[[Iterable[str]], set[str]]
) -> Path | None:
    """Find a JSON file by its content.

    folder (Path): The folder.
    pattern (str): The pattern of the file's name, such as "*.json".
    find_keys (Callable): Returns the required keys among the keys of an object. The first object
        in the file must have one.
    RETURNS (Optional[Path]): The file, if there is one.
    RAISES (ValueError): M232 if there are several.
    """
    found = []
    for path in sorted(folder.glob(pattern)):
        try:
            first = next(read_objects(path), None)
        except ValueError:
            continue
        if isinstance(first, dict) and find_keys(first):
            found.append(path)
    if len(found) > 1:
        names = quote(path.name for path in found)
        raise ValueError(Errors.M232.format(path=folder, names=names))
    return found[0] if found else None


def read_objects(path: Path) -> Iterator[object]:
    """YIELDS (object): The lines of a .jsonl file, or the content of a .json file."""
    return iter(srsly.read_jsonl(path) if path.suffix == ".jsonl" else [srsly.read_json(path)])


def read_log(path: Path | None) -> list[LogLine]:
    """Read a log of ProgressLogger.

    path (Optional[Path]): The file, if there is one.
    RETURNS (List[LogLine]): The lines of the last training run that wrote to the file.
    RAISES (ValueError): M231 if they are not lines of ProgressLogger.
    """
    lines: list[LogLine] = []
    try:
        for line in srsly.read_jsonl(path) if path else ():
            if lines and line["step"] <= lines[-1]["step"]:
                lines.clear()
            lines.append(cast(LogLine, {"cosines": {}, **line}))
            _ = line["score"], line["scores"].items(), line["tasks"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise ValueError(Errors.M231.format(path=path, error=repr(err))) from err
    return lines


def read_meta(model: Path) -> tuple[Settings, str]:
    """RETURNS (Tuple[Dict[str, Any], str]): The scores that spaCy has saved with a pipeline, and
    their source; empty without any.
    """
    path = model / "meta.json"
    scores = srsly.read_json(path).get("performance") if path.is_file() else None
    return (scores, f"dev, {model.name}") if scores else ({}, "-")


def read_best(log: Sequence[LogLine]) -> tuple[Settings, str]:
    """RETURNS (Tuple[Dict[str, Any], str]): The scores of the line that became model-best, and
    their source.
    """
    best = find_best(log)
    return {**best["scores"]}, f"dev, step {best['step']}"


def find_best(log: Sequence[LogLine]) -> LogLine:
    """RETURNS (LogLine): The line with the best score; the last one if several are equal."""
    return max(reversed(log), key=lambda line: line["score"] or 0.0)


def has_lost_patience(log: Sequence[LogLine], patience: int) -> bool:
    """RETURNS (bool): Whether the last `patience` updates have not improved the score."""
    return bool(log and patience and log[-1]["step"] - find_best(log)["step"] >= patience)


def get_curves(log: Sequence[LogLine]) -> Curves:
    """RETURNS (Curves): The values in a log by kind and name, without missing ones."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {
        kind: {} for kind in (*STATS, "score", "cosine")
    }
    for line in log:
        kinds: dict[str, Mapping[str, float | None]] = {
            **{kind: {task: s[kind] for task, s in line["tasks"].items()} for kind in STATS},
            "score": line["scores"],
            "cosine": line["cosines"],
        }
        for kind, values in kinds.items():
            for name, value in values.items():
                if value is not None:
                    curves[kind].setdefault(name, []).append((line["step"], value))
    return {kind: {**lines} for kind, lines in curves.items()}


def get_trained_tasks(config: Settings) -> list[str]:
    """RETURNS (List[str]): The components of a config that are trained, without encoders."""
    frozen = config["training"]["frozen_components"]
    return [
        name
        for name in config["nlp"]["pipeline"]
        if name not in frozen
        and "model" in config["components"][name]
        and config["components"][name]["factory"] not in ENCODERS
    ]


def without_seeds(config: Mapping[str, object]) -> Settings:
    """RETURNS (Dict[str, Any]): A copy of a config without seeds and loggers."""
    return {
        key: without_seeds(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in ("seed", "logger")
    }


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group the training runs by setting: within a group they differ only by their seeds.

    runs (Sequence[Run]): The runs. Files of scores are left out.
    RETURNS (Dict[str, List[Run]]): The runs of each setting, sorted by seed. The name of a setting
        is the name of its runs without their seeds.
    RAISES (ValueError): M235 if two runs have the same setting and the same seed.
    """
    groups: list[list[Run]] = []
    for run in (run for run in runs if run.model):
        same = next((group for group in groups if group[0].setup == run.setup), None)
        if same is None:
            groups.append([run])
        else:
            same.append(run)
            same.sort(key=lambda run: run.seed)
    for first, second in (pair for group in groups for pair in pairwise(group)):
        if first.seed == second.seed:
            twice = quote([first.name, second.name])
            raise ValueError(Errors.M235.format(names=twice, seed=first.seed))
    names = [name_group(group) for group in groups]
    if len(set(names)) < len(names):
        names = [group[0].name for group in groups]
    return dict(zip(names, groups, strict=True))


def name_group(group: Sequence[Run]) -> str:
    """RETURNS (str): The common name of runs without their seeds, or the name of the first run."""
    stems = {run.name.removesuffix(str(run.seed)).rstrip("-_. ") for run in group}
    return stems.pop() or group[0].name if len(stems) == 1 else group[0].name


def find_single(settings: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Find the settings with one task.

    settings (Mapping[str, Sequence[Run]]): The runs of each setting.
    RETURNS (Dict[str, str]): For a task the setting in which it is trained alone.
    RAISES (ValueError): M238 if a task has two such settings.
    """
    single: dict[str, str] = {}
    for name, (run, *_) in settings.items():
        if len(run.tasks) == 1:
            other = single.setdefault(run.tasks[0], name)
            if other != name:
                where = find_difference(settings[other][0].setup, run.setup)
                names = quote([other, name])
                raise ValueError(Errors.M238.format(task=run.tasks[0], settings=names, where=where))
    return single


def find_difference(first: Settings, second: Settings) -> str:
    """RETURNS (str): The first key whose value is different in two configs."""
    key = next(key for key in {**first, **second} if first.get(key) != second.get(key))
    ours, theirs = first.get(key), second.get(key)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return f"{key}.{find_difference(ours, theirs)}"
    return key


def check_same_dev(runs: Sequence[Run]) -> None:
    """RAISES (ValueError): M236 if training runs were evaluated on different corpora."""
    trained = [run for run in runs if run.model]
    for run in trained[1:]:
        ours, theirs = (r.setup["corpora"].get("dev") for r in (trained[0], run))
        if ours != theirs:
            raise ValueError(Errors.M236.format(first=trained[0].name, second=run.name))
