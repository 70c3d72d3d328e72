"""The public interface exports what the tutorial documents."""

import re
from pathlib import Path

import pytest

from spacy_mtl import api

DOCS = Path(__file__).parents[1] / "docs" / "third_party.md"


def test_exported_names_are_documented() -> None:
    table = DOCS.read_text(encoding="utf-8").split("## The public API")[1]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == api.__all__ == sorted(api.__all__)
    missing = [name for name in api.__all__ if not hasattr(api, name)]
    assert missing == []
    undocumented = [
        name
        for name in api.__all__
        if isinstance(getattr(api, name), type) and not getattr(api, name).__doc__
    ]
    assert undocumented == []


def test_names_that_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        api.nothing  # noqa: B018
