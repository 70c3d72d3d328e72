"""The HTML page, as text. The tests of its script are in test_browser.py."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from spacy_mtl.report.figures import CAPTIONS, COLUMNS, pick_labels
from spacy_mtl.report.markdown import to_markdown
from spacy_mtl.report.page import MAX_ROWS, make_page, split_marks, tie
from spacy_mtl.report.records import Confusion, Mark, Report, RunSummary
from spacy_mtl.report.tables import make_claims, make_tables
from spacy_mtl.report.verdict import make_verdict
from spacy_mtl.training.calibration import Bin

VOID = {"meta", "br", "input"}


class Reader(HTMLParser):
    """Parses a page, and checks that every element is closed."""

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
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, text):
        if self.open[-1:] != ["script"]:
            self.texts.append(text.strip())
        if "figcaption" in self.open:
            self.captions.append(text)

    def find(self, name: str) -> list[dict]:
        return [attrs for tag, attrs in self.elements if tag == name]


@pytest.fixture(scope="module")
def html(make_report) -> str:
    """Return the page of a report with every kind of content."""
    return make_page(make_report())


def test_every_section_is_there_and_well_formed(html):
    page = Reader(html)
    assert [attrs["id"] for attrs in page.find("section")] == [
        *("Transfer", "Scores", "Training", "Balance", "Labels", "Calibration", "Confusions"),
        "Errors",
    ]
    assert {attrs["href"] for attrs in page.find("a") if "download" not in attrs} == {
        f"#{attrs['id']}" for attrs in page.find("section")
    }
    plots = [attrs["aria-label"] for attrs in page.find("svg")]
    assert plots == [
        *("Together minus alone", "Loss of tagger", "Loss of ner", "tag_acc", "Weights (m)"),
        *("Gradient norms (m)", "Confidence of tagger"),
    ]
    assert {"Cosines (m)", "tagger (m)"} <= set(page.texts)
    assert page.captions == [CAPTIONS[key] for key in CAPTIONS]
    assert len(page.find("figure")) == len(page.find("figcaption"))


def test_page_loads_nothing(html):
    page = Reader(html)
    for name, attrs in page.elements:
        for key in ("src", "href", "xlink:href", "data", "action"):
            value = attrs.get(key) or "#"
            assert value.startswith(("#", "data:text/csv;")), (name, attrs)
    assert not {"link", "iframe", "img", "object", "metadata"} & {name for name, _ in page.elements}
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_ids_are_unique_and_references_exist(html):
    ids = [attrs["id"] for _, attrs in Reader(html).elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 20
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]*)", html)) <= set(ids)


def test_names_labels_and_texts_are_escaped(html, make_report, make_run):
    """No name, label, text or path of a report is read as HTML or leaves its script."""
    evil = "</script><script>alert(1)</script><b title='\"'>&"
    report = make_report()
    runs = [make_run(evil, evil, evil, "ner"), make_run("x", "x", evil)]
    transfer = [replace(report.transfer[0], task=evil, single=evil, multi=evil, measure=evil)]
    rows = {
        kind: [replace(row, task=evil, setting=evil) for row in getattr(report, kind)]
        for kind in ("labels", "calibration", "confusions", "errors")
    }
    rows["labels"] = [replace(row, label=evil) for row in rows["labels"]]
    rows["confusions"] += [replace(row, gold=evil, predicted=evil) for row in rows["confusions"]]
    settings = [replace(one, name=evil, encoder=evil) for one in report.settings]
    evil_html = make_page(
        replace(
            report,
            **{"runs": runs, "transfer": transfer, "settings": settings, **rows},
            corpus=replace(report.corpus, name=evil),
            versions={evil: evil},
            data=evil,
        )
    )
    page = Reader(evil_html)
    assert {name for name, _ in page.elements} <= {name for name, _ in Reader(html).elements}
    assert "alert(1)</" not in evil_html and "<b " not in evil_html
    assert evil in page.texts
    assert not [attrs for _, attrs in page.elements if any(key.startswith("on") for key in attrs)]


def test_text_of_the_data_is_escaped(html):
    page = Reader(html)
    assert "<b>&" in page.texts
    assert "<b>" not in html
    assert [attrs["class"] for attrs in page.find("mark")] == ["gold"]
    assert "a<b & c | d" in page.texts


def test_labels_of_any_kind(make_report, make_run):
    labels = ["$a$", "日本", "_", "$", "x" * 50]
    pairs = [Confusion("tagger", "m", a, b, 7) for a in labels for b in labels]
    runs = [make_run("m", "m", *labels)]
    html = make_page(make_report(confusions=pairs, runs=runs))
    texts = Reader(html).texts
    assert texts.count("$a$") > 3 and texts.count("日本") > 3
    assert "x" * 50 in texts


def test_plots_use_the_colours_of_the_page(html):
    assert "currentColor" in html and "var(--line-0)" in html
    assert "#010203" not in html and "#0072b2" not in html.split("</style>", 1)[1]
    assert "prefers-color-scheme: dark" in html
    assert Reader(html).find("meta")[1]["name"] == "viewport"


def test_same_report_gives_same_page(html, make_report):
    assert make_page(make_report()) == html


def test_page_and_markdown_show_the_same_numbers(html, make_report):
    texts = Reader(html).texts
    markdown = to_markdown(make_tables(make_report()))
    for cell in ("+10.00", "< 0.001", "50.00", "60.00 ± 1.20", "75.0", "4", "-0.250"):
        assert cell in texts
        assert f" {cell} " in markdown or f"**{cell}**" in markdown
    assert "**+10.00**" in markdown and "**+10.00**" not in texts


def test_long_tables_are_folded(score):
    labels = [replace(score, label=f"L{i}") for i in range(MAX_ROWS)]
    folded = [
        len(Reader(make_page(Report([], labels=some))).find("details"))
        for some in (labels, [*labels, score])
    ]
    assert folded == [0, 1]


def test_scores_only():
    run = RunSummary("a", None, [], None, "a.json", {"tag_acc": 0.5}, steps=None, curves={})
    page = Reader(make_page(Report([run])))
    assert [attrs["id"] for attrs in page.find("section")] == ["Scores"]
    assert page.find("figure") == []
    assert "Multi-task report of 1 run" in page.texts
    assert "a scores: tags 50.0 %." in page.texts


def test_each_setting_has_its_own_balance_plots(make_report, make_run):
    runs = [make_run("m", "m", "tagger", "ner"), make_run("n", "n", "ner", "textcat")]
    page = Reader(make_page(make_report(runs=runs)))
    titles = {attrs["aria-label"] for attrs in page.find("svg")}.union(page.texts)
    for setting in "mn":
        for title in ("Weights", "Gradient norms", "Cosines"):
            assert f"{title} ({setting})" in titles


def test_logarithmic_plot_without_positive_values(make_report, make_run):
    run = make_run("m", "m", "tagger", "ner")
    run.curves["grad_norm"] = {"tagger": [(0, 0.0), (10, 0.0)]}
    page = Reader(make_page(make_report(runs=[run])))
    assert "Gradient norms (m)" in [attrs["aria-label"] for attrs in page.find("svg")]


def test_page_with_values_that_are_not_finite(make_report, make_run):
    """The script can parse the data of the plots, which then have no such points."""
    run = make_run("m", "m", "tagger", "ner")
    run.curves["loss"]["tagger"] = [(0, math.nan), (10, math.inf), (20, 0.5)]
    run.curves["cosine"] = {"ner|tagger": [(10, math.nan), (20, math.inf)]}
    page = make_page(make_report(runs=[run]))
    data = re.findall(r'application/json">(.*?)</script>', page)
    assert not any("NaN" in text or "Infinity" in text for text in data)


def test_runs_with_the_same_name_are_all_drawn(make_report, make_run):
    runs = [make_run("a", "m", "tagger", seed=seed) for seed in range(2)]
    page = make_page(make_report(runs=runs))
    (plot,) = [svg for svg in page.split("<svg") if 'aria-label="Loss of tagger"' in svg]
    assert {'data-key="r0"', 'data-key="r1"'} <= set(re.findall(r'data-key="\w+"', plot))


def test_heatmap_of_a_long_run_has_few_columns(make_report, make_run):
    page = make_page(make_report(runs=[make_run("m", "m", "tagger", "ner", n=100)]))
    assert len(re.findall(r">-0\.25</td>", page)) == COLUMNS


def test_empty_heatmaps_and_sections_are_left_out(make_report, make_run):
    """Cosines of 0, labels without confusions, and fewer than two bins are not drawn."""
    run = make_run("m", "m", "tagger", "ner")
    run.curves["cosine"] = {"ner|tagger": [(10, 0.001), (20, -0.004)]}
    report = make_report(runs=[run], transfer=[], errors=[], labels=[])
    report.confusions = [c for c in report.confusions if c.gold == c.predicted]
    report.calibration[0].bins = [Bin(20, 0.5, 0.5)]
    page = Reader(make_page(report))
    assert [attrs["id"] for attrs in page.find("section")] == [
        *("Scores", "Training", "Balance", "Calibration")
    ]
    assert "Cosines (m)" not in page.texts
    assert "Confidence of tagger" not in [attrs["aria-label"] for attrs in page.find("svg")]


def test_scores_in_plots_are_in_percent(html):
    data = [json.loads(text) for text in re.findall(r'application/json">(.*?)</script>', html)]
    texts = {text for plot in data for trace in plot["traces"] for *_, text in trace["points"]}
    assert "75.0 % (50.0 % to 100.0 %)" in texts  # tag_acc of two seeds at step 0
    assert "confidence 50.0 %, correct 25.0 %, 100 predictions" in texts
    assert re.search(r">\d+ %</text>", html)


def test_points_of_plots_are_at_their_places(html):
    """The scales place each value on the line that matplotlib drew."""
    (plot,) = [p for p in html.split('<div class="plot"') if 'aria-label="Gradient norms (m)"' in p]
    data = json.loads(re.findall(r'application/json">(.*?)</script>', plot)[0])
    (x, y, _), key = data["traces"][0]["points"][1], data["traces"][0]["key"]
    across, down = data["scales"]
    assert not across["is_log"] and down["is_log"]
    left = across["offset"] + across["factor"] * x
    top = down["offset"] + down["factor"] * math.log10(y)
    drawn = plot.split("<svg")[1].split(f'data-key="{key}"')[1].split('d="')[1].split('"')[0]
    point = [float(number) for number in re.findall(r"[\d.]+", drawn)[2:4]]
    assert point == pytest.approx([left, top], abs=0.05)


def test_most_confused_labels():
    pairs = [(f"L{i}", f"L{i}", 99) for i in range(20)]
    pairs += [(f"L{i}", f"L{i + 1}", i) for i in range(0, 20, 2)]
    records = [Confusion("t", "m", a, b, n) for a, b, n in pairs]
    assert pick_labels(records) == sorted(f"L{i}" for i in range(10, 20))


def test_results_come_first(html, make_report):
    """The verdict is before the first table on the page, the claims are in Markdown."""
    report = make_report()
    (claim,) = make_claims(report)
    markdown = to_markdown(make_tables(report), [claim])
    assert claim.startswith("Training together improves tagger: +10.00 points")
    assert claim.replace("<", "\\<") in markdown.split("## ")[0]
    (sentence,) = make_verdict(report)
    assert tie(sentence) in Reader(html.split("<nav")[0] + "</body></html>").texts


def test_marks_of_a_text():
    marks = [Mark(2, 4, "x"), Mark(4, 5, "y")]
    parts = [(part.text, part.label) for part in split_marks("ab cd e", marks)]
    assert parts == [("ab", None), (" c", "x"), ("d", "y"), (" e", None)]
    assert [part.text for part in split_marks("all", [Mark(0, 3, "x")])] == ["all"]
