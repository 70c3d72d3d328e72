"""The report as one HTML page, with styles, plots and scripts in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from .card import make_card
from .downloads import get_address, get_file_name
from .figures import Figure, make_figures
from .keys import Keys
from .markdown import Bold, Table
from .plots import COLORS, get_data
from .records import Excerpt, Mark, Report, group_by_task
from .tables import make_tables
from .verdict import make_conditions, make_verdict

MAX_ROWS = 12  # of a table that is not folded
TEMPLATE = "page.html.jinja"  # includes page.css and page.js


@dataclass
class Section:
    """A section of the page.

    title (str): Its title and id.
    figures (List[Figure]): The figures, with SVG that is inserted as it is.
    tables (List[Table]): The tables.
    excerpts (Dict[str, List[Excerpt]]): Excerpts by task, shown instead of tables of excerpts.
    """

    title: str
    figures: list[Figure]
    tables: list[Table]
    excerpts: dict[str, list[Excerpt]] = field(default_factory=dict)


@dataclass
class Part:
    """A part of a text, with a label if it is marked."""

    text: str
    label: str | None = None


@dataclass
class Page:
    """The content of the page.

    title (str): The title of the window.
    heading (str): The line above the verdict.
    verdict (Sequence[str]): The result in sentences.
    conditions (Sequence[str]): Sentences in small type below it.
    card (Mapping[str, Sequence[str]]): Lines by term.
    sections (Sequence[Section]): The sections.
    keys (Keys): The runs that can be hidden.
    """

    title: str
    heading: str
    verdict: Sequence[str]
    conditions: Sequence[str]
    card: Mapping[str, Sequence[str]]
    sections: Sequence[Section]
    keys: Keys


def make_page(report: Report) -> str:
    """RETURNS (str): The report as HTML."""
    n = len(report.runs)
    return render(
        Page(
            title=f"Multi-task report{': ' + report.corpus.name if report.corpus else ''}",
            heading=f"Multi-task report of {n} run{'s' if n != 1 else ''}",
            verdict=[tie(sentence) for sentence in make_verdict(report)],
            conditions=make_conditions(report),
            card=make_card(report),
            sections=make_sections(report),
            keys=Keys(report.runs),
        )
    )


def render(page: Page) -> str:
    """RETURNS (str): The page as HTML. The template escapes names, labels and texts."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["bold"] = lambda cell: isinstance(cell, Bold)
    filters = (split_marks, get_address, get_file_name, get_data)
    environment.filters |= {function.__name__: function for function in filters}
    return environment.get_template(TEMPLATE).render(
        page=page,
        keys=page.keys,
        max_rows=MAX_ROWS,
        n_colors=len(COLORS),
    )


def make_sections(report: Report) -> list[Section]:
    """RETURNS (List[Section]): The sections with content, in the order of the tables."""
    tables: dict[str, list[Table]] = {}
    for table in make_tables(report):
        tables.setdefault(table.section, []).append(table)
    figures = make_figures(report)
    sections = []
    for title in dict.fromkeys([*tables, *figures]):
        excerpts = group_by_task(report.errors) if title == "Errors" else {}
        own = [] if excerpts else tables.get(title, [])
        sections.append(Section(title, figures.get(title, []), own, excerpts))
    return sections


def tie(sentence: str) -> str:
    """RETURNS (str): A sentence with no-break spaces in p values and percentages."""
    return re.sub(r"p ([<=]) (?=\d)", "p\u00a0\\1\u00a0", sentence).replace(" %", "\u00a0%")


def split_marks(text: str, marks: Sequence[Mark]) -> list[Part]:
    """RETURNS (List[Part]): The parts of a text, marked and unmarked, in order."""
    parts, end = [], 0
    for mark in marks:
        parts += [Part(text[end : mark.start]), Part(text[mark.start : mark.end], mark.label)]
        end = mark.end
    return [part for part in (*parts, Part(text[end:])) if part.text]
