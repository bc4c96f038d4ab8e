"""The report as one HTML file: what it holds, and how it works in a browser without a network."""

import importlib.util
import json
import re
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from helpers.command import command
from helpers.paths import ROOT

from eval.reporting import html_page, sweep_points, tables, vega_plots
from eval.reporting.records import read_sweep

RUN = ROOT / "docs/results/newsgroups/main"
CONTENT = read_sweep(RUN)
ROWS = CONTENT["rows"]
COLUMNS = tables.columns(ROWS, "accuracy_percent")


class Reader(HTMLParser):
    """Collects what a page refers to, its policy, the cells of its tables and the text of its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.styles, self.policy, self.cells, self._inside = "", "", [[]], (None, None)
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.addresses += [named[name] for name in ("src", "href", "srcset", "data", "action") if name in named]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag == "tr":
            self.cells.append([])
        self._inside = (tag, named.get("id"))

    def handle_data(self, data):
        tag, name = self._inside
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag == "style":
            self.styles += data
        elif tag in ("td", "th"):
            self.cells[-1].append(data.strip())

    def handle_endtag(self, tag):
        self._inside = (None, None)


def test_the_file_holds_all_that_it_shows():
    spoiled = [dict(row, wire="</script><img src=//elsewhere>") if i == 3 else row for i, row in enumerate(ROWS)]
    content = CONTENT | {"rows": spoiled, "dataset": "![a](//elsewhere/picture.png)"}
    page = Reader(html_page.html_page({"a run": content}, ["score_bytes", "compute_parts"]))
    assert page.addresses == []
    assert {address.partition(":")[0] for address in re.findall(r"url\(['\"]?([^)'\"]+)", page.styles)} == {"data"}
    assert "@import" not in page.styles
    assert page.policy.startswith("default-src 'none'; ")
    assert "http" not in page.policy
    assert page.cells[1] == list(COLUMNS)
    assert [row for row in page.cells[2:] if row] == [tables.cells(row, COLUMNS) for row in spoiled]
    charts = json.loads(page.scripts["charts"])
    assert {name: len(of_panels) for name, of_panels in charts.items()} == {"score_bytes": 1, "compute_parts": 1}
    points = charts["score_bytes"][0]["layer"][-2]["data"]["values"]
    assert [point["score"] for point in points] == [row["score"] for row in ROWS if row["num_parts"] > 1]


def test_a_sweep_of_one_device_has_no_chart_and_no_plot():
    alone = CONTENT | {"rows": [row for row in ROWS if row["num_parts"] == 1]}
    panels = sweep_points.panels_of({"a run": alone})
    assert [vega_plots.charts(plot, panels) for plot in sweep_points.PLOTS.values()] == [[]] * 4
    assert [plot.of(panels) for plot in sweep_points.PLOTS.values()] == [{}] * 4  # PNG are drawn of these


def test_a_missing_library_is_one_line(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "itables" else find(name))
    assert command("eval.report", RUN, "--html", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        "error: --html needs itables; run: pip install 'prism_jax[html]', or leave --html out\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def browser():
    """Chromium, or a skipped test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine; install the package chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.process
def test_a_browser_sorts_filters_and_shows_values(browser, tmp_path):
    from playwright.sync_api import expect

    assert command("eval.report", RUN, "--html", "--plots", "score_bytes", "--out", tmp_path) == 0
    page = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector(".plot svg")
    table = page.locator("table").first

    def assert_shown(rows: list[dict], read: Callable[[list[list[str]]], Any] = sorted) -> None:
        """The table soon shows these records; `read` tells what of its cells is compared."""
        expected, until = read([tables.cells(row, COLUMNS) for row in rows]), time.monotonic() + 10
        cells = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
        while (shown := read(table.locator("tbody tr").evaluate_all(cells))) != expected:
            assert time.monotonic() < until, shown
            time.sleep(0.02)

    def scores(cells: list[list[str]]) -> list[str]:
        return [texts[COLUMNS.index("accuracy % [95 %]")].split()[0] for texts in cells]

    assert_shown(ROWS, list)
    sort = table.get_by_role("button", name="accuracy % [95 %]: Activate")
    for is_reversed in (False, True):
        sort.click()
        assert_shown(sorted(ROWS, key=lambda row: row["score"], reverse=is_reversed), scores)
    search = page.get_by_role("searchbox").first
    search.fill("segment_means tuned")
    tuned_means = [row for row in ROWS if (row["exchange"], row["weights"]) == ("segment_means", "tuned")]
    assert_shown(tuned_means)
    search.fill("")
    table.locator("th", has_text="accuracy").get_by_role("button", name="Search").click()
    page.locator(".dtcc-dropdown select").select_option("greater")
    page.locator(".dtcc-dropdown input").fill("84")
    assert_shown([row for row in ROWS if round(row["score"], 1) > 84])
    page.keyboard.press("Escape")
    (prism,) = (row for row in tuned_means if (row["num_parts"], row["num_segments"]) == (4, 4))
    words = "; ".join(map(": ".join, zip(COLUMNS, tables.cells(prism, COLUMNS), strict=True)))
    page.locator(f'path[aria-label="{words}"]').hover()
    names, values = (page.locator(f"#vg-tooltip-element.visible .{kind}") for kind in ("key", "value"))
    expect(names).to_have_text(list(COLUMNS))
    expect(values).to_have_text(tables.cells(prism, COLUMNS))
    assert set(asked) <= {"file", "blob"}
    assert complaints == []
    for colour_scheme, brightness in (("light", 255), ("dark", 60)):
        page.emulate_media(color_scheme=colour_scheme)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background))) <= brightness
    screen = {"width": 390, "height": 844}
    phone = browser.new_context(offline=True, viewport=screen, has_touch=True, is_mobile=True).new_page()
    phone.goto((tmp_path / "report.html").as_uri())
    phone.locator('path[aria-roledescription="point"]').first.tap()
    first = next(row for row in ROWS if row["num_parts"] > 1)
    expect(phone.locator("#vg-tooltip-element.visible .value")).to_have_text(tables.cells(first, COLUMNS))
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
