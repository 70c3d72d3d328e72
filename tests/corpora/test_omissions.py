from pathlib import Path

import pytest

from spacy_mtl.corpora.omissions import Omissions

PATH = Path("a.csv")


def test_one_warning_of_each_kind() -> None:
    with pytest.warns(UserWarning) as told, Omissions(PATH, skip_errors=True) as omissions:
        for line in range(1, 8):
            omissions.add_unread("keys", "topic", line)
            omissions.add_left_out("rows without text", line)
        omissions.add_unread("keys", "id", 3)
        for line in (4, 5):
            with omissions.skipping("rows", line):
                raise ValueError(f"line {line} is wrong")
    unread, left_out, errors = (str(item.message) for item in told)
    lines = "lines 1, 2, 3, 4, 5 and 2 more"
    assert unread.startswith(
        f"[W110] a.csv: these keys are not read: 'topic' ({lines}); 'id' (line 3). "
    )
    assert left_out == f"[W111] a.csv: 7 left out: rows without text, in {lines}."
    assert "2 left out by --skip-errors: rows, in lines 4, 5. The first: line 4 is wrong" in errors


def test_nothing_is_told_of_a_complete_file() -> None:
    with Omissions(PATH):
        pass


def test_an_error_ends_the_file() -> None:
    with pytest.raises(ValueError, match="wrong"), Omissions(PATH) as omissions:
        omissions.add_left_out("rows without text", 1)
        with omissions.skipping("rows", 2):
            raise ValueError("wrong")
