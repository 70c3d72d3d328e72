"""What a report says, as tables: in Markdown, and on the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

import srsly

from ..errors import Errors

KEYS = ("tag_acc", "ents_f", "ents_p", "ents_r", "cats_score")
SPEED = "words/s"
CONFUSIONS = 10  # the most frequent of each task


@dataclass
class Table:
    """Cells as text; what is between ** is bold.

    section (str): Where it belongs in the report.
    title (str): What it shows.
    note (str): What to read from it.
    header (Sequence[str]): The columns' titles.
    rows (Sequence[Sequence[str]]): The cells.
    texts (int): How many columns, from the left, are no numbers.
    """

    section: str
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1

    def to_markdown(self) -> str:
        columns = []
        for i, cells in enumerate(zip(self.header, *self.rows, strict=True)):
            is_text = i < self.texts
            cells = [re.sub(r"([|`<])", r"\\\1", cell) for cell in cells] if is_text else cells
            columns.append(lay_out(cells, numbers=not is_text))
        return "".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True))


def read_metrics(path: Path) -> dict[str, Any]:
    """Read the scores of a run.

    path (Path): A JSON file that `spacy evaluate --output` has written.
    RETURNS (Dict[str, Any]): The scores.
    RAISES (ValueError): M201 if there is no such file, M202 if it holds something else.
    """
    if not path.is_file():
        raise ValueError(Errors.M201.format(path=path))
    try:
        metrics = srsly.read_json(path)
    except ValueError as err:
        raise ValueError(Errors.M202.format(path=path, reason=err)) from err
    if not isinstance(metrics, dict) or metrics.keys().isdisjoint(KEYS):
        raise ValueError(Errors.M202.format(path=path, reason=f"no score among {', '.join(KEYS)}"))
    return metrics


def to_markdown(tables: Sequence[Table]) -> str:
    """RETURNS (str): The tables with their sections, titles and notes; one alone without."""
    if len(tables) == 1:
        return tables[0].to_markdown()
    parts = []
    for section, group in groupby(tables, key=lambda table: table.section):
        parts.append(f"## {section}\n")
        parts += [f"### {t.title}\n\n{t.note}\n\n{t.to_markdown()}" for t in group]
    return "\n".join(parts)


def make_tables(content: dict[str, Any]) -> list[Table]:
    """RETURNS (List[Table]): What `make_content` has found out."""
    runs = content["runs"]
    tables = [make_table([run["name"] for run in runs], [run["scores"] for run in runs])]
    if content["transfer"]:
        tables.insert(0, make_transfer_table(content["transfer"]))
    if content["differences"]:
        tables.insert(0, make_difference_table(content["differences"]))
    if any(run["setting"] for run in runs):
        tables.append(make_run_table(runs))
    for make in (make_training_table, make_conflict_table):
        tables += [table for table in [make(runs)] if table.rows]
    tables += make_label_tables(content["labels"])
    if content["calibration"]:
        tables.append(make_calibration_table(content["calibration"]))
    tables += make_confusion_tables(content["confusions"])
    return tables + make_error_tables(content["errors"])


def make_table(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> Table:
    """Put the scores of runs below each other: percent, and words per second. The best of each
    column is bold if there are several runs.

    names (Sequence[str]): The runs' names.
    runs (Sequence[Dict[str, Any]]): Their scores, as `spacy evaluate` writes them.
    RETURNS (Table): A row for each run. Scores that are missing are "-".
    """
    scores = [pick_scores(run) for run in runs]
    # Category scores of different kinds cannot be compared: each kind has a column.
    kinds = dict.fromkeys(title for run in scores for title in run if title.startswith("cats"))
    titles = [*KEYS[:-1], *(kinds or ["cats_score"]), SPEED]
    columns = [
        format_column([run.get(title) for run in scores], ".0f" if title == SPEED else ".2f")
        for title in titles
    ]
    rows = list(zip(names, *columns, strict=True))
    return Table("Scores", "All runs", "Percent. The best is bold.", ["run", *titles], rows)


def make_difference_table(records: Sequence[dict[str, Any]]) -> Table:
    note = (
        "Beside their tasks and balancers, these settings differ between the runs. A difference of "
        "scores between such runs has no p value: it may come from any of these settings."
    )
    settings = list(records[0]["values"])
    rows = [
        [record["key"], *(shorten(record["values"][name] or "-") for name in settings)]
        for record in records
    ]
    header = ["setting", *settings]
    return Table("Settings", "What differs", note, header, rows, texts=len(header))


def make_transfer_table(records: Sequence[dict[str, Any]]) -> Table:
    note = (
        "Each task trained together with the others, against trained alone: mean and standard "
        "deviation over seeds, in percent. p is how often a difference this large comes by chance "
        "(paired randomisation test over docs); below 0.05 the difference is bold. Of 20 tasks for "
        "which it makes no difference, one is bold. The test knows nothing of other seeds: see the "
        "spread. There is no p where the runs differ in other settings."
    )
    rows = []
    for record in records:
        difference = f"{100 * record['difference']:+.2f}"
        rows.append(
            [
                f"{record['task']} ({record['measure']})",
                record["multi"],
                f"**{difference}**"
                if record["p"] is not None and record["p"] < 0.05
                else difference,
                show_p(record["p"]),
                show_mean(record["single_mean"], record["single_sd"]),
                show_mean(record["multi_mean"], record["multi_sd"]),
                str(record["seeds"]),
                str(record["docs"]),
            ]
        )
    header = ["task", "setting", "difference", "p", "alone", "together", "seeds", "docs"]
    return Table("Transfer", "Alone or together", note, header, rows, texts=2)


def make_run_table(runs: Sequence[dict[str, Any]]) -> Table:
    note = "Runs of one setting differ by their seed only."
    header = ["run", "setting", "tasks", "scores of", "seed", "steps"]
    rows = [
        [
            run["name"],
            run["setting"] or "-",
            ", ".join(run["tasks"]) or "-",
            run["source"],
            show(run["seed"], "d"),
            show(run["steps"], "d"),
        ]
        for run in runs
    ]
    return Table("Scores", "What they are", note, header, rows, texts=4)


def make_training_table(runs: Sequence[dict[str, Any]]) -> Table:
    note = "Means over the updates before the last evaluation."
    header = ["run", "task", "loss", "weight", "gradient norm"]
    rows = []
    for run in runs:
        for task, losses in run["curves"].get("loss", {}).items():
            others = [run["curves"][kind].get(task) for kind in ("weight", "grad_norm")]
            last = [curve[-1][1] if curve else None for curve in (losses, *others)]
            rows.append([run["name"], task, *(show(value, ".4g") for value in last)])
    return Table("Training", "At the end of training", note, header, rows, texts=2)


def make_conflict_table(runs: Sequence[dict[str, Any]]) -> Table:
    note = (
        "The cosine of the angle between two tasks' gradients at the encoder's output: below 0 they"
        " pull against each other, at 0 they do not meet, as where no doc has labels for both."
    )
    rows = []
    for run in runs:
        for pair, curve in run["curves"].get("cosine", {}).items():
            values = [value for _, value in curve]
            numbers = [mean(values), min(values), max(values)]
            rows.append([run["name"], pair.replace("|", " and "), *(f"{n:+.3f}" for n in numbers)])
    header = ["run", "tasks", "mean cosine", "lowest", "highest"]
    return Table("Balance", "Conflicts", note, header, rows, texts=2)


def make_label_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    note = "Precision, recall and F in percent, over all seeds; support is how often it is right."
    tables = []
    for task, group in group_by_task(records):
        settings = list(dict.fromkeys(record["setting"] for record in group))
        cells = {(record["label"], record["setting"]): record for record in group}
        support = {record["label"]: record["support"] for record in reversed(group)}
        header = ["label", "support", *(f"{s} {key}" for s in settings for key in "PRF")]
        rows = [
            [label, f"{support[label]:.0f}"]
            + [
                show_percent(cells.get((label, setting), {}).get(key))
                for setting in settings
                for key in "prf"
            ]
            for label in sorted(support, key=lambda label: (-support[label], label))
        ]
        tables.append(Table("Labels", task, note, header, rows))
    return tables


def make_calibration_table(records: Sequence[dict[str, Any]]) -> Table:
    note = (
        "How far the probabilities of predictions can be believed, in percent: their mean, how many"
        " are right, and the expected calibration error (15 bins), mean and standard deviation over"
        " seeds; 0 is best. Predictions are the best tag or category, each entity that was found,"
        " and of independent categories each yes. The command calibrate makes the error smaller."
    )
    rows = [
        [
            record["task"],
            record["setting"],
            show_mean(record["ece_mean"], record["ece_sd"]),
            show_percent(record["confidence"]),
            show_percent(record["accuracy"]),
            str(record["predictions"]),
        ]
        for _, group in group_by_task(records)
        for record in group
    ]
    header = ["task", "setting", "calibration error", "confidence", "right", "predictions"]
    return Table("Calibration", "Confidence", note, header, rows, texts=2)


def make_confusion_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    note = "The most frequent errors, over all seeds. (none): there is no label on this very span."
    tables = []
    for task, group in group_by_task(records):
        wrong = [record for record in group if record["gold"] != record["predicted"]]
        rows = []
        for setting in dict.fromkeys(record["setting"] for record in wrong):
            most = [record for record in wrong if record["setting"] == setting][:CONFUSIONS]
            rows += [[setting, r["gold"], r["predicted"], str(r["count"])] for r in most]
        header = ["setting", "gold", "predicted", "times"]
        tables.append(Table("Confusions", task, note, header, rows, texts=3))
    return [table for table in tables if table.rows]


def make_error_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    note = "Excerpts of the docs with the most errors, and what differs there."
    tables = []
    for task, group in group_by_task(records):
        rows = [
            [record["text"], show_spans(record, "gold"), show_spans(record, "predicted")]
            for record in group
        ]
        header = ["text", "gold", "predicted"]
        tables.append(Table("Errors", task, note, header, rows, texts=3))
    return tables


def group_by_task(records: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    tasks = dict.fromkeys(record["task"] for record in records)
    return [(task, [r for r in records if r["task"] == task]) for task in tasks]


def pick_scores(metrics: dict[str, Any]) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The known scores of a run as the table shows them, by title."""
    scores = {key: 100 * metrics[key] for key in KEYS if isinstance(metrics.get(key), (int, float))}
    if "cats_score" in scores and metrics.get("cats_score_desc"):
        scores[f"cats_score ({metrics['cats_score_desc']})"] = scores.pop("cats_score")
    if isinstance(metrics.get("speed"), (int, float)):
        scores[SPEED] = metrics["speed"]
    return scores


def format_column(values: Sequence[float | None], style: str) -> list[str]:
    """RETURNS (List[str]): The values as text, the highest of several bold."""
    cells = [show(value, style) for value in values]
    known = [value for value in values if value is not None]
    if known and len(values) > 1:
        best = format(max(known), style)  # what looks the same is the same
        cells = [f"**{cell}**" if cell == best else cell for cell in cells]
    return cells


def show(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def show_p(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else show(value, ".3f")


def shorten(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def show_percent(value: float | None) -> str:
    return show(value if value is None else 100 * value, ".1f")


def show_mean(value: float, spread: float | None) -> str:
    return f"{100 * value:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def show_spans(record: dict[str, Any], side: str) -> str:
    spans = [f"{record['text'][s['start'] : s['end']]} [{s['label']}]" for s in record[side]]
    return "; ".join(spans) or "-"


def lay_out(cells: Sequence[str], numbers: bool = False) -> list[str]:
    """RETURNS (List[str]): A column's cells in equal width, with the rule below the title."""
    width = max(3, *map(len, cells))
    rule = "-" * (width - 1) + ":" if numbers else "-" * width
    title, *rest = [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]
    return [title, rule, *rest]
