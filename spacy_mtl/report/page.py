"""The report as one HTML page that needs nothing else."""

import math
from collections.abc import Container, Sequence
from html import escape
from itertools import groupby
from typing import Any

import numpy
from spacy import displacy

from .plots import Line, get_mean, plot_heatmap, plot_lines, plot_reliability
from .table import Table, group_by_task, make_tables

MANY = 12  # rows of a table that is folded
COLUMNS = 10  # of the heatmap over time
LABELS = 10  # of a confusion matrix
TINTS = {"gold": "#bfe3d6", "predicted": "#f7cdb5"}

CSS = """
:root { color-scheme: light dark; --line-0: #0072b2; --line-1: #d55e00; --line-2: #009e73;
  --line-3: #b5548a; --line-4: #b87a00; --line-5: #3790c4; --faint: #8884; --soft: #8881; }
@media (prefers-color-scheme: dark) {
  :root { --line-0: #56b4e9; --line-1: #f0803c; --line-2: #2cc295; --line-3: #e29ac4;
    --line-4: #e6b84a; --line-5: #9ad4f5; } }
* { box-sizing: border-box; }
body { max-width: 76rem; margin: 0 auto; padding: 1rem; line-height: 1.5;
  font-family: system-ui, sans-serif; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--faint); }
nav a { display: inline-block; margin-right: 0.75rem; }
p, figcaption { max-width: 46rem; } figcaption { font-size: 0.9rem; margin-top: 0.5rem; }
.wide { overflow-x: auto; margin-bottom: 1rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; white-space: nowrap; }
.number { text-align: right; } tbody tr:nth-child(odd) { background: var(--soft); }
thead th { border-bottom: 1px solid var(--faint); vertical-align: bottom; }
summary { cursor: pointer; padding: 0.25rem 0; }
figure { margin: 1.5rem 0; }
.plots { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
svg { width: 100%; max-width: 30rem; height: auto; } svg text { font-family: inherit !important; }
.pair { display: grid; gap: 0 2rem; border-top: 1px solid var(--faint); padding: 0.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.entities { line-height: 2 !important; }
.entities mark { padding: 0.1em 0.35em !important; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
@media (max-width: 40rem) { table { font-size: 0.8rem; } th, td { padding: 0.25rem 0.35rem; } }
"""

CAPTIONS = {
    "curves": (
        "True mean losses and scores at each evaluation; thin lines are single seeds, thick lines "
        "their means. Where a score falls while the loss still does, the task is being overfitted; "
        "a task that learns later than it does alone may have too small a weight."
    ),
    "balance": (
        "The weight that the balancer gave each task, and the norm of its gradient at the encoder's"
        " output, before weighting (logarithmic). A task whose weight times norm is far above the"
        " others' decides alone where the encoder goes."
    ),
    "conflicts": (
        "The cosine between two tasks' gradients at the encoder's output over the steps: blue is"
        " agreement, orange conflict, no colour neither. Lasting orange is a reason to try"
        " another balancer, or to train the two apart."
    ),
    "calibration": (
        "Predictions of about the same probability, and the share of them that is right; large dots"
        " are many predictions. On the diagonal probabilities can be taken at their word; below it"
        " the head is too sure of itself."
    ),
    "confusions": (
        "Rows are gold, columns predicted; the numbers count over all seeds, and the colour is the"
        " share of the row. Strong colour outside the diagonal is what is mistaken for what. Of"
        " many labels only those with the most errors are shown."
    ),
}


