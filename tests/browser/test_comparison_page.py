"""The page of a comparison in a browser: both frontiers, every judgement, and keyboard access."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prolu_eval.comparison import Comparison, compare_results
from prolu_eval.render.comparison_page import comparison_page
from prolu_eval.render.tables import remarks
from tests.helpers.browser import EVERYWHERE, has_asked_colours, opened_page, violations
from tests.helpers.synthetic import sweep
from tests.render.test_comparison_outputs import EVIL, runs_now, runs_then

PLOT = "document.getElementById('frontiers-plot')"


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare_results(runs_now(), runs_then()).with_update(
        "prolu-eval baseline update 'a `b`'"
    )


@pytest.fixture(scope="module", params=EVERYWHERE, ids=str)
def page(
    request: pytest.FixtureRequest, browser: Any, found: Comparison, tmp_path_factory: Any
) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    path.write_text(comparison_page(found), encoding="utf-8")
    for opened in opened_page(browser, path, *request.param):
        opened.locator("#frontiers-plot").scroll_into_view_if_needed()  # drawn when near
        opened.wait_for_function(f"{PLOT}.data?.length > 0")
        opened.evaluate("scrollTo(0, 0)")
        yield opened


def test_both_frontiers_are_overlaid(page: Any) -> None:
    data = page.evaluate(f"{PLOT}.data")
    lines = [t for t in data if t["mode"] == "lines" and t["name"] != "way"]
    assert {trace["line"]["dash"] for trace in lines} == {"dot", "solid"}
    for trace in lines:  # a frontier only falls
        assert trace["y"] == sorted(trace["y"], reverse=True)
    (rings,) = [trace for trace in data if trace["name"] == "worse"]
    assert len(rings["x"]) == 2
    legend = page.locator(".legendtext").all_text_contents()
    now = {text for text in legend if not text.endswith(", baseline")} - {"worse"}
    assert {text.removesuffix(", baseline") for text in legend} - {"worse"} == now
    assert len(now) >= 2


def test_it_begins_with_what_got_worse_and_ends_with_how_to_accept_it(page: Any) -> None:
    sections = page.locator("main > section").evaluate_all("all => all.map(s => s.id)")
    assert sections[:2] == ["judgements", "frontiers"]
    assert sections[-2:] == ["provenance", "accept"]
    assert page.locator("#accept code").inner_text() == "prolu-eval baseline update 'a `b`'"


def test_every_judgement_stands_in_a_table_with_its_reason(page: Any, found: Comparison) -> None:
    assert page.locator("tbody tr").count() == len(found.rows)
    passing = sum(row.verdict == "pass" for row in found.rows)
    assert page.locator("details tr.pass").count() == passing
    assert page.locator("summary").inner_text() == f"{passing} pass"
    notable = page.locator("tbody").first.locator("tr")
    assert notable.count() == len(found.rows) - passing
    for row, shown in zip(found.rows, notable.all(), strict=False):
        assert shown.locator("td").first.inner_text() == row.verdict
        run = shown.locator("th").inner_text()
        assert run.split() == f"{row.run} {remarks(row)}".replace("\x00", "").split()


def test_names_run_nothing_and_nothing_sticks_out(page: Any) -> None:
    assert page.locator("th", has_text=EVIL[:12]).count() > 0
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # The text of a row fits the screen, however narrow; only numbers may need scrolling.
    right = "cells => Math.max(...cells.map(cell => cell.getBoundingClientRect().right))"
    assert page.locator(".why").evaluate_all(right) <= page.viewport_size["width"]


def test_it_has_the_readers_colours_and_axe_finds_no_violation(page: Any) -> None:
    assert has_asked_colours(page)
    details = page.locator("details")
    assert details.get_attribute("open") is None
    assert violations(page) == []
    details.evaluate("d => d.open = true")
    assert violations(page) == []
    details.evaluate("d => d.open = false")


def test_everything_is_reached_and_done_by_keyboard(page: Any) -> None:
    page.evaluate("document.activeElement.blur()")
    focused: list[str] = []
    active = "document.activeElement"
    name = f"({active}.ariaLabel || {active}.dataset?.axis || {active}.tagName)"
    while (now := _next(page, name)) != "BODY" and len(focused) < 20:
        assert page.evaluate(f"getComputedStyle({active}).outlineStyle") != "none", now
        if page.evaluate(f"{active}.closest('.modebar') !== null"):
            group = f"getComputedStyle({active}.closest('.modebar-group'))"
            page.wait_for_function(f"{group}.opacity === '1'")
            continue
        focused.append(now)
        if now == "xaxis":
            page.keyboard.press("Space")
            assert page.evaluate(f"{PLOT}.layout.xaxis.type") == "log"
        if now == "SUMMARY":
            page.keyboard.press("Enter")
            assert page.locator("details tr.pass").first.is_visible()
    assert focused == [
        "Judgements that stand out", "xaxis", "yaxis", "SUMMARY", "Judgements that pass",
    ]  # fmt: skip


def _next(page: Any, name: str) -> str:
    page.keyboard.press("Tab")
    return str(page.evaluate(name))


def test_where_all_pass_the_table_is_open(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "comparison.html"
    path.write_text(comparison_page(compare_results(sweep(), sweep())), encoding="utf-8")
    for opened in opened_page(browser, path, 1440, "light"):
        assert opened.locator("tr.pass").first.is_visible()
        assert opened.locator("#passed table").count() == 1
