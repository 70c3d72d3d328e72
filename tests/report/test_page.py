import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from spacy_mtl.report.page import CAPTIONS, COLUMNS, MANY, make_page, pick_labels, show_cosine
from spacy_mtl.report.table import make_tables, to_markdown


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


def make_run(name: str, setting: str, *tasks: str, seed: int = 0, n: int = 3) -> dict:
    steps = range(0, 10 * n, 10)
    curve = [(step, 1 / (1 + step)) for step in steps]
    pairs = [f"{a}|{b}" for a, b in pairwise(tasks)]
    return {
        "name": name,
        "setting": setting,
        "tasks": list(tasks),
        "seed": seed,
        "source": "dev.spacy",
        "scores": {"tag_acc": 0.5 + seed / 10},
        "steps": steps[-1],
        "curves": {
            **{kind: dict.fromkeys(tasks, curve) for kind in ("loss", "weight", "grad_norm")},
            "score": {"tag_acc": curve},
            "cosine": {pair: [(step, -0.25) for step in steps[1:]] for pair in pairs},
        },
    }


def make_report(**changes) -> dict:
    spans = [{"start": 0, "end": 3, "label": "<b>&"}]
    content = {
        "runs": [
            make_run("m-0", "m", "tagger", "ner"),
            make_run("m-1", "m", "tagger", "ner", seed=1),
            make_run("t-0", "t", "tagger"),
        ],
        "data": "dev.spacy",
        "differences": [],
        "transfer": [
            {"task": "tagger", "single": "t", "multi": "m", "measure": "tag_acc", "p": 0.0004}
            | {"single_mean": 0.5, "single_sd": None, "multi_mean": 0.6, "multi_sd": 0.012}
            | {"difference": 0.1, "seeds": 1, "docs": 9}
        ],
        "labels": [
            {"task": "tagger", "setting": "m", "label": "<b>&", "support": 4.0}
            | {"p": 0.75, "r": None, "f": 0.5}
        ],
        "calibration": [
            {"task": "tagger", "setting": "m", "ece_mean": 0.123, "ece_sd": 0.01}
            | {"confidence": 0.875, "accuracy": 0.75, "predictions": 4}
            | {
                "bins": [
                    {"count": 1, "confidence": 0.5, "accuracy": 0.0},
                    {"count": 3, "confidence": 1.0, "accuracy": 1.0},
                ]
            }
        ],
        "confusions": [
            {"task": "tagger", "setting": "m", "gold": a, "predicted": b, "count": n}
            for a, b, n in (("<b>&", "<b>&", 7), ("<b>&", "|", 3), ("(none)", "|", 2))
        ],
        "errors": [
            {"task": "tagger", "setting": "m", "doc": 0, "text": "a<b & c | d"}
            | {"gold": spans, "predicted": []}
        ],
    }
    return {**content, **changes}


def test_well_formed_and_all_there():
    page = Reader(make_page(make_report()))
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


def test_nothing_from_elsewhere():
    html = make_page(make_report())
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


def test_ids():
    """None is there twice, and whatever is referred to is there."""
    html = make_page(make_report())
    ids = [attrs["id"] for _, attrs in Reader(html).elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 20
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]*)", html)) <= set(ids)


def test_what_the_data_holds_is_text():
    html = make_page(make_report())
    page = Reader(html)
    assert "<b>&" in page.texts
    assert "<b>" not in html.replace("<b>tag", "")
    assert page.find("mark")
    assert "a<b & c | d" in page.texts


def test_labels_of_any_kind():
    labels = ["$a$", "日本", "_", "$", "x" * 50]
    record = make_report()["confusions"][0]
    pairs = [{**record, "gold": a, "predicted": b} for a in labels for b in labels]
    runs = [make_run("m", "m", *labels)]
    html = make_page(make_report(confusions=pairs, runs=runs))
    texts = Reader(html).texts
    assert texts.count("$a$") > 3 and texts.count("日本") > 3
    assert "x" * 11 + "…" in texts


def test_colours_go_with_the_page():
    html = make_page(make_report())
    assert "currentColor" in html and "var(--line-0)" in html
    assert "#010203" not in html and "#0072b2" not in html.split("</style>")[1]
    assert "prefers-color-scheme: dark" in html
    assert Reader(html).find("meta")[1]["name"] == "viewport"


def test_the_same_content_has_the_same_page():
    assert make_page(make_report()) == make_page(make_report())


def test_numbers_are_those_of_the_content():
    texts = Reader(make_page(make_report())).texts
    markdown = to_markdown(make_tables(make_report()))
    for cell in ("+10.00", "< 0.001", "50.00", "60.00 ± 1.20", "75.0", "4", "-0.250"):
        assert cell in texts
        assert f" {cell} " in markdown or f"**{cell}**" in markdown
    assert "**+10.00**" in markdown and "**+10.00**" not in texts


def test_long_tables_are_folded():
    record = make_report()["labels"][0]
    labels = [{**record, "label": f"L{i}"} for i in range(MANY)]
    folded = [
        len(Reader(make_page(make_report(labels=some))).find("details"))
        for some in (labels, [*labels, record])
    ]
    assert folded == [0, 1]


def test_scores_only():
    lists = ("differences", "transfer", "labels", "calibration", "confusions", "errors")
    empty = {**{name: [] for name in lists}, "data": None}
    run = {"name": "a", "setting": None, "tasks": [], "seed": None, "source": "a.json"}
    run |= {"scores": {"tag_acc": 0.5}, "steps": None, "curves": {}}
    page = Reader(make_page({"runs": [run], **empty}))
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
    run["curves"]["grad_norm"] = {"tagger": [(0, 0.0), (10, 0.0)]}
    page = Reader(make_page(make_report(runs=[run])))
    assert "gradient norms (m)" in [attrs["aria-label"] for attrs in page.find("svg")]


def test_long_trainings_have_few_columns():
    page = make_page(make_report(runs=[make_run("m", "m", "tagger", "ner", n=100)]))
    (heatmap,) = [svg for svg in page.split("<svg ") if 'aria-label="cosines (m)"' in svg]
    assert len(re.findall(r">-\.25<", heatmap)) == COLUMNS


def test_most_confused_labels():
    pairs = [(f"L{i}", f"L{i}", 99) for i in range(20)]
    pairs += [(f"L{i}", f"L{i + 1}", i) for i in range(0, 20, 2)]
    records = [{"gold": a, "predicted": b, "count": n} for a, b, n in pairs]
    assert pick_labels(records) == sorted(f"L{i}" for i in range(10, 20))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.256, ".26"), (-0.25, "-.25"), (1.0, "1.00"), (-0.001, ".00"), (-1.0, "-1.00")],
)
def test_cosine(value, text):
    assert show_cosine(value) == text
