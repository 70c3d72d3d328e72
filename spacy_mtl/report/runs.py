"""What a training has left behind: its config, its log, its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import srsly
from spacy.util import load_config

from ..errors import Errors, quote
from .table import KEYS, read_metrics

Curves: TypeAlias = dict[str, list[tuple[int, float]]]  # by name: steps and values
ENCODERS = {"mtl_transformer", "transformer", "curated_transformer", "tok2vec"}
STATS = ("loss", "weight", "grad_norm")
MODELS = ("model-best", "model-last")


@dataclass
class Run:
    """A training, or only the scores of one.

    name (str): What it is called in the report.
    scores (Dict[str, Any]): As `spacy evaluate` writes them.
    source (str): Where the scores come from.
    curves (Dict[str, Curves]): Loss, weight and gradient norm of each task, scores, and cosines of
        each two tasks.
    steps (Optional[int]): How long it was trained.
    is_out_of_patience (bool): Whether it ended since the score had not improved for long.
    model (Optional[Path]): The folder of the pipeline.
    tasks (List[str]): The components that were trained, other than encoders.
    seed (int): The seed of the training.
    setup (Dict[str, Any]): The config without seeds and logger: runs of the same setup differ by
        chance only.
    """

    name: str
    scores: dict[str, Any]
    source: str
    curves: dict[str, Curves] = field(default_factory=dict)
    steps: int | None = None
    is_out_of_patience: bool = False
    model: Path | None = None
    tasks: list[str] = field(default_factory=list)
    seed: int = 0
    setup: dict[str, Any] = field(default_factory=dict)


def read_run(path: Path, name: str) -> Run:
    """Read a run.

    path (Path): A JSON file of `spacy evaluate --output`, or the folder of a training, with
        model-best or model-last, and the files of ProgressLogger and `spacy evaluate`, if any.
    name (str): What to call it.
    RETURNS (Run): The run. Without a file of scores, they are those of the log's best line, and
        without a log those that spaCy has saved with the pipeline.
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
    log = read_log(find_file(path, "*.jsonl", ("step", "tasks")))
    metrics = find_file(path, "*.json", KEYS)
    if metrics is not None:
        scores, source = read_metrics(metrics), metrics.name
    elif log:
        scores, source = read_best(log)
    else:
        scores, source = read_meta(models[0])
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


def find_file(folder: Path, pattern: str, keys: Sequence[str]) -> Path | None:
    """RETURNS (Optional[Path]): The file in a folder that begins with an object with one of the
    keys.
    RAISES (ValueError): M232 if there are several.
    """
    found = []
    for path in sorted(folder.glob(pattern)):
        read = srsly.read_jsonl if path.suffix == ".jsonl" else lambda p: iter([srsly.read_json(p)])
        try:
            first = next(read(path), None)
        except ValueError:
            continue
        if isinstance(first, dict) and not first.keys().isdisjoint(keys):
            found.append(path)
    if len(found) > 1:
        names = quote(path.name for path in found)
        raise ValueError(Errors.M232.format(path=folder, names=names))
    return found[0] if found else None


def read_log(path: Path | None) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): The lines of the last training that wrote to the file.
    RAISES (ValueError): M231 if they are not lines of ProgressLogger.
    """
    lines: list[dict[str, Any]] = []
    try:
        for line in srsly.read_jsonl(path) if path else ():
            if lines and line["step"] <= lines[-1]["step"]:
                lines.clear()
            lines.append({"cosines": {}, **line})
            _ = line["score"], line["scores"].items(), line["tasks"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise ValueError(Errors.M231.format(path=path, error=repr(err))) from err
    return lines


def read_meta(model: Path) -> tuple[dict[str, Any], str]:
    """RETURNS (Tuple[Dict[str, Any], str]): The scores that spaCy has saved with a pipeline, if it
    has, and where they come from.
    """
    path = model / "meta.json"
    scores = srsly.read_json(path).get("performance") if path.is_file() else None
    return (scores, f"dev, {model.name}") if scores else ({}, "-")


def read_best(log: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """RETURNS (Tuple[Dict[str, Any], str]): The scores of the line that became model-best, and
    where they come from.
    """
    best = find_best(log)
    return best["scores"], f"dev, step {best['step']}"


def find_best(log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(reversed(log), key=lambda line: line["score"] or 0.0)  # the last one of equals


def has_lost_patience(log: Sequence[dict[str, Any]], patience: int) -> bool:
    return bool(log and patience and log[-1]["step"] - find_best(log)["step"] >= patience)


def get_curves(log: Sequence[dict[str, Any]]) -> dict[str, Curves]:
    """RETURNS (Dict[str, Curves]): What a log says of each task, score and pair of tasks."""
    curves: dict[str, Curves] = {kind: {} for kind in (*STATS, "score", "cosine")}
    for line in log:
        stats = {kind: {task: s[kind] for task, s in line["tasks"].items()} for kind in STATS}
        for kind, values in {**stats, "score": line["scores"], "cosine": line["cosines"]}.items():
            for name, value in values.items():
                if value is not None:
                    curves[kind].setdefault(name, []).append((line["step"], value))
    return curves


def get_trained_tasks(config: dict[str, Any]) -> list[str]:
    """RETURNS (List[str]): The components of a config that train, other than encoders."""
    frozen = config["training"]["frozen_components"]
    return [
        name
        for name in config["nlp"]["pipeline"]
        if name not in frozen
        and "model" in config["components"][name]
        and config["components"][name]["factory"] not in ENCODERS
    ]


def without_seeds(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: without_seeds(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in ("seed", "logger")
    }


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Put together the trainings that differ by their seed only.

    RETURNS (Dict[str, List[Run]]): The runs of each setting, by seed. It is called as its runs are,
        without their seeds.
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
    stems = {run.name.removesuffix(str(run.seed)).rstrip("-_. ") for run in group}
    return stems.pop() or group[0].name if len(stems) == 1 else group[0].name


def find_single(settings: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """RETURNS (Dict[str, str]): The setting in which each task was trained alone.
    RAISES (ValueError): M238 if there are two of a task.
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


def find_difference(first: Any, second: Any) -> str:
    """RETURNS (str): The first key of one config that is different in another."""
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if isinstance(first.get(keys[0]), dict) and isinstance(second.get(keys[0]), dict):
        return f"{keys[0]}.{find_difference(first[keys[0]], second[keys[0]])}"
    return keys[0]


def check_same_dev(runs: Sequence[Run]) -> None:
    """RAISES (ValueError): M236 if trainings were evaluated on different corpora."""
    trained = [run for run in runs if run.model]
    for run in trained[1:]:
        ours, theirs = (r.setup["corpora"].get("dev") for r in (trained[0], run))
        if ours != theirs:
            raise ValueError(Errors.M236.format(first=trained[0].name, second=run.name))
