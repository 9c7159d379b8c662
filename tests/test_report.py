"""The report in a browser: every figure draws, nothing is fetched, nothing runs that should not."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prolu_eval.report import write_report
from tests.cli import run
from tests.made_results import drawn, result, setting

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = """<script>window.hacked = 1</script> <b>"bold"</b> 'é' <img src=x onerror="hacked=2">"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    results = [
        drawn(f"{label}-{i}".replace("/", "-"), label, rng, l0, 3 / l0 * factor)
        for label, factor in (("relu+l1", 1.0), ("prolu/ste+l1", 0.6), (EVIL, 0.8))
        for i, l0 in enumerate((3, 9, 30, 90))
    ]
    results.append(result(EVIL, "undefined", {"l0": None}, coefficient=None, bias=None))
    other = setting(tokens_fingerprint="u" * 32, tokens=EVIL)
    results.append(result("other", "relu+l1", {"l0": 4.0, "ce_degradation": 1.0}, at=other))
    return write_report(results, tmp_path_factory.mktemp("report") / "report.html", title=EVIL)


@pytest.fixture(params=[(1440, "light"), (390, "light"), (1440, "dark"), (390, "dark")])
def page(request: pytest.FixtureRequest, browser: Any, page_path: Path) -> Iterator[Any]:
    """The page opened; closing checks that nothing was logged or fetched."""
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
    )
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda r: said.append(r.url) if r.url.startswith("http") else None)
    opened.goto(page_path.as_uri())
    opened.wait_for_function("document.querySelectorAll('.plot .main-svg').length > 0")
    yield opened
    assert said == []
    context.close()


def test_every_figure_draws_its_data(page: Any) -> None:
    plots = page.locator(".plot")
    assert plots.count() == 2 * 7
    for i in range(7):
        drawn_points = plots.nth(i).locator(".scatterlayer path")
        assert drawn_points.count() >= 4, f"figure {i}"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_names_appear_as_text_and_run_nothing(page: Any) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.title() == EVIL
    assert page.locator("h1").inner_text().split() == EVIL.split()
    assert page.locator("img, .legendtext b").count() == 0
    legend = page.locator("#g0-l0-ce_degradation-plot .legendtext").all_text_contents()
    assert any("<b>" in text and "onerror" in text for text in legend)


def test_table_sorts_filters_and_downloads(page: Any, tmp_path: Path) -> None:
    table = page.locator("#g0-runs-table")
    head = table.locator("th", has_text="L0").first
    head.locator("button").click()
    column = "cells => cells.map(cell => cell.dataset.value)"
    values = table.locator("tbody tr td:nth-child(6)").evaluate_all(column)
    numbers = [float(v) for v in values if v]
    assert numbers == sorted(numbers)
    assert values[-1] == "", "the undefined come last"
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert table.locator("tbody tr td:nth-child(6)").evaluate_all(column)[0] == str(max(numbers))
    page.locator("input[type=search]").first.fill("prolu")
    assert table.locator("tbody tr:visible").count() == 4
    with page.expect_download() as download:
        page.locator("#g0-runs .controls button").click()
    download.value.save_as(tmp_path / "runs.csv")
    rows = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert len(rows) == 13
    assert {row["run"] for row in rows} > {EVIL, "relu+l1-0"}


def test_switches_change_the_figure(page: Any) -> None:
    plot = "document.getElementById('g0-l0-ce_degradation-plot')"
    controls = page.locator("#g0-l0-ce_degradation .controls")
    assert page.evaluate(f"{plot}.layout.xaxis.type") == "linear"
    controls.get_by_label("log x").check()
    assert page.evaluate(f"{plot}.layout.xaxis.type") == "log"
    assert page.locator("#g0-l0-ce_degradation .errorbar path").count() > 0
    controls.get_by_label("95 % intervals").uncheck()
    assert page.locator("#g0-l0-ce_degradation .errorbar path").count() == 0
    before = page.evaluate("document.getElementById('g0-bias-plot').data[0].line.color")
    page.locator("select[data-biases=g0-bias-plot]").select_option("1")
    assert page.evaluate("document.getElementById('g0-bias-plot').data[0].line.color") != before


def test_one_file_from_stored_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from prolu_eval.results import write_result

    for name, l0 in (("a", 2.0), ("b", 5.0)):
        made = result(name, "relu+l1", {"l0": l0, "ce_degradation": 6 - l0, "mse": 1, "l1": 1})
        write_result(made, tmp_path / name / "evaluation")
    ran = run(capfd, "report", tmp_path)
    assert (ran.code, ran.err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert page.count("plotly.js v") == 1
    assert "src=" not in page.split("plotly.js v")[0]
    assert run(capfd, "report", tmp_path / "a", "-y", "ce_clean").code == 2
    assert run(capfd, "report", tmp_path / "nowhere").code == 2
