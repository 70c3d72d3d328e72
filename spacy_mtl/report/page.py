"""The report as one HTML page, with styles and plots in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from .figures import Figure, make_figures
from .markdown import Bold, Table
from .records import Excerpt, Mark, Report, group_by_task
from .tables import make_claims, make_tables

MAX_ROWS = 12  # of a table that is not folded
TEMPLATE = "page.html.jinja"


@dataclass
class Section:
    """A section of the page.

    title (str): Its title and id.
    figures (List[Figure]): The figures, with SVG that is inserted as it is.
    tables (List[Table]): The tables.
    excerpts (Dict[str, List[Excerpt]]): Excerpts by task, shown instead of tables of them.
    """

    title: str
    figures: list[Figure]
    tables: list[Table]
    excerpts: dict[str, list[Excerpt]]


@dataclass
class Part:
    """A part of a text, with a label if it is marked."""

    text: str
    label: str | None = None


def make_page(report: Report) -> str:
    """RETURNS (str): The report as HTML. Names, labels and texts are escaped by the template."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["bold"] = lambda cell: isinstance(cell, Bold)
    environment.filters["split_marks"] = split_marks
    return environment.get_template(TEMPLATE).render(
        report=report,
        claims=make_claims(report),
        sections=make_sections(report),
        max_rows=MAX_ROWS,
    )


def make_sections(report: Report) -> list[Section]:
    """RETURNS (List[Section]): The sections in the order of the tables."""
    figures, errors = make_figures(report), group_by_task(report.errors)
    return [
        Section(title, figures.get(title, []), [], errors)
        if title == "Errors"
        else Section(title, figures.get(title, []), list(tables), {})
        for title, tables in groupby(make_tables(report), key=lambda table: table.section)
    ]


def split_marks(text: str, marks: Sequence[Mark]) -> list[Part]:
    """RETURNS (List[Part]): The parts of a text, marked and unmarked, in order."""
    parts, end = [], 0
    for mark in marks:
        parts += [Part(text[end : mark.start]), Part(text[mark.start : mark.end], mark.label)]
        end = mark.end
    return [part for part in (*parts, Part(text[end:])) if part.text]
