"""The scores of several runs as one Markdown table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import srsly

from ..errors import Errors

KEYS = ("tag_acc", "ents_f", "ents_p", "ents_r", "cats_score")
SPEED = "words/s"


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


def make_table(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    """Put the scores of runs below each other: percent, and words per second. The best of each
    column is bold if there are several runs.

    names (Sequence[str]): The runs' names.
    runs (Sequence[Dict[str, Any]]): Their scores, as `spacy evaluate` writes them.
    RETURNS (str): A Markdown table with a row for each run. Scores that are missing are "-".
    """
    scores = [pick_scores(run) for run in runs]
    # Category scores of different kinds cannot be compared: each kind has a column.
    kinds = dict.fromkeys(title for run in scores for title in run if title.startswith("cats"))
    titles = [*KEYS[:-1], *(kinds or ["cats_score"]), SPEED]
    columns = [lay_out(["run", *(name.replace("|", "\\|") for name in names)])]
    for title in titles:
        cells = format_column(
            [run.get(title) for run in scores], ".0f" if title == SPEED else ".2f"
        )
        columns.append(lay_out([title, *cells], numbers=True))
    return "".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True))


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
    cells = ["-" if value is None else format(value, style) for value in values]
    known = [value for value in values if value is not None]
    if known and len(values) > 1:
        best = format(max(known), style)  # what looks the same is the same
        cells = [f"**{cell}**" if cell == best else cell for cell in cells]
    return cells


def lay_out(cells: Sequence[str], numbers: bool = False) -> list[str]:
    """RETURNS (List[str]): A column's cells in equal width, with the rule below the title."""
    width = max(3, *map(len, cells))
    rule = "-" * (width - 1) + ":" if numbers else "-" * width
    title, *rest = [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]
    return [title, rule, *rest]
