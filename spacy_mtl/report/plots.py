"""Plots as SVG to be put into a page, with whose text and colours they go."""

import html
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib import rc_context
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Line = Sequence[tuple[float, float]]

FORMATS = frozenset(FigureCanvasBase.filetypes)  # of files: png, svg, pdf ...

INK, PAPER = "#010203", "#010204"  # which become the page's colours
# Okabe and Ito's colours, which the colour-blind tell apart; the page has them as --line-0 etc.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
DASHES = ["-", "--", ":", "-."]
STYLE: dict[Any, Any] = {
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor"], INK),
    **dict.fromkeys(["xtick.color", "ytick.color", "grid.color"], INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "grid.alpha": 0.15,
    "svg.fonttype": "none",
}


def plot_lines(title: str, lines: Mapping[str, Sequence[Line]], is_log: bool = False) -> str:
    """Plot what changes over the steps of training.

    title (str): What it is.
    lines (Mapping[str, Sequence[Line]]): For each entry of the legend the (step, value) of every
        run. Their mean is drawn thick.
    is_log (bool): Whether to have a logarithmic scale, without values that are not above 0.
    RETURNS (str): SVG.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):  # ids that no other plot has
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.subplots()
        for i, (label, runs) in enumerate(lines.items()):
            style = get_style(i)
            runs = [[(x, y) for x, y in run if y > 0 or not is_log] for run in runs]
            if len(runs) > 1:
                for run in runs:
                    axes.plot(*split(run), alpha=0.5, linewidth=1, **style)
            mean = split(get_mean(runs))
            axes.plot(*mean, label=plain(label), marker=".", linewidth=2, **style)
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_yscale("log" if is_log else "linear")
        axes.grid(True)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return to_svg(figure, title)


def plot_reliability(title: str, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Plot how often predictions are right over how sure they are.

    title (str): What it is.
    curves (Mapping[str, Sequence[Mapping[str, float]]]): For each entry of the legend its bins:
        "confidence", "accuracy" and "count".
    RETURNS (str): SVG.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1)
        for i, (label, bins) in enumerate(curves.items()):
            x, y, counts = ([b[key] for b in bins] for key in ("confidence", "accuracy", "count"))
            axes.plot(x, y, label=plain(label), **get_style(i))
            sizes = [4 + 80 * count / sum(counts) for count in counts]
            axes.scatter(x, y, sizes, get_style(i)["color"], zorder=2, clip_on=False)
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.grid(True)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return to_svg(figure, title)


def get_style(i: int) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): How the i-th line looks."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % 4]}


def plot_heatmap(
    title: str,
    values: numpy.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str],
) -> str:
    """Plot a matrix.

    title (str): What it is.
    values (Floats2d): The strength of the colours, blue above 0 and orange below; nan has none.
    texts (Sequence[Sequence[str]]): What stands in the cells.
    rows, columns (Sequence[str]): Their names.
    labels (Tuple[str, str]): What the columns and the rows are.
    RETURNS (str): SVG.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        return to_svg(draw_heatmap(PAPER, title, values, texts, rows, columns, labels), title)


def save_heatmap(path: Path, *matrix: Any) -> None:
    """Save a plot of a matrix.

    path (Path): The file, whose suffix is one of `FORMATS`.
    matrix: As of `plot_heatmap`.
    """
    with rc_context({**STYLE, "svg.fonttype": "path"}):
        draw_heatmap("white", *matrix).savefig(path, dpi=200)


def draw_heatmap(
    paper: str,
    title: str,
    values: numpy.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str],
) -> Figure:
    height = 0.9 + 0.32 * len(rows) + 0.06 * max(map(len, columns))
    strengths = abs(values) / max(numpy.nanmax(abs(values), initial=0.0), 1e-3)
    hues = numpy.where(values[..., None] < 0, to_rgb(COLORS[1]), to_rgb(COLORS[0]))
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(numpy.dstack([hues, numpy.nan_to_num(strengths)]))
    for row, column in numpy.argwhere(numpy.isfinite(values)):
        ink = paper if strengths[row, column] > 0.8 else INK
        place: Any = {"ha": "center", "va": "center", "fontsize": 8, "color": ink}
        axes.text(column + 0.5, row + 0.5, texts[row][column], **place)
    rotation = 90 if max(map(len, columns)) > 4 else 0
    for set_ticks, names, turn in (
        (axes.set_xticks, columns, rotation),
        (axes.set_yticks, rows, 0),
    ):
        ticks = numpy.arange(len(names)) + 0.5
        set_ticks(ticks, [plain(name) for name in names], fontsize=8, rotation=turn)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set_title(plain(title), loc="left", weight="bold")
    return figure


def plain(text: str) -> str:
    """RETURNS (str): What matplotlib does not take for a formula."""
    return text.replace("$", "\\$")


def split(line: Line) -> tuple[list[float], list[float]]:
    return [x for x, _ in line], [y for _, y in line]


def get_mean(lines: Sequence[Line]) -> Line:
    """RETURNS (Line): The mean of the lines that have a value at a step."""
    values: dict[float, list[float]] = {}
    for line in lines:
        for x, y in line:
            values.setdefault(x, []).append(y)
    return [(x, math.fsum(ys) / len(ys)) for x, ys in sorted(values.items())]


def to_svg(figure: Figure, title: str) -> str:
    """RETURNS (str): The figure as an element of a page, as wide as there is room."""
    file = io.StringIO()
    nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page has its own fonts
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # the names of groups, the same in each plot
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace(INK, "currentColor").replace(PAPER, "Canvas")
    for i, color in enumerate(COLORS):
        svg = svg.replace(color, f"var(--line-{i})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
