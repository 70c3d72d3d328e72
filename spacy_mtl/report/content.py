"""All that a report says, as numbers: tables and the page are made of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy

from ..errors import Errors, quote
from ..training.calibration import get_ece, make_bins
from .differences import find_differences
from .runs import Run, check_same_dev, find_single, group_runs
from .scores import (
    MACRO,
    Evaluation,
    TaskAnswers,
    count_confusions,
    count_labels,
    evaluate,
    find_errors,
    get_f,
    score_labels,
)
from .significance import get_p_value, get_spread
from .table import KEYS

Evaluations = Mapping[str, Sequence[Evaluation]]  # of each setting's runs
Records = list[dict[str, Any]]


def make_content(runs: Sequence[Run], data: Path | None = None) -> dict[str, Any]:
    """Find out what there is to report.

    runs (Sequence[Run]): The runs.
    data (Optional[Path]): A .spacy file, or a folder of them, for the pipelines to run over.
    RETURNS (Dict[str, Any]): What JSON can hold: "runs", "data", and the lists of records
        "differences", "transfer", "labels", "calibration", "confusions" and "errors". All but the
        first are empty without data.
    RAISES (ValueError): M204, M205 or M233 to M238 if it cannot be found out.
    """
    settings = group_runs(runs)
    found: dict[str, list[Evaluation]] = {}
    single: dict[str, str] = {}
    if data is None:
        check_same_dev(runs)
    elif not settings:
        raise ValueError(Errors.M233.format(path=data))
    else:
        single = find_single(settings)
        found = {name: evaluate_all(group, data) for name, group in settings.items()}
        check_labels(found, data)
    names = {id(run): name for name, group in settings.items() for run in group}
    return {
        "runs": [describe(run, names.get(id(run))) for run in runs],
        "data": str(data) if data else None,
        "differences": find_differences(settings),
        "transfer": compare(single, found, settings),
        "labels": list_labels(found),
        "calibration": list_calibration(found),
        "confusions": list_confusions(found),
        "errors": list_errors(found),
    }


def evaluate_all(group: Sequence[Run], data: Path) -> list[Evaluation]:
    """RETURNS (List[Evaluation]): What the runs answer. Their scores become those on the data."""
    found = []
    for run in group:
        assert run.model is not None
        found.append(evaluate(run.model, data, run.tasks))
        run.scores, run.source = found[-1].scores, data.name
    return found


def check_labels(found: Evaluations, data: Path) -> None:
    """RAISES (ValueError): M234 if no doc has labels for any task."""
    tasks = [pair for group in found.values() for e in group for pair in e.tasks.items()]
    if not any(any(answers.docs) for _, answers in tasks):
        names = quote(dict.fromkeys(name for name, _ in tasks))
        raise ValueError(Errors.M234.format(path=data, tasks=names))


def describe(run: Run, setting: str | None) -> dict[str, Any]:
    known = (*KEYS, "cats_score_desc", "speed")
    return {
        "name": run.name,
        "setting": setting,
        "tasks": run.tasks,
        "seed": run.seed if run.model else None,
        "source": run.source,
        "scores": {key: run.scores[key] for key in known if run.scores.get(key) is not None},
        "steps": run.steps,
        "curves": run.curves,
    }


def compare(
    single: Mapping[str, str], found: Evaluations, settings: Mapping[str, Sequence[Run]]
) -> Records:
    """Compare training together with training alone, for each task: the transfer table.

    single (Mapping[str, str]): The setting in which each task was trained alone.
    found (Evaluations): The answers.
    settings (Mapping[str, Sequence[Run]]): The runs that they are of.
    RETURNS (Records): As of `compare_task`. "differences" are the settings by which the runs differ
        otherwise. If there are any, the p value is None: it would not tell what made the
        difference.
    """
    records = []
    for name, group in found.items():
        for task, answers in group[0].tasks.items():
            if name not in single.values() and task in single and any(answers.docs):
                alone = single[task]
                pair = {alone: settings[alone], name: settings[name]}
                keys = [record["key"] for record in find_differences(pair, task)]
                sides = ([e.tasks[task] for e in found[side]] for side in pair)
                record = {"task": task, "single": alone, "multi": name, **compare_task(*sides)}
                records.append(record | {"differences": keys} | ({"p": None} if keys else {}))
    return records


def compare_task(single: Sequence[TaskAnswers], multi: Sequence[TaskAnswers]) -> dict[str, Any]:
    """Compare two settings in a task. If one has more seeds, its last ones do not count.

    single, multi (Sequence[TaskAnswers]): The answers of the runs.
    RETURNS (Dict[str, Any]): Means and standard deviations of the scores over seeds, and the p
        value of their difference.
    """
    measure, n_seeds = single[0].measure, min(len(single), len(multi))
    labels = sorted({label for answers in (*single, *multi) for label in answers.labels})
    labelled = [i for i, answer in enumerate(single[0].docs) if answer]
    counts = [
        numpy.stack([count_labels(a.docs, labels) for a in side[:n_seeds]])[:, labelled]
        for side in (single, multi)
    ]
    if measure != MACRO:
        counts = [side.sum(axis=2, keepdims=True) for side in counts]
    alone, together = (get_f(side.sum(axis=1)).tolist() for side in counts)
    return {
        "measure": measure,
        "single_mean": mean(alone),
        "single_sd": get_spread(alone),
        "multi_mean": mean(together),
        "multi_sd": get_spread(together),
        "difference": mean(together) - mean(alone),
        "p": get_p_value(*counts),
        "seeds": n_seeds,
        "docs": len(labelled),
    }


def list_labels(found: Evaluations) -> Records:
    """RETURNS (Records): Precision, recall and F of each label, over all seeds."""
    records = []
    for name, group in found.items():
        for task in group[0].tasks:
            runs = [evaluation.tasks[task] for evaluation in group]
            labels = sorted({label for answers in runs for label in answers.labels})
            counts = numpy.mean([count_labels(a.docs, labels).sum(axis=0) for a in runs], axis=0)
            for label, count in zip(labels, counts, strict=True):
                record = {"task": task, "setting": name, "label": label}
                records.append({**record, **score_labels(count)})
    return records


def list_calibration(found: Evaluations) -> Records:
    """RETURNS (Records): How sure heads of spacy-mtl are, and how often they are right: the mean
    and standard deviation of the expected calibration error over seeds, and what it is made of,
    over all seeds.
    """
    records = []
    for name, group in found.items():
        for task in group[0].tasks:
            runs = [evaluation.tasks[task].confidences for evaluation in group]
            known = [run for run in runs if run is not None and len(run[0])]
            if known:
                errors = [get_ece(make_bins(*run)) for run in known]
                confidences, is_right = map(numpy.concatenate, zip(*known, strict=True))
                records.append(
                    {
                        "task": task,
                        "setting": name,
                        "ece_mean": mean(errors),
                        "ece_sd": get_spread(errors),
                        "confidence": float(confidences.mean(dtype="float64")),
                        "accuracy": float(is_right.mean()),
                        "predictions": len(is_right),
                        "bins": [asdict(part) for part in make_bins(confidences, is_right)],
                    }
                )
    return records


def list_confusions(found: Evaluations) -> Records:
    """RETURNS (Records): Gold and predicted labels of the same spans, the most frequent first,
    over all seeds.
    """
    records = []
    for name, group in found.items():
        for task in group[0].tasks:
            counts: Counter[tuple[str, str]] = Counter()
            for evaluation in group:
                counts.update(count_confusions(evaluation.tasks[task].docs))
            for (gold, predicted), count in sorted(counts.items(), key=lambda c: (-c[1], c[0])):
                record = {"task": task, "setting": name, "gold": gold, "predicted": predicted}
                records.append({**record, "count": count})
    return records


def list_errors(found: Evaluations) -> Records:
    """RETURNS (Records): Excerpts with errors, for each task from the first run that has it."""
    records: Records = []
    for name, (evaluation, *_) in found.items():
        for task, answers in evaluation.tasks.items():
            if task not in {record["task"] for record in records}:
                errors = find_errors(answers.docs, evaluation.docs)
                records += [{"task": task, "setting": name, **error} for error in errors]
    return records
