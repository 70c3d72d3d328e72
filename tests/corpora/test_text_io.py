import codecs
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_mtl.corpora.text_io import parse_comment, read_head, read_lines, read_text

TEXT = "fine\nschöner Tag\n"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-8"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "latin-1"),
        (TEXT.encode("utf-16-be"), "utf-16-be"),
        (TEXT.encode("latin-1"), "latin-1"),
        (TEXT.replace("\n", "\r\n").encode("cp1252"), "cp1252"),
    ],
)
def test_encodings(tmp_path: Path, data: bytes, encoding: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    assert list(read_lines(path, encoding)) == [(1, "fine"), (2, "schöner Tag")]
    if encoding == "utf-8":
        assert read_head(path) == TEXT


@pytest.mark.parametrize(
    ("data", "encoding", "code", "parts"),
    [
        (TEXT.encode("latin-1"), "utf-8", "M132", ["line 2", "0xf6", "--encoding cp1252"]),
        (TEXT.encode("utf-16-le"), "utf-8", "M132", ["utf-16"]),
        (TEXT.encode(), "nonsense", "M131", ["'nonsense'", "utf-8"]),
        (TEXT.encode(), "base64", "M131", ["'base64'"]),
    ],
)
def test_wrong_encodings(
    tmp_path: Path, data: bytes, encoding: str, code: str, parts: list[str]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=code) as error:
        read_text(path, encoding)
    assert [part for part in parts if part not in str(error.value)] == []


def test_a_few_broken_bytes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes("äöü\nä@ü\nö@\n".encode().replace(b"@", b"\xff"))
    with pytest.warns(UserWarning, match=r"W100.*2 broken.*line 2.*0xff") as told:
        assert read_text(path) == "äöü\nä\ufffdü\nö\ufffd\n"
    assert len(told) == 1


def test_the_head_ends_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("0123456789\n" * 10_000)
    head = read_head(path)
    assert head.endswith("9\n") and 60_000 < len(head) <= 2**16
    path.write_text("new\n")
    assert read_head(path) == "new\n"
    assert read_head(tmp_path / "none") == ""


def test_comments() -> None:
    found = {
        "# key = a = b": ("key", "a = b"),
        "# id: 1": ("id", "1"),
        "# meta::genre = news": ("meta::genre", "news"),
        "# text = a: b": ("text", "a: b"),
        "#key=value": ("key", "value"),
        "# newdoc": ("newdoc", ""),
        "# newdoc id = x": ("newdoc id", "x"),
        "# empty =": ("empty", ""),
    }
    assert {line: parse_comment(line) for line in found} == found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff")),
    st.sampled_from(["utf-8", "utf-16"]),
)
def test_any_text_is_kept(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(text.encode(encoding))
    assert read_text(path) == text
