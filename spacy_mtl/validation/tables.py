"""The results of cross-validation, and likely errors of annotation, as tables."""

from collections.abc import Sequence

from ..report.markdown import Table
from ..report.tables import show_mean, show_p, show_percent
from .summary import Summary
from .suspects import Suspect

SECTION, SUSPECTS = "Scores", "Contradicted labels"


def make_tables(summary: Summary) -> list[Table]:
    """RETURNS (List[Table]): The scores of each task over folds, and in each fold."""
    note = (
        "Mean and standard deviation of the scores of the folds, in percent, and the 95 % "
        "confidence interval of the mean, which takes into account that the training data of folds "
        "overlap."
    )
    header = ["task", "score", "folds", "mean", "from", "to"]
    has_single = any(task.single for task in summary.tasks)
    if has_single:
        header += ["alone", "difference", "p"]
        note += (
            " Alone: the task trained alone on the same folds. The difference is that of the mean "
            "scores, in points. The test exchanges the answers for whole documents."
        )
    rows, by_fold = [], []
    names = list(dict.fromkeys(name for task in summary.tasks for name in task.values))
    for task in summary.tasks:
        ends = task.interval or (None, None)
        row = [task.task, task.score, str(len(task.values)), show_mean(task.mean, task.spread)]
        row += map(show_percent, ends)
        if has_single:
            single = task.single
            difference = f"{100 * single.difference:+.2f}" if single else "-"
            row += [show_percent(single.mean) if single else "-", difference]
            row.append(show_p(single.p) if single else "-")
        rows.append(row)
        by_fold.append([task.task, *(show_percent(task.values.get(name)) for name in names)])
    units = dict.fromkeys([*header[3:6], "alone"], "%")
    first = Table(SECTION, "Over all folds", note, header, rows, texts=2, units=units)
    note = "The score of each fold, in percent: repeat and fold."
    units = dict.fromkeys(names, "%")
    return [first, Table(SECTION, "Each fold", note, ["task", *names], by_fold, units=units)]


def make_suspect_table(suspects: Sequence[Suspect]) -> Table:
    """RETURNS (Table): The contradicted labels."""
    note = (
        "Gold labels that the model contradicts, most confident first: the probability of the "
        "predicted label minus that of the gold label. Many of the first are errors of annotation. "
        "O: no entity."
    )
    rows = [
        [
            *(s.task, str(s.doc), s.document, s.text, s.words, s.gold, s.predicted),
            *(f"{s.p_gold:.3f}", f"{s.p_predicted:.3f}"),
        ]
        for s in suspects
    ]
    header = ["task", "doc", "document", "text", "words", "gold", "predicted", "p gold", "p"]
    return Table(SUSPECTS, "Likely errors of annotation", note, header, rows, texts=7)


def make_verdict(summary: Summary) -> list[str]:
    """RETURNS (List[str]): The result in words."""
    times = f", {summary.repeats} times" if summary.repeats > 1 else ""
    lines = [
        f"{summary.docs} docs of {summary.groups} documents in {summary.k} folds{times}: "
        f"{summary.finished} of {summary.total} models are finished."
    ]
    for task in summary.tasks:
        text = f"{task.task}: {task.score} {show_mean(task.mean, task.spread)}"
        if task.interval:
            text += f" (95 % interval {' to '.join(map(show_percent, task.interval))})"
        lines.append(f"{text}.")
    return lines