def make_page(content: dict[str, Any]) -> str:
    """Write the report as a page.

    content (Dict[str, Any]): As of `make_content`.
    RETURNS (str): HTML, with styles and plots in it.
    """
    figures = {
        "Training": [make_figure("curves", plot_curves(content["runs"]))],
        "Balance": [
            make_figure("balance", plot_balance(content["runs"])),
            make_figure("conflicts", plot_conflicts(content["runs"])),
        ],
        "Calibration": [make_figure("calibration", plot_calibration(content["calibration"]))],
        "Confusions": [make_figure("confusions", plot_confusions(content["confusions"]))],
        "Errors": [make_errors(content["errors"])],
    }
    sections = []
    for section, group in groupby(make_tables(content), key=lambda table: table.section):
        tables = [] if section == "Errors" else [render_table(table) for table in group]
        parts = "".join([*figures.get(section, []), *tables])
        sections.append((section, f'<section id="{section}"><h2>{section}</h2>{parts}</section>'))
    links = " ".join(f'<a href="#{name}">{name}</a>' for name, _ in sections)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Multi-task report</title><style>{CSS}</style></head>"
        f"<body><h1>Multi-task report</h1><p>{describe(content)}</p>"
        f"<nav>{links}</nav>{''.join(html for _, html in sections)}</body></html>\n"
    )


def describe(content: dict[str, Any]) -> str:
    runs, data = content["runs"], content["data"]
    text = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    return escape(f"{text}, scored on {data}" if data else text)


def render_table(table: Table) -> str:
    """RETURNS (str): A table, folded if it is long, with its title and note."""
    head = "".join(make_cell("th", cell, i >= table.texts) for i, cell in enumerate(table.header))
    rows = "".join(
        f"<tr>{''.join(make_cell('td', cell, i >= table.texts) for i, cell in enumerate(row))}</tr>"
        for row in table.rows
    )
    html = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    html = f'<p>{escape(table.note)}</p><div class="wide">{html}</div>'
    title = escape(table.title)
    if len(table.rows) > MANY:
        title = f"{title} ({len(table.rows)} rows)"
        return f"<details><summary><b>{title}</b></summary>{html}</details>"
    return f"<h3>{title}</h3>{html}"


def make_cell(tag: str, text: str, is_number: bool) -> str:
    if not is_number:
        return f"<{tag}>{escape(text)}</{tag}>"
    bold = text.strip("*")
    inner = escape(text) if bold == text else f"<strong>{escape(bold)}</strong>"
    return f'<{tag} class="number">{inner}</{tag}>'


def make_figure(name: str, plots: Sequence[str]) -> str:
    """RETURNS (str): Plots beside each other, with the caption for them."""
    if not plots:
        return ""
    caption = f"<figcaption>{escape(CAPTIONS[name])}</figcaption>"
    return f'<figure><div class="plots">{"".join(plots)}</div>{caption}</figure>'


def collect(runs: Sequence[dict[str, Any]], kind: str) -> dict[str, dict[str, list[Line]]]:
    """RETURNS (Dict[str, Dict[str, List[Line]]]): The curves of a kind, by name and setting."""
    curves: dict[str, dict[str, list[Line]]] = {}
    for run in runs:
        for name, curve in run["curves"].get(kind, {}).items():
            curves.setdefault(name, {}).setdefault(run["setting"], []).append(curve)
    return curves


def plot_curves(runs: Sequence[dict[str, Any]]) -> list[str]:
    losses, scores = collect(runs, "loss"), collect(runs, "score")
    plots = [plot_lines(f"loss of {task}", lines) for task, lines in losses.items()]
    return plots + [plot_lines(score, lines) for score, lines in scores.items()]


def plot_balance(runs: Sequence[dict[str, Any]]) -> list[str]:
    plots = []
    for setting, group in group_multi(runs).items():
        for kind, title in (("weight", "weights"), ("grad_norm", "gradient norms")):
            lines = {task: by[setting] for task, by in collect(group, kind).items()}
            if lines:
                plots.append(plot_lines(f"{title} ({setting})", lines, is_log=kind == "grad_norm"))
    return plots


