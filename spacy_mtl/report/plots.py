"""Plots as SVG elements, which use the fonts and colours of the page."""

import html
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .records import Line, Matrix

FORMATS = frozenset(FigureCanvasBase.filetypes)  # suffixes of files: png, svg, pdf ...

INK = "#010203"  # placeholder, replaced by the colour of the page's text
KEY = "key:"  # start of the ids of lines, replaced by the attribute `data-key`
MARKERS = 40  # points of a line, beyond which none is marked
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


class Scale(TypedDict):
    """Maps a value to a position in a plot: `offset + factor * value`, in units of the SVG.

    offset, factor (float): The parameters.
    is_log (bool): Whether to map the logarithm of the value to base 10 instead.
    """

    offset: float
    factor: float
    is_log: bool


@dataclass
class Series:
    """A line of a plot.

    name (str): Its name in the legend.
    key (str): Hides the line on the page; see `Keys`.
    style (int): The number of its style.
    lines (Mapping[str, Line]): The line of each run, by the key of the run. With several runs
        their mean is drawn too.
    """

    name: str
    key: str
    style: int
    lines: Mapping[str, Line]


@dataclass
class Trace:
    """The points of a line, for their values to be shown on the page.

    name (str): The name of the line.
    key (str): Hides the line on the page.
    style (int): The number of its style.
    points (List[Tuple[float, float, str]]): Positions on both axes, and the text to show.
    """

    name: str
    key: str
    style: int
    points: list[tuple[float, float, str]]


@dataclass
class Plot:
    """A plot of the page.

    title (str): The title.
    svg (str): The plot as an SVG element.
    scales (Tuple[Scale, Scale]): The horizontal and the vertical axis.
    traces (List[Trace]): The lines.
    heading (str): The name of the horizontal positions, such as "step"; empty for no heading.
    key (str): Hides the whole plot on the page; empty for plots that are always shown.
    """

    title: str
    svg: str
    scales: tuple[Scale, Scale]
    traces: list[Trace]
    heading: str = ""
    key: str = ""


def get_data(plot: Plot) -> dict[str, object]:
    """RETURNS (Dict[str, Any]): The data by which the page's script shows the values of a plot."""
    traces = [
        {"name": t.name, "key": t.key, "color": t.style % len(COLORS), "points": t.points}
        for t in plot.traces
    ]
    return {"heading": plot.heading, "scales": plot.scales, "traces": traces}


def plot_lines(
    title: str,
    series: Sequence[Series],
    unit: str = "",
    is_log: bool = False,
    heading: str = "step",
) -> Plot:
    """Plot values over the steps of training, or over other whole numbers.

    title (str): The title.
    series (Sequence[Series]): The lines.
    unit (str): The unit of the values, such as "%".
    is_log (bool): Whether the scale is logarithmic. It leaves out values of 0 and below.
    heading (str): The name of the horizontal positions.
    RETURNS (Plot): The plot.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):  # the salt makes ids unique on the page
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.subplots()
        traces = []
        for one in series:
            style = get_style(one.style)
            lines = {
                key: [(x, y) for x, y in line if y > 0 or not is_log]
                for key, line in one.lines.items()
            }
            if len(lines) > 1:
                for key, line in lines.items():
                    axes.plot(*split(line), alpha=0.5, linewidth=1, gid=KEY + key, **style)
            mean = get_mean([*lines.values()])
            marker = "." if len(mean) <= MARKERS else ""
            label = plain(one.name)
            axes.plot(
                *split(mean), label=label, marker=marker, linewidth=2, gid=KEY + one.key, **style
            )
            traces.append(Trace(one.name, one.key, one.style, list_points(mean, lines, unit)))
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set_xlabel(heading)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_yscale("log" if is_log else "linear")
        if unit:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} {unit}")
        axes.grid(True)
        add_legend(figure, [one.key for one in series])
        return Plot(title, to_svg(figure, title), get_scales(axes), traces, heading)


def list_points(mean: Line, lines: Mapping[str, Line], unit: str) -> list[tuple[float, float, str]]:
    """RETURNS (List[Tuple[float, float, str]]): The finite points of the mean of lines, each with a
    text: its value, and the lowest and the highest value of several lines.
    """
    values: dict[float, list[float]] = {}
    for line in lines.values():
        for x, y in line:
            values.setdefault(x, []).append(y)
    points = []
    for x, y in mean:
        if not math.isfinite(y):
            continue
        text = show_value(y, unit)
        if len(values[x]) > 1:
            low, high = (show_value(edge, unit) for edge in (min(values[x]), max(values[x])))
            text += f" ({low} to {high})"
        points.append((x, round(y, 6), text))
    return points


def show_value(value: float, unit: str) -> str:
    """RETURNS (str): A value with its unit."""
    return f"{value:.1f} {unit}" if unit else f"{value:.3g}"


def plot_reliability(title: str, traces: Sequence[Trace]) -> Plot:
    """Plot the share of correct predictions over their probability.

    title (str): The title.
    traces (Sequence[Trace]): For each line the confidences and the shares, in percent.
    RETURNS (Plot): The plot.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=INK, alpha=0.4, linewidth=1)
        for trace in traces:
            line = [(x, y) for x, y, _ in trace.points]
            label, gid = plain(trace.name), KEY + trace.key
            style = get_style(trace.style)
            axes.plot(*split(line), label=label, marker="o", clip_on=False, gid=gid, **style)
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set(xlabel="confidence (%)", ylabel="correct predictions (%)")
        axes.set(xlim=(0, 100), ylim=(0, 100))
        axes.grid(True)
        add_legend(figure, [trace.key for trace in traces])
        return Plot(title, to_svg(figure, title), get_scales(axes), [*traces])


