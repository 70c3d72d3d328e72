import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from spacy_mtl.report.figures import CAPTIONS, COLUMNS, pick_labels, show_cosine
from spacy_mtl.report.markdown import to_markdown
from spacy_mtl.report.page import MAX_ROWS, make_page, split_marks
from spacy_mtl.report.records import (
    Confusion,
    Excerpt,
    LabelScore,
    Mark,
    Report,
    RunSummary,
    TaskCalibration,
    Transfer,
)
from spacy_mtl.report.tables import make_claims, make_tables
from spacy_mtl.training.calibration import Bin


class Reader(HTMLParser):
    """Checks that every element is closed, and collects elements and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.captions: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, text):
        self.texts.append(text.strip())
        if "figcaption" in self.open:
            self.captions.append(text)

    def find(self, name: str) -> list[dict]:
        return [attrs for tag, attrs in self.elements if tag == name]


def make_run(name: str, setting: str, *tasks: str, seed: int = 0, n: int = 3) -> RunSummary:
    steps = range(0, 10 * n, 10)
    curve = [(step, 1 / (1 + step)) for step in steps]
    pairs = [f"{a}|{b}" for a, b in pairwise(tasks)]
    return RunSummary(
        name,
        setting,
        list(tasks),
        seed,
        source="dev.spacy",
        scores={"tag_acc": 0.5 + seed / 10},
        steps=steps[-1],
        curves={
            **{kind: dict.fromkeys(tasks, curve) for kind in ("loss", "weight", "grad_norm")},
            "score": {"tag_acc": curve},
            "cosine": {pair: [(step, -0.25) for step in steps[1:]] for pair in pairs},
        },
    )


LABEL = "<b>&"
SCORE = LabelScore("tagger", "m", LABEL, p=0.75, r=None, f=0.5, support=4.0)


def make_report(**changes) -> Report:
    report = Report(
        runs=[
            make_run("m-0", "m", "tagger", "ner"),
            make_run("m-1", "m", "tagger", "ner", seed=1),
            make_run("t-0", "t", "tagger"),
        ],
        data="dev.spacy",
        transfer=[
            Transfer(
                *("tagger", "t", "m", "tag_acc"),
                **{"single_mean": 0.5, "single_sd": None, "multi_mean": 0.6, "multi_sd": 0.012},
                **{"difference": 0.1, "p": 0.0004, "seeds": 1, "docs": 9},
            )
        ],
        labels=[SCORE],
        calibration=[
            TaskCalibration(
                *("tagger", "m"),
                **{"ece_mean": 0.123, "ece_sd": 0.01, "confidence": 0.875, "accuracy": 0.75},
                predictions=4,
                bins=[Bin(1, 0.5, 0.0), Bin(3, 1.0, 1.0)],
            )
        ],
        confusions=[
            Confusion("tagger", "m", gold, predicted, n)
            for gold, predicted, n in ((LABEL, LABEL, 7), (LABEL, "|", 3), ("(none)", "|", 2))
        ],
        errors=[Excerpt("tagger", "m", 0, "a<b & c | d", [Mark(0, 3, LABEL)], [])],
    )
    return replace(report, **changes)


@pytest.fixture(scope="module")
def html() -> str:
    return make_page(make_report())


def test_well_formed_and_all_there(html):
    page = Reader(html)
    assert [attrs["id"] for attrs in page.find("section")] == [
        *("Transfer", "Scores", "Training", "Balance", "Labels", "Calibration", "Confusions"),
        "Errors",
    ]
    assert {attrs["href"] for attrs in page.find("a")} == {
        f"#{attrs['id']}" for attrs in page.find("section")
    }
    plots = [attrs["aria-label"] for attrs in page.find("svg")]
    assert plots == [
        *("loss of tagger", "loss of ner", "tag_acc", "weights (m)", "gradient norms (m)"),
        *("cosines (m)", "confidence of tagger", "tagger (m)"),
    ]
    assert page.captions == [CAPTIONS[key] for key in CAPTIONS]
    assert len(page.find("figure")) == len(page.find("figcaption")) == 5


def test_nothing_from_elsewhere(html):
    page = Reader(html)
    for name, attrs in page.elements:
        for key in ("src", "href", "xlink:href", "data", "action"):
            assert (attrs.get(key) or "#").startswith("#"), (name, attrs)
    assert not {"script", "link", "iframe", "img", "object", "metadata"} & {
        name for name, _ in page.elements
    }
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_ids(html):
    """None is there twice, and whatever is referred to is there."""
    ids = [attrs["id"] for _, attrs in Reader(html).elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 20
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]*)", html)) <= set(ids)


def test_what_the_data_holds_is_text(html):
    page = Reader(html)
    assert "<b>&" in page.texts
    assert "<b>" not in html
    assert [attrs["class"] for attrs in page.find("mark")] == ["gold"]
    assert "a<b & c | d" in page.texts


def test_labels_of_any_kind():
    labels = ["$a$", "日本", "_", "$", "x" * 50]
    pairs = [Confusion("tagger", "m", a, b, 7) for a in labels for b in labels]
    runs = [make_run("m", "m", *labels)]
    html = make_page(make_report(confusions=pairs, runs=runs))
    texts = Reader(html).texts
    assert texts.count("$a$") > 3 and texts.count("日本") > 3
    assert "x" * 11 + "…" in texts


def test_colours_go_with_the_page(html):
    assert "currentColor" in html and "var(--line-0)" in html
    assert "#010203" not in html and "#0072b2" not in html.split("</style>")[1]
    assert "prefers-color-scheme: dark" in html
    assert Reader(html).find("meta")[1]["name"] == "viewport"


def test_the_same_content_has_the_same_page(html):
    assert make_page(make_report()) == html


def test_numbers_are_those_of_the_content(html):
    texts = Reader(html).texts
    markdown = to_markdown(make_tables(make_report()))
    for cell in ("+10.00", "< 0.001", "50.00", "60.00 ± 1.20", "75.0", "4", "-0.250"):
        assert cell in texts
        assert f" {cell} " in markdown or f"**{cell}**" in markdown
    assert "**+10.00**" in markdown and "**+10.00**" not in texts


def test_long_tables_are_folded():
    labels = [replace(SCORE, label=f"L{i}") for i in range(MAX_ROWS)]
    folded = [
        len(Reader(make_page(Report([], labels=some))).find("details"))
        for some in (labels, [*labels, SCORE])
    ]
    assert folded == [0, 1]


def test_scores_only():
    run = RunSummary("a", None, [], None, "a.json", {"tag_acc": 0.5}, steps=None, curves={})
    page = Reader(make_page(Report([run])))
    assert [attrs["id"] for attrs in page.find("section")] == ["Scores"]
    assert page.find("figure") == []
    assert "1 run" in page.texts


def test_settings_with_other_tasks():
    runs = [make_run("m", "m", "tagger", "ner"), make_run("n", "n", "ner", "textcat")]
    page = Reader(make_page(make_report(runs=runs)))
    plots = [attrs["aria-label"] for attrs in page.find("svg")]
    for setting in "mn":
        for title in ("weights", "gradient norms", "cosines"):
            assert f"{title} ({setting})" in plots


def test_no_gradient():
    run = make_run("m", "m", "tagger", "ner")
    run.curves["grad_norm"] = {"tagger": [(0, 0.0), (10, 0.0)]}
    page = Reader(make_page(make_report(runs=[run])))
    assert "gradient norms (m)" in [attrs["aria-label"] for attrs in page.find("svg")]


def test_long_trainings_have_few_columns():
    page = make_page(make_report(runs=[make_run("m", "m", "tagger", "ner", n=100)]))
    (heatmap,) = [svg for svg in page.split("<svg ") if 'aria-label="cosines (m)"' in svg]
    assert len(re.findall(r">-\.25<", heatmap)) == COLUMNS


def test_most_confused_labels():
    pairs = [(f"L{i}", f"L{i}", 99) for i in range(20)]
    pairs += [(f"L{i}", f"L{i + 1}", i) for i in range(0, 20, 2)]
    records = [Confusion("t", "m", a, b, n) for a, b, n in pairs]
    assert pick_labels(records) == sorted(f"L{i}" for i in range(10, 20))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.256, ".26"), (-0.25, "-.25"), (1.0, "1.00"), (-0.001, ".00"), (-1.0, "-1.00")],
)
def test_cosine(value, text):
    assert show_cosine(value) == text


def test_claims_come_first(html):
    """Before the first table, on the page and in Markdown."""
    report = make_report()
    (claim,) = make_claims(report)
    markdown = to_markdown(make_tables(report), [claim])
    assert claim.startswith("Training together improves tagger: +10.00 points")
    assert claim.replace("<", "\\<") in markdown.split("## ")[0]
    assert claim in Reader(html.split("<nav>")[0] + "</body></html>").texts


def test_marks_of_a_text():
    marks = [Mark(2, 4, "x"), Mark(4, 5, "y")]
    parts = [(part.text, part.label) for part in split_marks("ab cd e", marks)]
    assert parts == [("ab", None), (" c", "x"), ("d", "y"), (" e", None)]
    assert [part.text for part in split_marks("all", [Mark(0, 3, "x")])] == ["all"]
