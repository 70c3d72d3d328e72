"""Build a report: run the pipelines over the data, and compare the results."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy

from ..errors import Errors, quote
from ..training.calibration import get_ece, make_bins
from .card import get_versions, summarize_settings
from .differences import find_differences
from .evaluation import Evaluation, TaskAnswers, evaluate
from .excerpts import find_errors
from .records import (
    Confusion,
    CorpusSize,
    Excerpt,
    LabelScore,
    Report,
    RunSummary,
    TaskCalibration,
    TaskRow,
    Transfer,
)
from .reliability import make_even_bins
from .runs import Run, check_same_dev, find_single, get_score_keys, group_runs
from .scores import count_confusions, count_labels, get_f
from .significance import get_p_value, get_spread

Evaluations = Mapping[str, Sequence[Evaluation]]  # of the runs of each setting


@dataclass
class Side:
    """One side of a comparison: the answers of the runs of a setting for a task."""

    setting: str
    answers: Sequence[TaskAnswers]


def make_report(runs: Sequence[Run], data: Path | None = None) -> Report:
    """Build a report.

    runs (Sequence[Run]): The runs.
    data (Optional[Path]): A .spacy file, or a folder of .spacy files, for the pipelines to run on.
    RETURNS (Report): The report. Without data it has only the runs and how they differ.
    RAISES (ValueError): M204 to M206 or M233 to M238 if the runs cannot be compared or the data
        cannot be used.
    """
    settings = group_runs(runs)
    report = Report(
        runs=summarize_all(runs, settings, {}),
        versions=get_versions(),
    )
    if data is None:
        check_same_dev(runs)
    elif not settings:
        raise ValueError(Errors.M233.format(path=data))
    else:
        single = find_single(settings)
        evaluations = {name: evaluate_all(group, data) for name, group in settings.items()}
        check_labels(evaluations, data)
        report = replace(
            report,
            runs=summarize_all(runs, settings, evaluations, data.name),
            data=str(data),
            corpus=measure(data, evaluations),
            transfer=compare(single, evaluations, settings),
            labels=list_labels(evaluations),
            calibration=list_calibration(evaluations),
            confusions=list_confusions(evaluations),
            errors=list_errors(evaluations),
        )
    return replace(
        report, settings=summarize_settings(settings), differences=find_differences(settings)
    )


def measure(data: Path, evaluations: Evaluations) -> CorpusSize:
    """RETURNS (CorpusSize): The size of the data that the pipelines ran on."""
    docs = next(iter(evaluations.values()))[0].docs
    return CorpusSize(data.name, len(docs), sum(map(len, docs)))


def evaluate_all(group: Sequence[Run], data: Path) -> list[Evaluation]:
    """RETURNS (List[Evaluation]): The evaluation of each run's pipeline."""
    return [evaluate(run.model, data, run.tasks) for run in group if run.model]


def check_labels(evaluations: Evaluations, data: Path) -> None:
    """RAISES (ValueError): M234 if no doc has labels for any task."""
    tasks = [pair for group in evaluations.values() for e in group for pair in e.tasks.items()]
    if not any(any(answers.docs) for _, answers in tasks):
        names = quote(dict.fromkeys(name for name, _ in tasks))
        raise ValueError(Errors.M234.format(path=data, tasks=names))


def summarize_all(
    runs: Sequence[Run],
    settings: Mapping[str, Sequence[Run]],
    evaluations: Evaluations,
    source: str = "",
) -> list[RunSummary]:
    """Summarize runs, with the scores of their evaluations if there are any.

    runs (Sequence[Run]): The runs.
    settings (Mapping[str, Sequence[Run]]): The runs of each setting.
    evaluations (Evaluations): The evaluations of the runs of each setting.
    source (str): The name of the evaluated data.
    RETURNS (List[RunSummary]): The summaries.
    """
    names = {id(run): name for name, group in settings.items() for run in group}
    summaries = {id(run): summarize(run, names.get(id(run))) for run in runs}
    for name, group in evaluations.items():
        for run, evaluation in zip(settings[name], group, strict=True):
            summaries[id(run)].scores = pick_scores(evaluation.scores)
            summaries[id(run)].source = source
    return list(summaries.values())


def summarize(run: Run, setting: str | None) -> RunSummary:
    """RETURNS (RunSummary): The summary of a run with its own scores."""
    seed = run.seed if run.model else None
    scores = pick_scores(run.scores)
    return RunSummary(run.name, setting, run.tasks, seed, run.source, scores, run.steps, run.curves)


def pick_scores(scores: Mapping[str, object]) -> dict[str, object]:
    """RETURNS (Dict[str, object]): The scores that the report shows, without missing ones."""
    keys = {"speed", *(name for key in get_score_keys(scores) for name in (key, f"{key}_desc"))}
    return {key: value for key, value in scores.items() if key in keys and value is not None}


