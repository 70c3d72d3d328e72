"""Plots as SVG elements, which use the fonts and colours of the page."""

import html
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy
from matplotlib import rc_context
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..training.calibration import Bin
from .records import Line, Matrix

FORMATS = frozenset(FigureCanvasBase.filetypes)  # suffixes of files: png, svg, pdf ...

INK, PAPER = "#010203", "#010204"  # placeholders, replaced by the colours of the page
# The colours of Okabe and Ito, chosen for colour-blind readers; --line-0 etc. on the page.
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


class LineStyle(TypedDict):
    """Keyword arguments of `Axes.plot`."""

    color: str
    linestyle: str


def plot_lines(title: str, lines: Mapping[str, Sequence[Line]], is_log: bool = False) -> str:
    """Plot values over the steps of training.

    title (str): The title.
    lines (Mapping[str, Sequence[Line]]): For each entry of the legend the (step, value) pairs of
        every run. The mean of the runs is drawn thick.
    is_log (bool): Whether the scale is logarithmic. Values of 0 and below are left out then.
    RETURNS (str): SVG.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):  # the salt makes ids unique on the page
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


def plot_reliability(title: str, curves: Mapping[str, Sequence[Bin]]) -> str:
    """Plot the share of correct predictions over their probability.

    title (str): The title.
    curves (Mapping[str, Sequence[Bin]]): The bins of each entry of the legend.
    RETURNS (str): SVG.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1)
        for i, (label, bins) in enumerate(curves.items()):
            x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
            axes.plot(x, y, label=plain(label), **get_style(i))
            total = sum(b.count for b in bins)
            sizes = [4 + 80 * b.count / total for b in bins]
            axes.scatter(x, y, sizes, get_style(i)["color"], zorder=2, clip_on=False)
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set(xlabel="confidence", ylabel="share of correct predictions")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.grid(True)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return to_svg(figure, title)


def get_style(i: int) -> LineStyle:
    """RETURNS (LineStyle): The style of the i-th line."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % 4]}


def plot_heatmap(matrix: Matrix) -> str:
    """RETURNS (str): A plot of a matrix as SVG."""
    with rc_context({**STYLE, "svg.hashsalt": matrix.title}):
        return to_svg(draw_heatmap(matrix, PAPER), matrix.title)


def save_heatmap(path: Path, matrix: Matrix) -> None:
    """Save a plot of a matrix.

    path (Path): The file, whose suffix is one of `FORMATS`.
    matrix (Matrix): The matrix.
    """
    with rc_context({**STYLE, "svg.fonttype": "path"}):
        draw_heatmap(matrix, "white").savefig(path, dpi=200)


def draw_heatmap(matrix: Matrix, paper: str) -> Figure:
    """RETURNS (Figure): A plot of a matrix, with texts in the colour `paper` on strong colours."""
    values, columns = matrix.values, matrix.columns
    height = 0.9 + 0.32 * len(matrix.rows) + 0.06 * max(map(len, columns))
    strengths = abs(values) / max(float(numpy.nanmax(abs(values), initial=0.0)), 1e-3)
    hues = numpy.where(values[..., None] < 0, to_rgb(COLORS[1]), to_rgb(COLORS[0]))
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(numpy.dstack([hues, numpy.nan_to_num(strengths)]))
    for row, column in numpy.argwhere(numpy.isfinite(values)).tolist():
        ink, text = paper if strengths[row, column] > 0.8 else INK, matrix.texts[row][column]
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=ink)
    rotation = 90 if max(map(len, columns)) > 4 else 0
    for set_ticks, names, turn in (
        (axes.set_xticks, columns, rotation),
        (axes.set_yticks, matrix.rows, 0),
    ):
        ticks = numpy.arange(len(names)) + 0.5
        set_ticks(ticks, [plain(name) for name in names], fontsize=8, rotation=turn)
    axes.set_xlabel(matrix.labels[0])
    axes.set_ylabel(matrix.labels[1])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set_title(plain(matrix.title), loc="left", weight="bold")
    return figure


def plain(text: str) -> str:
    """RETURNS (str): A text that matplotlib does not read as a formula."""
    return text.replace("$", "\\$")


def split(line: Line) -> tuple[list[float], list[float]]:
    """RETURNS (Tuple[List[float], List[float]]): The steps and the values of a line."""
    return [x for x, _ in line], [y for _, y in line]


def get_mean(lines: Sequence[Line]) -> Line:
    """RETURNS (Line): For each step the mean of the lines that have a value there."""
    values: dict[float, list[float]] = {}
    for line in lines:
        for x, y in line:
            values.setdefault(x, []).append(y)
    return [(x, math.fsum(ys) / len(ys)) for x, ys in sorted(values.items())]


def to_svg(figure: Figure, title: str) -> str:
    """RETURNS (str): The figure as an element of the page, as wide as its container."""
    file = io.StringIO()
    nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the fonts of the page have them
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # group names, equal in every plot
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace(INK, "currentColor").replace(PAPER, "Canvas")
    for i, color in enumerate(COLORS):
        svg = svg.replace(color, f"var(--line-{i})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
