"""Tables as CSV."""

import csv
from urllib.parse import unquote

import pytest

from spacy_mtl.report.downloads import defuse, get_address, get_file_name, to_csv
from spacy_mtl.report.markdown import Bold, Table

TABLE = Table(
    *("Labels", "My task/é", "note", ["label", "alone", "n"]),
    [['a,"b"\n', Bold("50.00 ± 1.20"), "1"], ["-", "-", "-"], ["日本", "3.00", "< 0.001"]],
    units={"alone": "%"},
)


def test_csv_has_units_and_a_column_per_number():
    assert list(csv.reader(to_csv(TABLE).splitlines(keepends=True))) == [
        ["label", "alone (%)", "alone standard deviation (%)", "n"],
        ['a,"b"\n', "50.00", "1.20", "1"],
        ["'-", "", "", ""],
        ["日本", "3.00", "", "< 0.001"],
    ]


def test_link_holds_the_file():
    head, content = get_address(TABLE).split(",", 1)
    assert head == "data:text/csv;charset=utf-8"
    assert unquote(content) == f"\ufeff{to_csv(TABLE)}"
    assert not set("<>\"'& ") & set(get_address(TABLE))
    assert get_file_name(TABLE) == "labels-my-task-é.csv"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-LRB-", "'-LRB-"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\t'=1"),
        ("a;=1", "a;'=1"),
        ("＝1", "'＝1"),
        ("-0.5", "-0.5"),
        ("+12.85", "+12.85"),
        ("60", "60"),
        ("a=b", "a=b"),
        ("NN", "NN"),
    ],
)
def test_no_cell_is_a_formula(cell, expected):
    assert defuse(cell) == expected
