"""Keys of runs and settings, by which the page hides the elements that belong to them."""

from collections.abc import Sequence

from .markdown import Table
from .records import RunSummary


class Keys:
    """Maps the names of runs and settings to keys, which are safe in any attribute.

    A file of scores has no setting and counts as one of its own.

    runs (Sequence[RunSummary]): The runs of the report.
    """

    def __init__(self, runs: Sequence[RunSummary]) -> None:
        self.settings: dict[str, list[RunSummary]] = {}
        for run in runs:
            self.settings.setdefault(run.setting or run.name, []).append(run)
        self.ids = {id(run): f"r{i}" for i, run in enumerate(runs)}
        self.runs = {run.name: self.of_run(run) for run in runs}
        self.styles = {name: i for i, name in enumerate(self.settings)}

    def of(self, setting: str) -> str:
        """RETURNS (str): The key of a setting; empty for one without runs."""
        return f"s{self.styles[setting]}" if setting in self.styles else ""

    def of_run(self, run: RunSummary) -> str:
        """RETURNS (str): The key of a run."""
        return self.ids[id(run)]

    def style(self, setting: str) -> int:
        """RETURNS (int): The number of a setting, for its colour and its kind of line."""
        return self.styles.get(setting, 0)

    def of_row(self, table: Table, row: Sequence[str]) -> str:
        """RETURNS (str): The key of the run or the setting of a row of a table, if it has one."""
        if table.run_column is not None:
            return self.runs.get(row[table.run_column], "")
        return "" if table.setting_column is None else self.of(row[table.setting_column])

    def of_column(self, table: Table, title: str) -> str:
        """RETURNS (str): The key of the setting of a column of a table, if it has one."""
        return self.of(table.column_settings.get(title, ""))
