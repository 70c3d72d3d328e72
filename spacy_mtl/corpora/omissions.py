"""Warnings of what a reader leaves out of a file."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from ..errors import Warnings, quote

HINT = "If they hold labels, name them by an option, or rename them."
SHOWN = 5  # lines and names in a message


class Omissions:
    """Collects what a reader leaves out of one file, and warns once of each kind at the end.

    Use it as a context manager around the reader's loop. It warns if the loop ends without an
    error.

    path (Path): The file.
    skip_errors (bool): Whether wrong parts of the file are left out. Otherwise they are errors.
    hint (str): How to read what was not read, a sentence.
    unit (str): What its numbers count: "line", or "record" of a file without meaningful lines.
    """

    def __init__(
        self, path: Path, skip_errors: bool = False, hint: str = HINT, unit: str = "line"
    ) -> None:
        self.path = path
        self.skip_errors = skip_errors
        self.hint = hint
        self.unit = unit
        self._unread: dict[str, dict[str, list[int]]] = {}
        self._left_out: dict[str, list[int]] = {}
        self._errors: dict[str, list[int]] = {}
        self._first: dict[str, ValueError] = {}

    def __enter__(self) -> "Omissions":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.warn()

    def get_place(self, line: int) -> str:
        """RETURNS (str): A place of the file, for messages."""
        return f"{self.path}, {self.unit} {line}"

    def add_unread(self, kind: str, name: str, line: int = 1) -> None:
        """Note a part of the file that the reader does not know.

        kind (str): What it is, in the plural, such as "columns" or "keys".
        name (str): Its name.
        line (int): The line.
        """
        self._unread.setdefault(kind, {}).setdefault(name, []).append(line)

    def add_left_out(self, what: str, line: int) -> None:
        """Note a part of the file that yields no doc or no label, for a reason that is no error.

        what (str): The part and the reason, in the plural, such as "rows without text".
        line (int): The line.
        """
        self._left_out.setdefault(what, []).append(line)

    def add_error(self, what: str, line: int, error: ValueError) -> None:
        """Skip a wrong part of the file, or raise its error without `skip_errors`.

        what (str): What is skipped, in the plural, such as "entities" or "records".
        line (int): The line.
        error (ValueError): The error, with its code.
        RAISES (ValueError): The error, unless errors are skipped.
        """
        if not self.skip_errors:
            raise error
        self._errors.setdefault(what, []).append(line)
        self._first.setdefault(what, error)

    @contextmanager
    def skipping(self, what: str, line: int) -> Iterator[None]:
        """Skip a part of the file in which a ValueError is raised, as `add_error`."""
        try:
            yield
        except ValueError as error:
            self.add_error(what, line, error)

    def warn(self) -> None:
        """Warn of all that was noted: W110 of unread parts, W111 of parts that were left out, W112
        of errors that were skipped.
        """
        for kind, names in self._unread.items():
            shown = [f"{name!r} ({self._show_lines(lines)})" for name, lines in names.items()]
            more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
            names_shown = "; ".join(shown[:SHOWN]) + more
            warnings.warn(
                Warnings.W110.format(path=self.path, kind=kind, names=names_shown, hint=self.hint)
            )
        for what, lines in self._left_out.items():
            warnings.warn(
                Warnings.W111.format(
                    path=self.path, n=len(lines), what=what, lines=self._show_lines(lines)
                )
            )
        for what, lines in self._errors.items():
            warnings.warn(
                Warnings.W112.format(
                    path=self.path,
                    n=len(lines),
                    what=what,
                    lines=self._show_lines(lines),
                    first=self._first[what],
                )
            )

    def _show_lines(self, lines: list[int]) -> str:
        """RETURNS (str): The first of the lines, such as "lines 3, 7, 9 and 120 more"."""
        shown = ", ".join(map(str, lines[:SHOWN]))
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        return f"{self.unit if len(lines) == 1 else f'{self.unit}s'} {shown}{more}"


def warn_of_unused(path: Path, option: str, value: str, found: Iterable[str]) -> None:
    """Warn with W117 that a file does not have what an option names.

    path (Path): The file.
    option (str): The option, such as "--category".
    value (str): Its value.
    found (Iterable[str]): The values that would have an effect.
    """
    names = quote(sorted(found)[: 2 * SHOWN]) or "none"
    warnings.warn(Warnings.W117.format(path=path, option=option, value=value, found=names))
