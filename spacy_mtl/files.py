"""Replaces files and folders atomically, as a whole or not at all, and locks folders."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from .errors import Errors

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

NEW, OLD = ".mtl-new", ".mtl-old"  # suffixes of the new and the replaced version
LOCK = ".mtl-lock"


class WriteError(ValueError):
    """M091: a file or folder could not be written, for example on a full disk."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file or folder after the new version has been written completely.

    path (Path): The file or folder.
    YIELDS (Path): The path to write the new version to. It is removed if the block fails.
    RAISES (WriteError): M091 if the new version cannot be written. The old one stays at `path`.
    """
    new, old = (path.with_name(path.name + suffix) for suffix in (NEW, OLD))
    try:
        remove(new)
        yield new
        if path.is_dir():
            path.rename(old)  # a non-empty folder cannot be replaced in one step
        new.replace(path)
        remove(old)
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError while it handles the disk's error
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        remove(new)
        if old.exists() and not path.exists():
            old.rename(path)
        raise WriteError(Errors.M091.format(path=path, error=reason)) from error
    except BaseException:
        remove(new)
        raise


def clean_up(folder: Path) -> None:
    """Remove incomplete files of a killed process, and restore a folder that it was replacing."""
    for old in folder.glob(f"*{OLD}"):
        path = old.with_name(old.name.removesuffix(OLD))
        if path.exists():
            remove(old)
        else:
            old.rename(path)
    for new in folder.glob(f"*{NEW}"):
        remove(new)


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file until all processes that have inherited it have ended.

    file (IO[bytes]): The file.
    RETURNS (bool): Whether it is locked now. False if another process has locked it. Always true
        without such locks, on Windows.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locking(folder: Path, wait: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a folder. The system releases it however the process ends.

    folder (Path): The folder.
    wait (float): Seconds to wait for another process that holds it.
    YIELDS (bool): Whether this process holds the lock.
    """
    with closing(sqlite3.connect(folder / LOCK, timeout=wait, isolation_level=None)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            yield False
        else:
            yield True
