"""Tables as Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby


class Bold(str):
    """A cell in bold type."""


@dataclass
class Table:
    """A table of a report.

    section (str): The section of the report that it belongs to.
    title (str): The title.
    note (str): How to read it.
    header (Sequence[str]): The titles of the columns.
    rows (Sequence[Sequence[str]]): The cells.
    texts (int): The number of columns, from the left, that hold text. The others hold numbers.
    units (Mapping[str, str]): The unit of each column that has one, such as "%", by title.
    run_column, setting_column (Optional[int]): The column with the name of the run or setting that
        a row belongs to.
    column_settings (Mapping[str, str]): The setting of each column that belongs to one, by title.
    """

    section: str
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    units: Mapping[str, str] = field(default_factory=dict)
    run_column: int | None = None
    setting_column: int | None = None
    column_settings: Mapping[str, str] = field(default_factory=dict)

    def to_markdown(self) -> str:
        """RETURNS (str): The table in Markdown."""
        columns = []
        for i, cells in enumerate(zip(self.header, *self.rows, strict=True)):
            is_number = i >= self.texts
            texts = [to_cell(cell) if is_number else escape(cell) for cell in cells]
            columns.append(align(texts, is_number))
        return "".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True))


def to_markdown(tables: Sequence[Table], claims: Sequence[str] = ()) -> str:
    """Write a report in Markdown.

    tables (Sequence[Table]): The tables, sorted by section.
    claims (Sequence[str]): The results in words.
    RETURNS (str): The claims, then the tables with sections, titles and notes. A single table
        without claims has none of these.
    """
    if len(tables) == 1 and not claims:
        return tables[0].to_markdown()
    parts = ["".join(f"- {escape(claim)}\n" for claim in claims)] if claims else []
    for section, group in groupby(tables, key=lambda table: table.section):
        parts.append(f"## {section}\n")
        parts += [f"### {t.title}\n\n{t.note}\n\n{t.to_markdown()}" for t in group]
    return "\n".join(parts)


def to_cell(number: str) -> str:
    """RETURNS (str): The Markdown of a number."""
    return f"**{number}**" if isinstance(number, Bold) else number


def escape(text: str) -> str:
    """RETURNS (str): A text with escaped pipes, backticks, angle brackets and asterisks."""
    return re.sub(r"([|`<*])", r"\\\1", text)


def align(cells: Sequence[str], is_number: bool) -> list[str]:
    """RETURNS (List[str]): The cells of a column, padded, with a rule below the title."""
    width = max(3, *map(len, cells))
    rule = "-" * (width - 1) + ":" if is_number else "-" * width
    title, *rest = [cell.rjust(width) if is_number else cell.ljust(width) for cell in cells]
    return [title, rule, *rest]
