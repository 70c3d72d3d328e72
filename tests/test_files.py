"""Files and folders are replaced as a whole."""

import errno
import os
from pathlib import Path

import pytest

from spacy_mtl.files import NEW, OLD, WriteError, clean_up, locking, replacing


def write(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "part").write_text(text)


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing(tmp_path / "model") as new:
            write(new, text)
    assert (tmp_path / "model" / "part").read_text() == "second"
    assert os.listdir(tmp_path) == ["model"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing(tmp_path / "file") as new:
            new.write_text(text)
    assert (tmp_path / "file").read_text() == "second"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error, expected",
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteError),
        (RuntimeError("file write failed: No space left on device"), WriteError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
def test_the_old_version_stays_after_an_error(
    tmp_path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    write(tmp_path / "model", "first")
    match = r"M091.*model.*No space left" if expected is WriteError else None
    with pytest.raises(expected, match=match), replacing(tmp_path / "model") as new:
        write(new, "half")
        raise error
    assert (tmp_path / "model" / "part").read_text() == "first"
    assert os.listdir(tmp_path) == ["model"]


def test_the_old_folder_is_restored(tmp_path: Path) -> None:
    """The old folder is restored if the new one cannot replace it."""
    write(tmp_path / "model", "first")
    with pytest.raises(WriteError, match="M091"), replacing(tmp_path / "model"):
        pass
    assert (tmp_path / "model" / "part").read_text() == "first"
    assert os.listdir(tmp_path) == ["model"]


def test_clean_up_after_a_kill(tmp_path: Path) -> None:
    write(tmp_path / f"model{OLD}", "first")
    write(tmp_path / f"model{NEW}", "half")
    write(tmp_path / "best", "second")
    write(tmp_path / f"best{OLD}", "first")
    (tmp_path / f"file{NEW}").write_text("half")
    clean_up(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best", "model"]
    assert (tmp_path / "model" / "part").read_text() == "first"
    assert (tmp_path / "best" / "part").read_text() == "second"


def test_torch_names_no_cause(tmp_path: Path) -> None:
    def save() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")

    with pytest.raises(WriteError, match="No space left"), replacing(tmp_path / "checkpoint"):
        save()


def test_one_process_holds_the_lock_of_a_folder(tmp_path: Path) -> None:
    with locking(tmp_path) as is_first:
        with locking(tmp_path) as is_second:
            assert (is_first, is_second) == (True, False)
    with locking(tmp_path, 1.0) as is_free:
        assert is_free
