"""Files and folders that are replaced as a whole, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Errors

NEW, OLD = ".mtl-new", ".mtl-old"  # suffixes of what is being written, and being replaced


class WriteError(ValueError):
    """M091: a file or folder could not be written, such as on a full disk."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file or folder by a new one, once that is complete.

    path (Path): The file or folder.
    YIELDS (Path): Where to write the new one. It is removed if the block fails.
    RAISES (WriteError): M091 if it cannot be written. What was at `path` before is still there.
    """
    new, old = (path.with_name(path.name + suffix) for suffix in (NEW, OLD))
    try:
        remove(new)
        yield new
        if path.is_dir():
            path.rename(old)  # a folder that is not empty cannot be replaced in one step
        new.replace(path)
        remove(old)
    except (OSError, RuntimeError) as error:
        # torch hides what the disk says
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        remove(new)
        if old.exists() and not path.exists():
            old.rename(path)
        raise WriteError(Errors.M091.format(path=path, error=reason)) from error
    except BaseException:
        remove(new)
        raise


def clean_up(folder: Path) -> None:
    """Remove what a process that was killed has left half written. A folder that was about to be
    replaced comes back.
    """
    for old in folder.glob(f"*{OLD}"):
        path = old.with_name(old.name.removesuffix(OLD))
        if path.exists():
            remove(old)
        else:
            old.rename(path)
    for new in folder.glob(f"*{NEW}"):
        remove(new)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
