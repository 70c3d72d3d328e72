"""The tables of a report, and its claims: one sentence for each comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean

from ..annotations import find_scored_layers
from .markdown import Bold, Table
from .records import (
    Confusion,
    Difference,
    Excerpt,
    LabelScore,
    Mark,
    Report,
    RunSummary,
    TaskCalibration,
    Transfer,
    group_by_task,
)

SPEED, SPEED_TITLE = "speed", "words/s"
CONFUSIONS = 10  # rows for each setting of a task


def make_claims(report: Report) -> list[str]:
    """RETURNS (List[str]): One sentence per comparison: the claim."""
    return [make_claim(transfer) for transfer in report.transfer]


def make_claim(transfer: Transfer) -> str:
    """RETURNS (str): The result of a comparison, its numbers, and their conditions."""
    if transfer.differences:
        effect = f"No conclusion about {transfer.task}: the runs differ in other settings too"
    elif not transfer.is_significant:
        effect = f"Training together makes no clear difference to {transfer.task}"
    else:
        verb = "improves" if transfer.difference > 0 else "harms"
        effect = f"Training together {verb} {transfer.task}"
    single, multi = (f"{100 * x:.2f}" for x in (transfer.single_mean, transfer.multi_mean))
    seeds = f"{transfer.seeds} seed{'s' if transfer.seeds > 1 else ''}"
    p = "" if transfer.p is None else f"p {show_p(transfer.p)}, ".replace("p 0", "p = 0")
    return (
        f"{effect}: {100 * transfer.difference:+.2f} points of {transfer.measure}, {multi} in "
        f"{transfer.multi} against {single} alone ({p}{seeds}, {transfer.docs} docs)."
    )


def make_tables(report: Report) -> list[Table]:
    """RETURNS (List[Table]): All tables: first the comparisons, then the details."""
    runs = report.runs
    tables = [make_table([run.name for run in runs], [run.scores for run in runs])]
    if report.differences:
        tables.insert(0, make_difference_table(report.differences))
    if report.transfer:
        tables.insert(0, make_transfer_table(report.transfer))
    if any(run.setting for run in runs):
        tables.append(make_run_table(runs))
    tables += [make_training_table(runs), make_conflict_table(runs)]
    tables += make_label_tables(report.labels)
    tables.append(make_calibration_table(report.calibration))
    tables += make_confusion_tables(report.confusions)
    tables += make_error_tables(report.errors)
    return [table for table in tables if table.rows]


def make_table(names: Sequence[str], runs: Sequence[Mapping[str, object]]) -> Table:
    """Make the table of all scores, with a column for each score that a run has.

    names (Sequence[str]): The names of the runs.
    runs (Sequence[Mapping[str, object]]): Their scores, as `spacy evaluate` writes them.
    RETURNS (Table): A row for each run, in percent and words per second. The best score of each
        column is bold if there are several runs. Missing scores are "-".
    """
    columns: dict[str, list[float | None]] = {}
    for key in [*order_keys(runs), SPEED]:
        for i, run in enumerate(runs):
            value = run.get(key)
            if isinstance(value, int | float):
                column = columns.setdefault(get_title(key, run), [None] * len(runs))
                column[i] = value if key == SPEED else 100 * value
    cells = [
        format_column(column, ".0f" if title == SPEED_TITLE else ".2f")
        for title, column in columns.items()
    ]
    rows = list(zip(names, *cells, strict=True))
    note = "Percent. The best is bold." if len(runs) > 1 else "Percent."
    units = {title: "%" for title in columns if title != SPEED_TITLE}
    header = ["run", *columns]
    return Table("Scores", "All runs", note, header, rows, units=units, run_column=0)


def order_keys(runs: Sequence[Mapping[str, object]]) -> list[str]:
    """RETURNS (List[str]): The keys of all scores that a report shows, in the order of the layers
    in the scores of the runs.
    """
    order = list(dict.fromkeys(key for run in runs for key in run))
    layers = [(layer.score_key, *layer.detail_keys) for layer in find_scored_layers(order)]
    layers.sort(key=lambda keys: min((order.index(key) for key in keys if key in order), default=0))
    return [key for keys in layers for key in keys]


def get_title(key: str, scores: Mapping[str, object]) -> str:
    """RETURNS (str): The title of the column of a score. Scores of different kinds under one key,
    such as cats_score, have different titles.
    """
    if key == SPEED:
        return SPEED_TITLE
    kind = scores.get(f"{key}_desc")
    return f"{key} ({kind})" if kind else key


def make_difference_table(records: Sequence[Difference]) -> Table:
    """RETURNS (Table): The settings that differ besides tasks and balancers."""
    note = (
        "The runs differ in these settings too, besides their tasks and balancers. A difference of "
        "scores between such runs has no p value, because any of the settings may cause it."
    )
    settings = list(records[0].values)
    rows = [
        [record.key, *(shorten(record.values[name] or "-") for name in settings)]
        for record in records
    ]
    header = ["setting", *settings]
    return Table("Settings", "What differs", note, header, rows, texts=len(header))


def make_transfer_table(records: Sequence[Transfer]) -> Table:
    """RETURNS (Table): Each task trained with others, against the task trained alone."""
    note = (
        "Scores of each task trained together with other tasks and trained alone: mean and standard"
        " deviation over seeds, in percent. A difference with p below 0.05 is bold. p is the "
        "probability of a difference this large by chance (paired randomisation test over docs). Of"
        " 20 tasks without any effect, one is bold on average. The test does not cover the choice "
        "of seeds: compare the standard deviations. There is no p if the runs differ in other "
        "settings."
    )
    rows = [
        [
            f"{record.task} ({record.measure})",
            record.multi,
            (Bold if record.is_significant else str)(f"{100 * record.difference:+.2f}"),
            show_p(record.p),
            show_mean(record.single_mean, record.single_sd),
            show_mean(record.multi_mean, record.multi_sd),
            str(record.seeds),
            str(record.docs),
        ]
        for record in records
    ]
    header = ["task", "setting", "difference", "p", "alone", "together", "seeds", "docs"]
    return Table(
        "Transfer",
        "Alone or together",
        note,
        header,
        rows,
        texts=2,
        units={"difference": "points", "alone": "%", "together": "%"},
        setting_column=1,
    )


def make_run_table(runs: Sequence[RunSummary]) -> Table:
    """RETURNS (Table): The setting, the seed and the length of each run."""
    note = "Runs of one setting differ only in their seeds."
    header = ["run", "setting", "tasks", "scores of", "seed", "steps"]
    rows = [
        [
            run.name,
            run.setting or "-",
            ", ".join(run.tasks) or "-",
            run.source,
            show(run.seed, "d"),
            show(run.steps, "d"),
        ]
        for run in runs
    ]
    return Table("Scores", "Settings of the runs", note, header, rows, texts=4, run_column=0)


def make_training_table(runs: Sequence[RunSummary]) -> Table:
    """RETURNS (Table): The last loss, weight and gradient norm of each task."""
    note = "Means over the updates between the last two evaluations."
    header = ["run", "task", "loss", "weight", "gradient norm"]
    rows = []
    for run in runs:
        for task, losses in run.curves.get("loss", {}).items():
            others = [run.curves[kind].get(task) for kind in ("weight", "grad_norm")]
            last = [curve[-1][1] if curve else None for curve in (losses, *others)]
            rows.append([run.name, task, *(show(value, ".4g") for value in last)])
    return Table("Training", "At the end of training", note, header, rows, texts=2, run_column=0)


def make_conflict_table(runs: Sequence[RunSummary]) -> Table:
    """RETURNS (Table): The cosine of the gradients of each pair of tasks."""
    note = (
        "The cosine of two tasks' gradients at the encoder's output. Below 0 the tasks conflict; at"
        " 0 they are independent, for example because no doc has labels for both."
    )
    rows = []
    for run in runs:
        for pair, curve in run.curves.get("cosine", {}).items():
            values = [value for _, value in curve]
            numbers = [mean(values), min(values), max(values)]
            rows.append([run.name, pair.replace("|", " and "), *(f"{n:+.3f}" for n in numbers)])
    header = ["run", "tasks", "mean cosine", "lowest", "highest"]
    return Table("Balance", "Conflicts", note, header, rows, texts=2, run_column=0)


def make_label_tables(records: Sequence[LabelScore]) -> list[Table]:
    """RETURNS (List[Table]): The scores of the labels of each task."""
    note = "Precision, recall and F in percent, over all seeds. Support counts the gold labels."
    tables = []
    for task, group in group_by_task(records).items():
        settings = list(dict.fromkeys(record.setting for record in group))
        scores = {(r.label, r.setting): (r.p, r.r, r.f) for r in group}
        support = {record.label: record.support for record in reversed(group)}
        rows = []
        for label in sorted(support, key=lambda label: (-support[label], label)):
            cells = [x for s in settings for x in scores.get((label, s), (None, None, None))]
            rows.append([label, f"{support[label]:.0f}", *map(show_percent, cells)])
        owners = {f"{name} {key}": name for name in settings for key in "PRF"}
        table = Table("Labels", task, note, ["label", "support", *owners], rows)
        tables.append(replace(table, units=dict.fromkeys(owners, "%"), column_settings=owners))
    return tables


def make_calibration_table(records: Sequence[TaskCalibration]) -> Table:
    """RETURNS (Table): The calibration of each head."""
    note = (
        "How far probabilities differ from the share of correct predictions, in percent: the "
        "expected calibration error (15 bins of equal width; mean and standard deviation over "
        "seeds; 0 is best), the mean probability and the share of correct predictions. Predictions "
        "are the best tag or category, each predicted entity, and each independent category that "
        "was assigned. The command calibrate reduces the error."
    )
    rows = [
        [
            record.task,
            record.setting,
            show_mean(record.ece_mean, record.ece_sd),
            show_percent(record.confidence),
            show_percent(record.accuracy),
            str(record.predictions),
        ]
        for group in group_by_task(records).values()
        for record in group
    ]
    header = ["task", "setting", "calibration error", "confidence", "correct", "predictions"]
    units = dict.fromkeys(header[2:5], "%")
    return Table(
        "Calibration", "Confidence", note, header, rows, texts=2, units=units, setting_column=1
    )


def make_confusion_tables(records: Sequence[Confusion]) -> list[Table]:
    """RETURNS (List[Table]): The most frequent confusions of each task."""
    note = "The most frequent errors, over all seeds. (none): no label on exactly this span."
    tables = []
    for task, group in group_by_task(records).items():
        wrong = [record for record in group if record.gold != record.predicted]
        rows = []
        for setting in dict.fromkeys(record.setting for record in wrong):
            most = [record for record in wrong if record.setting == setting][:CONFUSIONS]
            rows += [[setting, r.gold, r.predicted, str(r.count)] for r in most]
        header = ["setting", "gold", "predicted", "count"]
        tables.append(Table("Confusions", task, note, header, rows, texts=3, setting_column=0))
    return tables


def make_error_tables(records: Sequence[Excerpt]) -> list[Table]:
    """RETURNS (List[Table]): The excerpts with errors of each task."""
    note = "Excerpts of the docs with the most errors: missed gold labels, and wrong predictions."
    tables = []
    for task, group in group_by_task(records).items():
        rows = [
            [r.text, show_marks(r.text, r.gold), show_marks(r.text, r.predicted)] for r in group
        ]
        tables.append(Table("Errors", task, note, ["text", "gold", "predicted"], rows, texts=3))
    return tables


def format_column(values: Sequence[float | None], style: str) -> list[str]:
    """RETURNS (List[str]): The values as text, the highest of several in bold type."""
    cells = [show(value, style) for value in values]
    known = [value for value in values if value is not None]
    if known and len(values) > 1:
        best = format(max(known), style)  # equal when shown counts as equal
        cells = [Bold(cell) if cell == best else cell for cell in cells]
    return cells


def show(value: float | None, style: str) -> str:
    """RETURNS (str): A formatted value, "-" if it is missing."""
    return "-" if value is None else format(value, style)


def show_p(value: float | None) -> str:
    """RETURNS (str): A p value."""
    return "< 0.001" if value is not None and value < 0.001 else show(value, ".3f")


def shorten(text: str, most: int = 60) -> str:
    """RETURNS (str): The beginning of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def show_percent(value: float | None) -> str:
    """RETURNS (str): A share in percent."""
    return show(value if value is None else 100 * value, ".1f")


def show_mean(value: float, spread: float | None) -> str:
    """RETURNS (str): A mean in percent, with the standard deviation if there is one."""
    return f"{100 * value:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def show_marks(text: str, marks: Sequence[Mark]) -> str:
    """RETURNS (str): The marked parts of a text with their labels."""
    return "; ".join(f"{text[m.start : m.end]} [{m.label}]" for m in marks) or "-"
