"""The report in a browser: every figure draws, views are linked, nothing is fetched or run."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prolu_eval.analysis import Question, answer
from prolu_eval.render.figures import VIEWS
from prolu_eval.render.page import write_report
from prolu_eval.results import Result, select
from tests.helpers.browser import EVERYWHERE, has_asked_colours, opened_page, violations
from tests.helpers.made_results import drawn, result, setting, with_features, write_sweep

EVIL = """<script>window.hacked = 1</script> <b>"bold"</b> 'é' <img src=x onerror="hacked=2">"""
LABELS = {"relu+l1": 1.0, "prolu/ste+l1": 0.6, EVIL: 0.8}
L0 = (3, 9, 30, 90)
MAIN = "g0-l0-ce_degradation"
DATA = f"document.getElementById('{MAIN}-plot').data"


def swept() -> list[Result]:
    rng = np.random.default_rng(0)
    results = [
        with_features(drawn(f"{label}-{i}", label, rng, l0, 3 / l0 * factor), rng)
        for label, factor in LABELS.items()
        for i, l0 in enumerate(L0)
    ]
    return [
        made.model_copy(
            update={"run": made.run.model_copy(update={"coefficient": 0.1 * (i % 4 + 1)})}
        )
        for i, made in enumerate(results)
    ]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    undefined = result(EVIL, "undefined", {"l0": None}, coefficient=None, bias=None)
    other = setting(tokens_fingerprint="u" * 32, tokens=EVIL)
    apart = result("other", "relu+l1", {"l0": 4.0, "ce_degradation": 1.0}, at=other)
    write_sweep(folder / "runs", [*swept(), undefined, apart])
    answers = answer(select([folder / "runs"]).results, Question())
    return write_report(answers, folder / "report.html", title=EVIL)


@pytest.fixture(scope="module", params=EVERYWHERE, ids=str)
def shown(request: pytest.FixtureRequest, browser: Any, page_path: Path) -> Iterator[Any]:
    """A page to look at, with every figure drawn."""
    for page in opened_page(browser, page_path, *request.param):
        page.evaluate("Report.drawAll()")
        yield page


@pytest.fixture(params=[(1440, "light"), (390, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, page_path: Path) -> Iterator[Any]:
    """A page to do things to."""
    for opened in opened_page(browser, page_path, *request.param):
        opened.locator(f"#{MAIN}-plot").scroll_into_view_if_needed()
        opened.wait_for_function(f"{DATA}?.length > 0")
        yield opened


def test_every_figure_draws_its_data(shown: Any) -> None:
    plots = shown.locator(".plot")
    ids = plots.evaluate_all("plots => plots.map(p => p.id.replace('-plot', ''))")
    views = [f"g0-{view.x}-{view.y}" for view in VIEWS]
    assert ids[: len(VIEWS)] == views
    features = ["g0-distributions", "g0-training", "g0-curves"]
    apart = ["g1-l0-ce_degradation", "g1-distributions", "g1-training"]
    assert ids[len(VIEWS) :] == features + apart
    for i in range(plots.count()):
        paths = plots.nth(i).locator(".scatterlayer .trace path")
        assert paths.count() >= 1, plots.nth(i).get_attribute("id")
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_figures_hold_the_stored_numbers(shown: Any) -> None:
    found = {t["name"]: t for t in shown.evaluate(DATA) if t["mode"] == "markers"}
    for label in ("relu+l1", "prolu/ste+l1"):
        own = [made for made in swept() if made.run.label == label]
        expected = [made.metrics["l0"].value for made in own]
        assert found[label]["x"] == pytest.approx(expected, rel=1e-5)
        highs = [(m.metrics["l0"].ci95[1] or 0) - (m.metrics["l0"].value or 0) for m in own]
        assert found[label]["error_x"]["array"] == pytest.approx(highs, rel=1e-4)


def test_colours_are_those_asked_for(shown: Any) -> None:
    assert has_asked_colours(shown)


def test_names_appear_as_text_and_run_nothing(shown: Any) -> None:
    assert shown.evaluate("window.hacked") is None
    assert shown.title() == EVIL
    assert shown.locator("h1").inner_text().split() == EVIL.split()
    assert shown.locator("img, .legendtext b").count() == 0
    named = shown.locator(f"#{MAIN}-plot").locator(".legendtext, .annotation-text")
    assert any("<script>" in text for text in named.all_text_contents())


def test_axe_finds_no_violation(shown: Any) -> None:
    assert violations(shown) == []


def test_choosing_a_variant_makes_it_stand_out_everywhere(page: Any) -> None:
    button = page.locator("#variants button", has_text="prolu/ste+l1")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    markers = f"{DATA}.filter(t => t.mode === 'markers')"
    faint = f"Object.fromEntries({markers}.map(t => [t.name, t.opacity]))"
    page.locator(f"#{MAIN}-plot").scroll_into_view_if_needed()
    page.wait_for_function(f"{faint}['relu+l1'] === 0.12")
    assert page.evaluate(faint)["prolu/ste+l1"] == 1
    assert page.locator("#g0-runs-table tbody tr").count() == 4
    assert page.locator("#g0-distributions select[data-variant]").input_value() == "prolu/ste+l1"
    page.locator("#clear").click()
    assert page.locator("#g0-runs-table tbody tr").count() == 13
    page.locator(f"#{MAIN}-plot").scroll_into_view_if_needed()
    page.wait_for_function(f"{faint}['relu+l1'] === 1")


def test_a_click_on_a_point_opens_its_run(page: Any) -> None:
    page.locator(f"#{MAIN}-plot .points path").nth(5).click(force=True)
    title = page.locator("#details-title")
    name = title.inner_text()
    assert name in {f"{label}-{i}" for label in ("relu+l1", "prolu/ste+l1") for i in range(4)} or (
        "hacked" in name
    )
    facts = page.locator("#details-body").inner_text()
    assert "CE degradation" in facts
    chosen = page.evaluate(f"{DATA}.at(-1)")
    assert chosen["name"] == "chosen run"
    assert len(chosen["x"]) == 1
    assert (
        page.locator("#g0-curves select").evaluate("s => s.selectedOptions[0].text").split()
        == name.split()
    )
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()


def test_a_run_opens_by_keyboard_and_focus_returns(page: Any) -> None:
    name = page.locator("#g0-runs-table tbody button", has_text="prolu/ste+l1-2")
    name.focus()
    page.keyboard.press("Enter")
    assert page.locator("#details-title").inner_text() == "prolu/ste+l1-2"
    assert page.evaluate("document.activeElement.id") == "details-title"
    page.locator("#details-close").click()
    assert page.locator("#details").is_hidden()


def test_switches_change_the_figure(page: Any) -> None:
    plot = f"document.getElementById('{MAIN}-plot')"
    controls = page.locator(f"#{MAIN} .controls")
    assert page.evaluate(f"{plot}.layout.xaxis.type") == "log"
    controls.get_by_label("log x").uncheck()
    assert page.evaluate(f"{plot}.layout.xaxis.type") == "linear"
    assert page.locator(f"#{MAIN} .errorbar path").count() > 0
    controls.get_by_label("95 % intervals").uncheck()
    assert page.locator(f"#{MAIN} .errorbar path").count() == 0


def test_colours_can_be_switched(page: Any) -> None:
    ink = f"document.getElementById('{MAIN}-plot').layout.font.color"
    seen = set()
    for scheme in ("light", "dark"):
        page.locator("#theme").select_option(scheme)
        seen.add(page.evaluate(ink))
    assert seen == {"#1b1f24", "#e6eaef"}


def test_tables_sort_filter_and_download(page: Any, tmp_path: Path) -> None:
    table = page.locator("#g0-runs-table")
    head = table.locator("th", has_text="L0").first
    head.locator("button").click()
    column = "cells => cells.map(cell => cell.dataset.value)"
    values = table.locator("tbody tr td:nth-child(7)").evaluate_all(column)
    numbers = [float(v) for v in values if v]
    assert numbers == sorted(numbers)
    assert len(numbers) == 12
    assert values[-1] == "", "the undefined come last"
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    first = table.locator("tbody tr td:nth-child(7)").evaluate_all(column)[0]
    assert float(first) == max(numbers)
    page.locator("#g0-runs [data-find]").fill("prolu")
    assert table.locator("tbody tr").count() == 4
    rows = downloaded(page, "#g0-runs [data-runs-csv]", tmp_path)
    assert len(rows) == 13
    assert {row["run"] for row in rows} > {EVIL, "relu+l1-0"}
    by_name = {made.run.name: made.metrics["l0"].value for made in swept()}
    assert float(rows[0]["l0"]) == pytest.approx(by_name[rows[0]["run"]], rel=1e-5)


def downloaded(page: Any, button: str, folder: Path) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.locator(button).click()
    download.value.save_as(folder / "file.csv")
    with (folder / "file.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_downloads_its_numbers(page: Any, tmp_path: Path) -> None:
    rows = downloaded(page, f"#{MAIN} [data-figure-csv]", tmp_path)
    assert {"run", "l0", "l0_low", "ce_degradation", "on_frontier"} <= rows[0].keys()
    assert len(rows) == 13
    bins = downloaded(page, "#g0-distributions [data-figure-csv]", tmp_path)
    assert sum(int(v) for k, v in bins[0].items() if k.startswith("from")) == 64
    assert downloaded(page, "#g0-curves [data-figure-csv]", tmp_path)[0]["feature"] == "3"
    assert downloaded(page, "#g0-training [data-figure-csv]", tmp_path)[-1]["step"] == "1960"


def test_sliders_go_through_coefficients_and_steps(page: Any) -> None:
    runs = page.locator("#g0-distributions")
    runs.scroll_into_view_if_needed()
    runs.locator("[data-variant]").select_option("relu+l1")
    slider = runs.locator("[data-run]")
    slider.fill("3")
    assert slider.evaluate("s => s.nextElementSibling.textContent") == "coefficient 0.4"
    assert "relu+l1-3" in page.locator("#g0-distributions-note").inner_text()
    runs.locator("[data-array]").select_option("firing_rate")
    axis = "document.getElementById('g0-distributions-plot').layout.xaxis.type"
    page.wait_for_function(f"{axis} === 'log'")
    training = page.locator("#g0-training")
    training.scroll_into_view_if_needed()
    training.locator("[data-step]").fill("0")
    name = "document.getElementById('g0-training-plot').data?.[1].name"
    page.wait_for_function(f"{name} === 'step 0'")


def test_features_are_found_and_sorted(page: Any, tmp_path: Path) -> None:
    section = page.locator("#g0-table")
    rows = section.locator("tbody tr")
    assert rows.count() == 64
    rates = [float(text) for text in section.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert rates == sorted(rates, reverse=True)
    section.locator("[data-find]").fill("dead")
    assert rows.count() == rates.count(0)
    section.locator("[data-find]").fill("7")
    assert section.locator("tbody td:first-child").all_inner_texts() == ["7"]
    assert len(downloaded(page, "#g0-table [data-features-csv]", tmp_path)) == 1


def test_links_to_sections_are_permanent(page: Any, page_path: Path) -> None:
    targets = page.locator("nav a, h2 a, h3 a").evaluate_all("links => links.map(a => a.hash)")
    assert len(targets) > 20
    missing = page.evaluate("hs => hs.filter(h => !document.querySelector(h))", targets)
    assert missing == []
    page.goto(page_path.as_uri() + "#g0-curves")
    assert page.locator("#g0-curves").evaluate("e => Math.abs(e.getBoundingClientRect().top) < 300")


def test_it_prints_with_every_figure(page: Any) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))"
    )
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible()


def test_the_first_screen_answers(browser: Any, page_path: Path) -> None:
    for width, height in ((1440, 1000), (390, 1000)):
        for opened in opened_page(browser, page_path, width, "light"):
            opened.wait_for_function(f"{DATA}?.length > 0")
            top = "e => e.getBoundingClientRect().top"
            bottom = "e => e.getBoundingClientRect().bottom"
            assert opened.locator("#g0 .answer").evaluate(bottom) < height
            assert opened.locator(f"#{MAIN}-plot").evaluate(top) < height * 0.8
            if width > 1000:
                assert opened.locator("#g0 .matrix").evaluate(top) < height / 2
                assert opened.locator(f"#{MAIN}-plot").evaluate(bottom) < height
            assert opened.locator("#g0 .matrix .self").count() == 4
            assert "blocks" in opened.locator("#g0 .strip").inner_text()


def test_the_first_figure_is_seen_before_others_are_drawn(browser: Any, page_path: Path) -> None:
    """Several come near a tall screen at once; each is drawn in a task of its own."""
    for page in opened_page(browser, page_path, 1440, "light"):
        page.set_viewport_size({"width": 1440, "height": 6000})
        page.add_init_script(
            """window.drawn = [];
            new MutationObserver(() => {
              const ids = [...document.querySelectorAll(".plot:has(.main-svg)")].map((p) => p.id);
              if (ids.length > (drawn.at(-1)?.length ?? 0)) drawn.push(ids);
            }).observe(document, { childList: true, subtree: true });"""
        )
        page.reload()
        page.wait_for_function("drawn.at(-1)?.length >= 3")
        seen = page.evaluate("drawn")
        assert seen[0] == [f"{MAIN}-plot"]
        assert [len(ids) for ids in seen[:3]] == [1, 2, 3]
