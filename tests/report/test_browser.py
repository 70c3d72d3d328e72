"""The interactive parts of the page, in the system's Chromium."""

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from spacy_mtl.report.page import make_page
from spacy_mtl.report.records import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(make_report: Callable[..., Report], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a page, with a table that a phone is too narrow for."""
    report = make_report()
    rows = [("=1+1", 9.0, 0.125), ("b", 10.0, None), ("ä", 2.0, 1.0)]
    labels = [
        replace(report.labels[0], label=label, support=support, f=f, setting=setting)
        for label, support, f in rows
        for setting in ("m", "t")
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(make_page(replace(report, labels=labels)), encoding="utf8")
    return path


@pytest.fixture
def open_page(browser: Browser, path: Path) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the page, and fail if its script raised an error."""
    contexts, errors = [], []

    def open_page(size: dict[str, int] = WIDE, **options: object) -> Page:
        contexts.append(browser.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def get_column(page: Page, section: str, column: int) -> list[str]:
    return page.locator(f"#{section} tbody tr > :nth-child({column})").all_inner_texts()


def test_a_click_on_a_title_sorts_the_table(open_page):
    """Numbers start with the highest, texts with the first; missing numbers are always last."""
    page = open_page()
    original = get_column(page, "Labels", 1)
    title = page.locator("#Labels thead th", has_text="m F")
    orders = []
    for direction in ("descending", "ascending", None):
        title.get_by_role("button").click()
        assert title.get_attribute("aria-sort") == direction
        orders.append(get_column(page, "Labels", 5))
    assert orders[:2] == [["100.0", "12.5", "-"], ["12.5", "100.0", "-"]]
    assert get_column(page, "Labels", 1) == original
    label = page.locator("#Labels thead th").first
    label.get_by_role("button").press("Enter")
    assert label.get_attribute("aria-sort") == "ascending"
    assert get_column(page, "Labels", 1) == ["=1+1", "ä", "b"]
    assert page.locator("#Labels thead [aria-sort]").count() == 1


def test_unchecked_runs_disappear(open_page):
    """Rows, columns, lines and plots of a run or a setting are hidden and come back."""
    page = open_page()
    page.get_by_role("button", name="Runs").click()
    rows = page.locator("#Scores tbody tr", has_text="m-1")
    lines = page.locator("#Training svg [data-key=r1]")
    assert rows.first.is_visible() and lines.count() > 1
    page.get_by_label("m-1").uncheck()
    assert not any(row.is_visible() for row in rows.all())
    assert not any(line.is_visible() for line in lines.all())
    setting = page.get_by_label("m", exact=True)
    assert setting.is_checked() and setting.evaluate("box => box.indeterminate")
    expect(page.locator(".runs > button")).to_have_text("Runs (2 of 3)")
    page.get_by_label("m-0").uncheck()
    assert not setting.is_checked()
    assert not page.locator("#Balance svg").first.is_visible()
    titles = page.locator("#Labels thead th:visible").all_inner_texts()
    assert [title.split()[0] for title in titles] == ["label", "support", "t", "t", "t"]
    setting.check()
    assert page.get_by_label("m-0").is_checked() and page.get_by_label("m-1").is_checked()
    assert page.locator("[data-key][hidden]").count() == 0
    page.get_by_label("t", exact=True).uncheck()
    assert not page.locator("#Scores tbody tr", has_text="t-0").first.is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_label("m-0").is_visible()


def test_download_as_csv(open_page, tmp_path):
    """The file opens in spreadsheets: units in the titles, no formulas, UTF-8."""
    page = open_page(accept_downloads=True)
    with page.expect_download() as info:
        page.get_by_role("link", name="Download Labels: tagger as CSV").click()
    assert info.value.suggested_filename == "labels-tagger.csv"
    info.value.save_as(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:5] == ["label", "support", "m P (%)", "m R (%)", "m F (%)"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("b", "10", ""),
        ("'=1+1", "9", "12.5"),
        ("ä", "2", "100.0"),
    ]


def test_values_at_the_pointer(open_page):
    """A plot shows the values of all visible lines at the nearest step."""
    page = open_page()
    plot = page.locator(".plot", has=page.get_by_role("img", name="tag_acc"))
    tip = plot.locator(".tip")
    assert not tip.is_visible()
    plot.locator("svg").scroll_into_view_if_needed()
    box = plot.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + box["height"] / 2)
    assert tip.inner_text().splitlines() == ["step 20", "m: 6.8 % (4.5 % to 9.1 %)", "t: 4.5 %"]
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    page.get_by_role("button", name="Runs").click()
    page.get_by_label("t", exact=True).uncheck()
    plot.focus()
    for key, step in (("ArrowRight", 0), ("ArrowRight", 10), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        assert tip.inner_text().splitlines()[0] == f"step {step}"
    assert "t:" not in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_values_of_bins(open_page):
    page = open_page()
    plot = page.locator(".plot", has=page.get_by_role("img", name="Confidence of tagger"))
    plot.focus()
    page.keyboard.press("ArrowRight")
    text = "m (2 × 200): confidence 50.0 %, correct 25.0 %, 100 predictions"
    assert plot.locator(".tip").inner_text() == text


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_navigation_stays_and_marks_the_section(open_page, size):
    page = open_page(size)
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    for name in ("Training", "Errors"):
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        link.press("Enter")
        expect(link).to_have_attribute("aria-current", "true")
        expect(link).to_be_in_viewport()
        assert page.locator("nav").bounding_box()["y"] == 0
        assert page.locator("nav [aria-current]").count() == 1
    page.get_by_role("navigation").get_by_role("link", name="Scores").press("Enter")
    heading = page.locator("#Scores h2").bounding_box()
    nav = page.locator("nav").bounding_box()
    assert heading["y"] >= nav["y"] + nav["height"]


def test_wide_tables_scroll_on_a_phone(open_page):
    """The page itself does not scroll sideways, and a hint is there until the end of the table."""
    page = open_page(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    frame = page.locator("#Labels .frame").first
    hint = frame.get_by_text(re.compile("Scroll sideways"))
    expect(hint).to_be_visible()
    frame.locator(".wide").evaluate("wide => wide.scrollTo(9999, 0)")
    expect(hint).to_be_hidden()
    assert frame.locator("tbody th").first.bounding_box()["x"] >= 0
    wide = open_page(WIDE)
    expect(wide.locator("#Labels .hint").first).to_be_hidden()


def test_everything_is_visible_without_javascript(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("section:visible").count() == page.locator("section").count() > 5
    assert page.locator("svg:visible").count() == page.locator("svg").count() > 5
    assert page.locator("tbody tr:visible").count() == page.locator("tbody tr").count() > 10
    assert page.locator("button:visible").count() == 0
    assert page.get_by_role("link", name="Download").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(open_page, scheme):
    """At least 4.5 : 1 between texts and their background, by the rule of WCAG 2.1, 1.4.3."""
    page = open_page(color_scheme=scheme)
    found = page.evaluate(CONTRAST)
    assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
    assert len(found) > 10


CONTRAST = """() => {
  const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
    .getContext("2d", {willReadFrequently: true});
  const paint = colors => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(byte => byte / 255);
  };
  const light = rgb => rgb.map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.closest("script")) continue;
    const backgrounds = [];
    for (let e = element; e; e = e.parentElement) {
      backgrounds.unshift(getComputedStyle(e).backgroundColor);
    }
    const style = getComputedStyle(element), isSvg = element.namespaceURI.endsWith("svg");
    const text = light(paint([...backgrounds, isSvg ? style.fill : style.color]));
    const back = light(paint(backgrounds));
    const ratio = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    const name = `${element.tagName}.${element.className.baseVal ?? element.className}`;
    found[name] = Math.min(found[name] ?? 99, Math.round(10 * ratio) / 10);
  }
  return found;
}"""
