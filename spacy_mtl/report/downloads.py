"""Tables as CSV files, which the page carries in links."""

import csv
import io
import re
from urllib.parse import quote

from .markdown import Table

SPREAD = " \u00b1 "
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
# The start of a formula in spreadsheets, at the start of a cell or after a separator that some
# locales split cells at.
FORMULA = re.compile(r"(^|[;\t\r\n])(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")


def to_csv(table: Table) -> str:
    """Write a table as CSV.

    Units are in the header. A mean with a standard deviation has two columns. Missing numbers are
    empty. Spreadsheets do not run any cell as a formula: texts that start like one get an
    apostrophe, as the Open Worldwide Application Security Project recommends ("CSV Injection").

    table (Table): The table.
    RETURNS (str): The content of the file.
    """
    columns = []
    for i, (title, *cells) in enumerate(zip(table.header, *table.rows, strict=True)):
        unit = table.units.get(title)
        name = f"{title} ({unit})" if unit else title
        if i < table.texts:
            columns.append([name, *cells])
            continue
        numbers = ["" if cell == "-" else cell for cell in cells]
        if any(SPREAD in number for number in numbers):
            parts = [[*number.split(SPREAD), ""][:2] for number in numbers]
            columns.append([name, *(mean for mean, _ in parts)])
            columns.append([f"{title} standard deviation ({unit})", *(sd for _, sd in parts)])
        else:
            columns.append([name, *numbers])
    file = io.StringIO()
    csv.writer(file).writerows([map(defuse, line) for line in zip(*columns, strict=True)])
    return file.getvalue()


def defuse(cell: str) -> str:
    """RETURNS (str): A cell that no spreadsheet reads as a formula. Numbers stay as they are."""
    return cell if NUMBER.fullmatch(cell) else FORMULA.sub(r"\1\2'", cell)


def get_address(table: Table) -> str:
    """RETURNS (str): A link with the content of the table's CSV file. It starts with a byte order
    mark, without which Excel does not read UTF-8.
    """
    content = to_csv(table).encode("utf8", "replace")
    return f"data:text/csv;charset=utf-8,%EF%BB%BF{quote(content)}"


def get_file_name(table: Table) -> str:
    """RETURNS (str): The name of the table's CSV file, such as "labels-tagger.csv"."""
    words = re.findall(r"\w+", f"{table.section} {table.title}".lower())
    return f"{'-'.join(words)}.csv"
