"""The report as one HTML page, with styles, plots and scripts in it."""

import re
from collections.abc import Sequence
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
# They include page.css and page.js.
TEMPLATE, SIMPLE_TEMPLATE = "page.html.jinja", "simple.html.jinja"


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


def make_page(report: Report) -> str:
    """RETURNS (str): The report as HTML. The template escapes names, labels and texts."""
    return (
        make_environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            verdict=[tie(sentence) for sentence in make_verdict(report)],
            conditions=make_conditions(report),
            card=make_card(report),
            sections=make_sections(report),
            keys=Keys(report.runs),
            max_rows=MAX_ROWS,
            n_colors=len(COLORS),
        )
    )


def make_simple_page(title: str, verdict: Sequence[str], sections: Sequence[Section]) -> str:
    """Write figures and tables that belong to no runs as a page with the style of the report.

    title (str): The title of the page.
    verdict (Sequence[str]): The results in words.
    sections (Sequence[Section]): The sections, without excerpts.
    RETURNS (str): The page as HTML. The template escapes names, labels and texts.
    """
    return (
        make_environment()
        .get_template(SIMPLE_TEMPLATE)
        .render(
            title=title,
            verdict=[tie(sentence) for sentence in verdict],
            sections=sections,
            keys=Keys([]),
            max_rows=MAX_ROWS,
        )
    )


def make_environment() -> Environment:
    """RETURNS (Environment): The environment of the templates."""
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
    return environment


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