def plot_effects(title: str, traces: Sequence[Trace], spreads: Sequence[float]) -> Plot:
    """Plot differences as dots beside a line at 0, one above the other.

    title (str): The title.
    traces (Sequence[Trace]): For each row one point: the difference in points, and the row.
    spreads (Sequence[float]): The spread of each difference, in points.
    RETURNS (Plot): The plot.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 1.0 + 0.3 * len(traces)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, alpha=0.4, linewidth=1)
        for trace, spread in zip(traces, spreads, strict=True):
            gid, color = KEY + trace.key, get_style(trace.style)["color"]
            ((x, y, _),) = trace.points
            axes.plot(
                [x - spread, x + spread], [y, y], gid=gid, color=color, linewidth=3, alpha=0.4
            )
            axes.plot(x, y, gid=gid, color=color, marker="o", markersize=8)
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set_xlabel("difference (points)")
        axes.set_yticks(range(len(traces)), [plain(trace.name) for trace in traces])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(traces) - 0.5, -0.5)
        axes.grid(True, axis="x")
        return Plot(title, to_svg(figure, title), get_scales(axes), [*traces])


def plot_points(
    title: str,
    traces: Sequence[Trace],
    labels: tuple[str, str],
    *,
    line: Line = (),
    choices: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    is_log: bool = False,
) -> Plot:
    """Plot points.

    title (str): The title.
    traces (Sequence[Trace]): Groups of points.
    labels (Tuple[str, str]): The names of the axes.
    line (Line): A line that is drawn in steps behind the points.
    choices (Sequence[str]): The names of the horizontal positions 0, 1 and so on; without them
        the positions are numbers.
    limits (Optional[Tuple[float, float]]): The ends of the horizontal scale; by default those of
        the points.
    is_log (bool): Whether the horizontal scale is logarithmic.
    RETURNS (Plot): The plot.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.subplots()
        if line:
            axes.step(*split(line), where="post", color=INK, alpha=0.4, linewidth=1.5)
        for trace in traces:
            points = [(x, y) for x, y, _ in trace.points]
            color, gid = get_style(trace.style)["color"], KEY + trace.key
            axes.plot(
                *split(points),
                label=plain(trace.name),
                color=color,
                gid=gid,
                marker="o",
                linestyle="",
                alpha=0.8,
                clip_on=False,
            )
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set(xlabel=plain(labels[0]), ylabel=plain(labels[1]))
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        elif all(float(x).is_integer() for trace in traces for x, _, _ in trace.points):
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if limits:
            axes.set_xlim(*limits)
        if choices:
            axes.set_xticks(range(len(choices)), [plain(choice) for choice in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.grid(True)
        if len(traces) > 1:
            add_legend(figure, [trace.key for trace in traces])
        return Plot(title, to_svg(figure, title), get_scales(axes), [*traces])


def plot_bars(title: str, shares: Mapping[str, float], label: str) -> Plot:
    """Plot shares as bars, one above the other.

    title (str): The title.
    shares (Mapping[str, float]): The shares by name, 0 to 1.
    label (str): The name of the axis.
    RETURNS (Plot): The plot.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.4, 1.0 + 0.3 * len(shares)), layout="constrained")
        axes = figure.subplots()
        rows = range(len(shares))
        values = [100 * share for share in shares.values()]
        axes.barh(rows, values, color=COLORS[0], height=0.6)
        axes.set_title(plain(title), loc="left", weight="bold")
        axes.set_xlabel(label)
        axes.set_yticks(rows, [plain(name) for name in shares])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shares) - 0.5, -0.5)
        axes.grid(True, axis="x")
        points = [(value, row, f"{value:.0f} %") for row, value in enumerate(values)]
        traces = [Trace(name, "", 0, [point]) for name, point in zip(shares, points, strict=True)]
        return Plot(title, to_svg(figure, title), get_scales(axes), traces)


def add_legend(figure: Figure, keys: Sequence[str]) -> None:
    """Add a legend, whose entries disappear with their lines."""
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False)
    for key, line, text in zip(keys, legend.get_lines(), legend.get_texts(), strict=True):
        line.set_gid(KEY + key)
        text.set_gid(KEY + key)


def get_scales(axes: Axes) -> tuple[Scale, Scale]:
    """RETURNS (Tuple[Scale, Scale]): The scales of a drawn plot. SVG has 72 units per inch, and
    its vertical axis points down.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    low, high = zip(axes.get_xlim(), axes.get_ylim(), strict=True)
    corners = axes.transData.transform([low, high]) * 72 / figure.dpi
    corners[:, 1] = 72 * figure.get_figheight() - corners[:, 1]
    scales = []
    for i, scale in enumerate((axes.get_xscale(), axes.get_yscale())):
        is_log_axis = scale == "log"
        a, b = (math.log10(end[i]) if is_log_axis else end[i] for end in (low, high))
        factor = float(corners[1, i] - corners[0, i]) / (b - a)
        scales.append(
            Scale(
                offset=round(float(corners[0, i]) - factor * a, 3),
                factor=round(factor, 6),
                is_log=is_log_axis,
            )
        )
    return scales[0], scales[1]


def get_style(i: int) -> LineStyle:
    """RETURNS (LineStyle): The style of the i-th line."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % 4]}


def save_heatmap(path: Path, matrix: Matrix) -> None:
    """Save a plot of a matrix.

    path (Path): The file, whose suffix is one of `FORMATS`.
    matrix (Matrix): The matrix.
    """
    with rc_context({**STYLE, "svg.fonttype": "path"}):
        draw_heatmap(matrix).savefig(path, dpi=200)


def draw_heatmap(matrix: Matrix) -> Figure:
    """RETURNS (Figure): A plot of a matrix, with white texts on strong colours."""
    values, columns = matrix.values, matrix.columns
    height = 0.9 + 0.32 * len(matrix.rows) + 0.06 * max(map(len, columns))
    strengths = abs(values) / max(float(numpy.nanmax(abs(values), initial=0.0)), 1e-3)
    hues = numpy.where(values[..., None] < 0, to_rgb(COLORS[1]), to_rgb(COLORS[0]))
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(numpy.dstack([hues, numpy.nan_to_num(strengths)]))
    for row, column in numpy.argwhere(numpy.isfinite(values)).tolist():
        ink, text = "white" if strengths[row, column] > 0.8 else INK, matrix.texts[row][column]
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
    """RETURNS (str): A text that matplotlib does not read as a formula. An invisible space keeps
    legends from ignoring a text that starts with an underscore.
    """
    text = text.replace("$", "\\$")
    return f"\u200b{text}" if text.startswith("_") else text


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
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)  # the page has its own
    svg = re.sub(r"\n +", "\n", svg)
    svg = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), svg)
    svg = svg.replace(f' id="{KEY}', ' data-key="')
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace(INK, "currentColor")
    for i, color in enumerate(COLORS):
        svg = svg.replace(color, f"var(--line-{i})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