def compare(
    single: Mapping[str, str], evaluations: Evaluations, settings: Mapping[str, Sequence[Run]]
) -> list[Transfer]:
    """Compare each task trained with other tasks with the task trained alone.

    single (Mapping[str, str]): For a task the setting in which it is trained alone.
    evaluations (Evaluations): The evaluations of the runs of each setting.
    settings (Mapping[str, Sequence[Run]]): The runs of each setting.
    RETURNS (List[Transfer]): The comparisons.
    """
    records = []
    for name, group in evaluations.items():
        for task, answers in group[0].tasks.items():
            if name not in single.values() and task in single and any(answers.docs):
                names = single[task], name
                pair = {side: settings[side] for side in names}
                alone, together = (
                    Side(side, [e.tasks[task] for e in evaluations[side]]) for side in names
                )
                differences = [record.key for record in find_differences(pair, task)]
                records.append(compare_task(task, alone, together, differences))
    return records


def compare_task(task: str, single: Side, multi: Side, differences: Sequence[str] = ()) -> Transfer:
    """Compare two settings in a task. If one setting has more seeds, its last ones do not count.

    task (str): The task.
    single, multi (Side): The answers of the runs.
    differences (Sequence[str]): In which other keys of the config the settings differ. If there
        are any, p is None: it would not tell which of the differences has the effect.
    RETURNS (Transfer): The comparison.
    """
    sides = single.answers, multi.answers
    first, n_seeds = single.answers[0], min(map(len, sides))
    labels = sorted({label for side in sides for answers in side for label in answers.labels})
    labelled = [i for i, doc in enumerate(first.docs) if doc]
    counts = [
        numpy.stack([count_labels(a.docs, labels) for a in side[:n_seeds]])[:, labelled]
        for side in sides
    ]
    if not first.is_macro:
        counts = [side.sum(axis=2, keepdims=True) for side in counts]
    alone, together = (get_f(side.sum(axis=1)).tolist() for side in counts)
    return Transfer(
        task,
        single.setting,
        multi.setting,
        first.measure,
        single_mean=mean(alone),
        single_sd=get_spread(alone),
        multi_mean=mean(together),
        multi_sd=get_spread(together),
        difference=mean(together) - mean(alone),
        p=None if differences else get_p_value(*counts),
        seeds=n_seeds,
        docs=len(labelled),
        differences=[*differences],
    )


def iterate_tasks(evaluations: Evaluations) -> Iterator[tuple[TaskRow, list[TaskAnswers]]]:
    """YIELDS (Tuple[TaskRow, List[TaskAnswers]]): Each task of each setting, and the answers of
    the setting's runs.
    """
    for name, group in evaluations.items():
        for task in group[0].tasks:
            yield TaskRow(task, name), [evaluation.tasks[task] for evaluation in group]


def list_labels(evaluations: Evaluations) -> list[LabelScore]:
    """RETURNS (List[LabelScore]): The scores of each label, over all seeds."""
    records = []
    for row, runs in iterate_tasks(evaluations):
        labels = sorted({label for answers in runs for label in answers.labels})
        counts = numpy.mean([count_labels(a.docs, labels).sum(axis=0) for a in runs], axis=0)
        pairs = zip(labels, counts.tolist(), strict=True)
        records += [LabelScore.from_counts(row, label, count) for label, count in pairs]
    return records


def list_calibration(evaluations: Evaluations) -> list[TaskCalibration]:
    """RETURNS (List[TaskCalibration]): The calibration of the heads of spacy-mtl."""
    records = []
    for row, runs in iterate_tasks(evaluations):
        found = [run.confidences for run in runs if run.confidences is not None]
        if found := [run for run in found if len(run[0])]:
            errors = [get_ece(make_bins(*run)) for run in found]
            confidences, is_right = map(numpy.concatenate, zip(*found, strict=True))
            records.append(
                TaskCalibration(
                    row.task,
                    row.setting,
                    ece_mean=mean(errors),
                    ece_sd=get_spread(errors),
                    confidence=float(confidences.mean(dtype="float64")),
                    accuracy=float(is_right.mean()),
                    predictions=len(is_right),
                    bins=make_even_bins(confidences, is_right),
                )
            )
    return records


def list_confusions(evaluations: Evaluations) -> list[Confusion]:
    """RETURNS (List[Confusion]): The confusions, the most frequent first, over all seeds."""
    records = []
    for row, runs in iterate_tasks(evaluations):
        counts: Counter[tuple[str, str]] = Counter()
        for answers in runs:
            counts.update(count_confusions(answers.docs))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        records += [Confusion(row.task, row.setting, *pair, count) for pair, count in ranked]
    return records


def list_errors(evaluations: Evaluations) -> list[Excerpt]:
    """RETURNS (List[Excerpt]): Excerpts with errors, for each task from the first run that has
    any.
    """
    records: list[Excerpt] = []
    for name, (evaluation, *_) in evaluations.items():
        for task, answers in evaluation.tasks.items():
            if task not in {record.task for record in records}:
                records += find_errors(TaskRow(task, name), answers.docs, evaluation.docs)
    return records