def plot_conflicts(runs: Sequence[dict[str, Any]]) -> list[str]:
    plots = []
    for setting, group in group_multi(runs).items():
        curves = {pair: get_mean(by[setting]) for pair, by in collect(group, "cosine").items()}
        steps = sorted({step for curve in curves.values() for step, _ in curve})
        if steps:
            bins = [set(part) for part in numpy.array_split(steps, min(COLUMNS, len(steps)))]
            values = [[get_mean_in(curve, part) for part in bins] for curve in curves.values()]
            plots.append(
                plot_heatmap(
                    f"cosines ({setting})",
                    numpy.array(values),
                    [[show_cosine(value) for value in row] for row in values],
                    rows=[pair.replace("|", "\n") for pair in curves],
                    columns=[str(max(part)) for part in bins],
                    labels=("step", ""),
                )
            )
    return plots


def group_multi(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """RETURNS (Dict[str, List[Dict[str, Any]]]): The runs of each setting with several tasks."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if len(run["tasks"]) > 1:
            groups.setdefault(run["setting"], []).append(run)
    return groups


def get_mean_in(curve: Line, steps: Container[float]) -> float:
    values = [value for step, value in curve if step in steps]
    return math.fsum(values) / len(values) if values else math.nan


def show_cosine(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")


def plot_calibration(records: Sequence[dict[str, Any]]) -> list[str]:
    return [
        plot_reliability(f"confidence of {task}", {r["setting"]: r["bins"] for r in group})
        for task, group in group_by_task(records)
    ]


def plot_confusions(records: Sequence[dict[str, Any]]) -> list[str]:
    plots = []
    for task, group in group_by_task(records):
        labels = pick_labels(group)
        for setting in dict.fromkeys(record["setting"] for record in group):
            counts = {
                (r["gold"], r["predicted"]): r["count"] for r in group if r["setting"] == setting
            }
            table = numpy.array([[counts.get((a, b), 0) for b in labels] for a in labels])
            totals = numpy.array([sum(n for (a, _), n in counts.items() if a == l) for l in labels])
            shares = numpy.where(table, table / numpy.maximum(totals, 1)[:, None], numpy.nan)
            texts = [[str(n) for n in row] for row in table.tolist()]
            names = [label if len(label) < 13 else f"{label[:11]}…" for label in labels]
            title = f"{task} ({setting})"
            plots.append(plot_heatmap(title, shares, texts, names, names, ("predicted", "gold")))
    return plots


def pick_labels(records: Sequence[dict[str, Any]]) -> list[str]:
    """RETURNS (List[str]): The labels that are in the most errors."""
    errors: dict[str, int] = {}
    for record in records:
        for label in (record["gold"], record["predicted"]):
            is_wrong = record["gold"] != record["predicted"]
            errors[label] = errors.get(label, 0) + record["count"] * is_wrong
    return sorted(sorted(errors, key=lambda label: (-errors[label], label))[:LABELS])


def make_errors(records: Sequence[dict[str, Any]]) -> str:
    """RETURNS (str): The excerpts twice each, as they should be and as they were predicted."""
    html = []
    for task, group in group_by_task(records):
        html.append(f"<h3>{escape(task)}</h3><p>Excerpts of the docs with the most errors of ")
        html.append(f"{escape(group[0]['setting'])}: what is right, and what was predicted there. ")
        html.append("Only what differs is marked.</p>")
        for record in group:
            sides = [render_spans(record, side) for side in TINTS]
            html.append(f'<div class="pair">{"".join(sides)}</div>')
    return "".join(html)


def render_spans(record: dict[str, Any], side: str) -> str:
    """RETURNS (str): What displaCy makes of an excerpt."""
    ents = [{**span, "label": escape(span["label"])} for span in record[side]]
    options = {"colors": dict.fromkeys((ent["label"] for ent in ents), TINTS[side])}
    doc = {"text": record["text"], "ents": ents}
    html = displacy.render(doc, "ent", manual=True, minify=True, options=options, jupyter=False)
    return f"<div><small>{side}</small>{html}</div>"
