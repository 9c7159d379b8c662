"""The report in a browser: every figure draws, views are linked, nothing is fetched or run."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prolu_eval.analysis import Question, answer
from prolu_eval.estimates import Estimate
from prolu_eval.render.condensed import condensed
from prolu_eval.render.environment import embedded
from prolu_eval.render.features import LAYERED
from prolu_eval.render.figures import VIEWS
from prolu_eval.render.page import write_report
from prolu_eval.results import Result, select
from tests.helpers.browser import EVERYWHERE, has_asked_colours, opened_page, violations
from tests.helpers.made_results import (
    drawn,
    result,
    setting,
    with_examples,
    with_features,
    write_sweep,
)

EVIL = """<script>window.hacked = 1</script> <b>"bold"</b> 'é' <img src=x onerror="hacked=2">"""
LABELS = {"relu+l1": 1.0, "prolu/ste+l1": 0.6, EVIL: 0.8}
L0 = (3, 9, 30, 90)
MAIN = "g0-l0-ce_degradation"
DATA = f"document.getElementById('{MAIN}-plot').data"


def swept() -> list[Result]:
    rng = np.random.default_rng(0)
    results = [
        with_examples(
            with_features(drawn(f"{label}-{i}", label, rng, l0, 3 / l0 * factor), rng), EVIL, rng
        )
        for label, factor in LABELS.items()
        for i, l0 in enumerate(L0)
    ]
    return [
        made.model_copy(
            update={
                "run": made.run.model_copy(
                    update={"coefficient": 0.1 * (i % 4 + 1), "d_sae": 64 << (i % 2)}
                ),
                "metrics": {
                    **made.metrics,
                    "decoder_cosine": Estimate(value=0.1 + 0.01 * abs(i % 4 - 2)),
                    "nth_projection": Estimate(value=0.2 + 0.01 * abs(i % 4 - 2)),
                },
            }
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
    """A page that tests only read, with every figure drawn."""
    for page in opened_page(browser, page_path, *request.param):
        page.evaluate("Report.drawAll()")
        yield page


@pytest.fixture(params=[(1440, "light"), (390, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, page_path: Path) -> Iterator[Any]:
    """A page that a test may change."""
    for opened in opened_page(browser, page_path, *request.param):
        opened.locator(f"#{MAIN}-plot").scroll_into_view_if_needed()
        opened.wait_for_function(f"{DATA}?.length > 0")
        yield opened


def test_every_figure_draws_its_data(shown: Any) -> None:
    plots = shown.locator(".plot")
    ids = plots.evaluate_all("plots => plots.map(p => p.id.replace('-plot', ''))")
    answers = [MAIN, "g1-l0-ce_degradation", "explorer"]
    views = [f"g0-{view.x}-{view.y}" for view in VIEWS[1:]]
    features = [
        f"{group}-{name}" for group in ("g0", "g1") for name in ("training", "distributions")
    ]
    run = [f"run-{name}" for name in ("layers", "training", "biases", "histogram", "curves")]
    assert ids == [*answers, *views, *features, *run]
    for i in range(len(ids) - len(run)):
        paths = plots.nth(i).locator(".scatterlayer .trace path")
        assert paths.count() >= 1, plots.nth(i).get_attribute("id")
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_overlap_of_decoder_rows_says_which_l0_suits(shown: Any) -> None:
    told = shown.locator("#g0-geometry").inner_text()
    assert "relu+l1: decoder rows overlap least at L0" in told
    assert "likely too low" in told


def test_figures_hold_the_stored_numbers(shown: Any) -> None:
    found = {t["name"]: t for t in shown.evaluate(DATA) if t["mode"] == "markers"}
    for label in ("relu+l1", "prolu/ste+l1"):
        own = [made for made in swept() if made.run.label == label]
        expected = [made.metrics["l0"].value for made in own]
        assert found[label]["x"] == pytest.approx(expected, rel=1e-5)
        highs = [(m.metrics["l0"].ci95[1] or 0) - (m.metrics["l0"].value or 0) for m in own]
        assert found[label]["error_x"]["array"] == pytest.approx(highs, rel=1e-4)


def test_what_is_left_out_of_the_data_is_restored(
    browser: Any, page_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[dict[str, Any]] = []

    def noting(document: dict[str, Any]) -> dict[str, Any]:
        whole.append(json.loads(str(embedded(document))))
        return condensed(document)

    monkeypatch.setattr("prolu_eval.render.page.condensed", noting)
    answers = answer(select([page_path.parent / "runs"]).results, Question())
    path = write_report(answers, tmp_path / "report.html")
    for view in (view for group in whole for view in group["views"]):
        if not view["frontier"]:
            del view["lines"]  # only a frontier's are shown
    for page in opened_page(browser, path, 1440, "light"):
        assert page.evaluate("Page.groups") == whole


def test_colours_are_those_asked_for(shown: Any) -> None:
    assert has_asked_colours(shown)


def test_names_appear_as_text_and_run_nothing(shown: Any) -> None:
    assert shown.evaluate("window.hacked") is None
    assert shown.title() == EVIL
    assert shown.locator("h1").inner_text().split() == EVIL.split()
    assert shown.locator("img, .legendtext b").count() == 0
    named = shown.locator(f"#{MAIN}-plot").locator(".legendtext, .annotation-text")
    assert any("<script>" in text for text in named.all_text_contents())
    legends = shown.locator("#g0-suppression .legendtext").all_text_contents()
    assert EVIL in legends, "with its quotes"


def test_axe_finds_no_violation(shown: Any) -> None:
    assert violations(shown) == []
    shown.locator("#g0-runs-table tbody button").nth(3).click()
    shown.locator("#run-features-table tbody button").first.click()
    assert violations(shown) == []
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    shown.locator("#details-close").click()


STRENGTHS = f"""Object.fromEntries({DATA}.filter(t => t.mode === 'markers' && t.legendgroup)
  .map(t => [t.name, t.opacity]))"""


def strengths(page: Any, expected: dict[str, float]) -> None:
    """Wait until the main figure shows the given variants with these strengths."""
    page.locator(f"#{MAIN}-plot").scroll_into_view_if_needed()
    page.wait_for_function(
        f"expected => Object.entries(expected).every(([l, s]) => {STRENGTHS}[l] === s)",
        arg=expected,
    )


def test_several_variants_can_be_chosen_and_everything_agrees(page: Any) -> None:
    buttons = {
        label: page.locator("#variants button", has_text=label)
        for label in ("prolu/ste+l1", "relu+l1")
    }
    buttons["prolu/ste+l1"].click()
    assert buttons["prolu/ste+l1"].get_attribute("aria-pressed") == "true"
    strengths(page, {"relu+l1": 0.12, "prolu/ste+l1": 1})
    assert page.locator("#g0-runs-table tbody tr").count() == 4
    assert page.locator("#g0-distributions select[data-variant]").input_value() == "prolu/ste+l1"
    buttons["relu+l1"].click()
    strengths(page, {"relu+l1": 1, "prolu/ste+l1": 1})
    assert page.locator("#g0-runs-table tbody tr").count() == 8
    chosen = page.locator("#g0 .areas tr.chosen").evaluate_all("rs => rs.map(r => r.dataset.label)")
    assert sorted(chosen) == ["prolu/ste+l1", "relu+l1"]
    page.evaluate("Choice.run({ group: Page.groups[0], row: 0 })")
    assert page.evaluate(f"{DATA}.at(-1).name") == "chosen run"
    buttons["prolu/ste+l1"].click()
    label = page.evaluate("Page.groups[0].runs.label[0]")
    assert page.evaluate("Choice.runs.length") == (label != "prolu/ste+l1"), "no ring around it"
    page.locator("#clear").click()
    assert page.locator("#g0-runs-table tbody tr").count() == 13
    strengths(page, {"relu+l1": 1, "prolu/ste+l1": 1})
    assert page.locator("#clear").is_hidden()


def test_the_legend_chooses_as_the_buttons_do(page: Any) -> None:
    page.locator("#explorer-plot").scroll_into_view_if_needed()
    entry = page.locator("#explorer-plot .traces", has_text="relu+l1").last
    entry.locator(".legendtoggle").click(force=True)
    button = page.locator("#variants button", has_text="relu+l1").last
    page.wait_for_function("Choice.labels.has('relu+l1')")
    assert button.get_attribute("aria-pressed") == "true"
    strengths(page, {"relu+l1": 1, "prolu/ste+l1": 0.12})


def test_a_click_on_a_point_opens_its_run(page: Any) -> None:
    page.locator(f"#{MAIN}-plot .points path").nth(5).click(force=True)
    title = page.locator("#details-title")
    name = title.inner_text()
    assert name in {f"{label}-{i}" for label in ("relu+l1", "prolu/ste+l1") for i in range(4)} or (
        "hacked" in name
    )
    assert "CE degradation" in page.locator("#run-metrics-table").inner_text()
    chosen = page.evaluate(f"{DATA}.at(-1)")
    assert chosen["name"] == "chosen run"
    assert len(chosen["x"]) == 1
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()
    assert page.evaluate("Choice.runs.length") == 0


def open_run(page: Any, name: str) -> None:
    page.locator("#g0-runs-table tbody button", has_text=name).click()
    assert page.locator("#details-title").inner_text() == name


def test_a_run_s_page_has_everything_of_it(page: Any, tmp_path: Path) -> None:
    open_run(page, "relu+l1-3")
    made = next(made for made in swept() if made.run.name == "relu+l1-3")
    metrics = page.locator("#run-metrics-table")
    shown = metrics.locator("tr", has_text="CE degradation").inner_text()
    value = made.metrics["ce_degradation"].value
    assert value is not None
    assert f"{value:.4g}" in shown
    assert "[" in shown
    page.locator("#details summary").click()
    settings = page.locator("#run-settings-table").inner_text()
    assert "dictionary size" in settings or "d sae" in settings
    assert made.fingerprint in settings
    for part in ("training", "biases", "histogram", "curves"):
        page.locator(f"#run-{part}").scroll_into_view_if_needed()
        page.wait_for_function(f"document.getElementById('run-{part}-plot').data?.length > 0")
    loss = page.evaluate("document.getElementById('run-training-plot').data[0]")
    assert (loss["y"][0], loss["y"][-1], loss["x"][-1]) == (100, 1, 1960)
    page.locator("#run-step").fill("0")
    name = "document.getElementById('run-biases-plot').data?.[1].name"
    page.wait_for_function(f"{name} === 'step 0'")
    page.locator("#run-array").select_option("firing_rate")
    page.wait_for_function(
        "document.getElementById('run-histogram-plot').layout.xaxis.type === 'log'"
    )
    rows = downloaded(page, "#run-curves [data-figure-csv]", tmp_path)
    assert {row["line"] for row in rows} == {"through the origin", "relu+l1-3"}


def test_features_are_found_sorted_and_shown_where_they_are_strongest(
    page: Any, tmp_path: Path
) -> None:
    open_run(page, "relu+l1-3")
    section = page.locator("#run-table")
    rows = section.locator("tbody tr")
    assert rows.count() == 64
    rates = [float(text) for text in section.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert rates == sorted(rates, reverse=True)
    section.locator("tbody button").first.click()
    examples = section.locator("#run-examples li")
    assert examples.count() == 3
    values = [float(text) for text in examples.locator("output").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert examples.locator("mark").count() == 3
    assert "<script>" in examples.first.inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    section.locator("[id=run-find]").fill("dead")
    assert rows.count() == rates.count(0)
    assert section.locator("tbody button").count() == 0, "dead features have no examples"
    section.locator("[id=run-find]").fill("7")
    assert section.locator("tbody td:first-child").all_inner_texts() == ["7"]
    section.locator("[id=run-find]").fill("dense")
    n_dense = sum(rate > 0.1 for rate in rates)
    assert len(downloaded(page, "#run-features-csv", tmp_path)) == n_dense


def test_several_runs_are_shown_side_by_side(page: Any) -> None:
    for name in ("relu+l1-1", "prolu/ste+l1-2"):
        box = page.get_by_label(f"choose {name} too")
        box.focus()
        page.keyboard.press("Space")
        assert page.evaluate("document.activeElement.ariaLabel") == f"choose {name} too"
    page.locator("#show-runs").click()
    heads = page.locator("#run-metrics-table thead th").all_inner_texts()
    assert heads == ["relu+l1-1", "prolu/ste+l1-2"]
    page.locator("#run-histogram").scroll_into_view_if_needed()
    plot = "document.getElementById('run-histogram-plot')"
    page.wait_for_function(f"{plot}.data?.length === 2")
    looks = page.evaluate(f"{plot}.data.map(t => t.line.color + t.line.dash)")
    assert len(set(looks)) == 2
    page.locator("#run-which").select_option(label="prolu/ste+l1-2")
    assert page.locator("#run-features-table tbody tr").count() == 64
    page.locator("#details-close").click()
    assert page.locator("#show-runs").is_hidden()


EXPLORED = "document.getElementById('explorer-plot')"


def test_any_two_metrics_of_some_runs_are_drawn_as_asked(page: Any, tmp_path: Path) -> None:
    form = page.locator("#explorer-form")
    page.locator("#explorer-plot").scroll_into_view_if_needed()
    form.locator("[name=x]").select_option("l1")
    form.locator("[name=y]").select_option("explained_variance")
    form.locator("[name=panels]").select_option("d_sae")
    form.locator("[name=colour]").select_option("kl")
    form.locator("[name=join]").select_option("all")
    form.locator("[name=points]").select_option("alone")
    form.locator("summary").click()
    form.locator("[name=label][value='relu+l1']").check()
    form.locator("[name=evaluation]").first.check()
    page.wait_for_function(f"{EXPLORED}.layout?.coloraxis !== undefined")
    data = page.evaluate(f"{EXPLORED}.data")
    points = {t["xaxis"]: t for t in data if t["mode"] == "markers"}
    own = [made for made in swept() if made.run.label == "relu+l1"]
    for axis, d_sae in (("x", 64), ("x2", 128)):
        runs = [made for made in own if made.run.d_sae == d_sae]
        for part, key in (("x", "l1"), ("y", "explained_variance")):
            expected = [made.metrics[key].value for made in runs]
            assert points[axis][part] == pytest.approx(expected, rel=1e-5)
        colours = points[axis]["marker"]["color"]
        assert colours == pytest.approx([made.metrics["kl"].value for made in runs], rel=1e-5)
        assert "error_x" not in points[axis]
    assert page.evaluate(f"{EXPLORED}.layout.yaxis2.matches") == "y"
    titles = page.evaluate(f"{EXPLORED}.layout.annotations.map(a => a.text)")
    assert titles == ["64", "128"]
    assert page.locator("#explorer-count").inner_text().startswith("4 of 14 runs")
    rows = downloaded(page, "#explorer-csv", tmp_path)
    assert len(rows) == 4
    assert {"name", "label", "d_sae", "l1", "explained_variance", "kl"} <= rows[0].keys()


def test_lines_of_the_explorer_are_those_of_the_figures(page: Any) -> None:
    """Frontiers of variants over two metrics, one of which is better if larger, one if smaller."""
    page.locator("#explorer-plot").scroll_into_view_if_needed()
    preset = page.locator("#explorer-preset")
    for title, view in (
        ("CE degradation against L0", "l0-ce_degradation"),
        ("Explained variance against L0", "l0-explained_variance"),
        ("L1 against L0", "l0-l1"),
    ):
        preset.select_option(label=title)
        built = page.evaluate(
            f"Page.groups[0].views.find(v => v.id === '{view}').figure.data"
            ".filter(t => t.meta === 'line').map(t => t.x)"
        )
        page.wait_for_function(f"{EXPLORED}.data?.some(t => t.mode === 'lines')")
        drawn_ = page.evaluate(
            f"{EXPLORED}.data.filter(t => t.mode === 'lines' && t.xaxis === 'x').map(t => t.x)"
        )
        assert sorted(map(tuple, drawn_)) == [
            pytest.approx(line, rel=1e-4) for line in sorted(map(tuple, filter(len, built)))
        ]


def test_the_address_keeps_what_is_chosen(page: Any, page_path: Path) -> None:
    form = page.locator("#explorer-form")
    form.locator("[name=y]").select_option("mse")
    form.locator("[name=yscale]").select_option("linear")
    form.locator("summary").click()
    form.locator("[name=d_sae][value='128']").check()
    page.locator("#variants button", has_text="prolu/ste+l1").click()
    page.locator("#theme").select_option("dark")
    page.get_by_label("choose prolu/ste+l1-1 too").check()
    address = page.evaluate("location.href")

    def check() -> None:
        page.wait_for_function("typeof Page === 'object'")
        assert form.locator("[name=y]").input_value() == "mse"
        assert form.locator("[name=x]").input_value() == "l0"
        assert form.locator("[name=yscale]").input_value() == "linear"
        assert form.locator("[name=d_sae]").evaluate_all(
            "bs => bs.filter(b => b.checked).map(b => b.value)"
        ) == ["128"]
        assert page.evaluate("[...Choice.labels]") == ["prolu/ste+l1"]
        assert page.evaluate("Choice.runs.map(r => r.group.runs.name[r.row])") == ["prolu/ste+l1-1"]
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"

    page.reload()
    check()
    page.goto("about:blank")
    page.goto(address)
    check()
    top = "document.getElementById('explorer').getBoundingClientRect().top"
    page.wait_for_function(f"Math.abs({top}) < 300")
    page.goto(page_path.as_uri() + "#g0-runs")
    assert page.evaluate("Choice.labels.size") == 1, "another section, the same choice"
    assert page.evaluate("location.hash").startswith("#g0-runs?y=mse")


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
    logged = downloaded(page, "#g0-training [data-figure-csv]", tmp_path)
    assert len({row["run"] for row in logged}) == 13
    assert (logged[-1]["step"], float(logged[-1]["loss"])) == ("1960", 1)


def test_the_slider_goes_through_coefficients(page: Any) -> None:
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


def test_links_to_sections_are_permanent(page: Any, page_path: Path) -> None:
    targets = page.locator("nav a, h2 a, h3 a").evaluate_all("links => links.map(a => a.hash)")
    assert len(targets) > 20
    missing = page.evaluate("hs => hs.filter(h => !document.querySelector(h))", targets)
    assert missing == []
    page.goto(page_path.as_uri() + "#g0-distributions")
    assert page.locator("#g0-distributions").evaluate(
        "e => Math.abs(e.getBoundingClientRect().top) < 300"
    )


def test_it_prints_with_every_figure_within_the_paper(page: Any) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown = "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent !== null)"
    page.wait_for_function(f"{shown}.every(p => p.querySelector('.main-svg'))")
    page.wait_for_function(
        f"{shown}.every(p => p.querySelector('.main-svg').getBoundingClientRect().width <= 690)"
    )
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.className") == ""


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
    """On a tall screen, several figures come into view at once; each is drawn in its own task."""
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


def test_layers_of_chosen_runs_are_drawn_side_by_side(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n_layers, results = 4, []
    for i, name in enumerate(("small", "large")):
        made = drawn(name, "jumprelu-cross-layer-transcoder", rng, 3 + 3 * i, 0.3 / (1 + i))
        grown = np.arange(1.0, n_layers + 1)
        layers = {"l0": grown * (1 + i), "fvu": grown / (5 + i), "ce_degradation": grown / 50,
                  "kl": grown / 60}  # fmt: skip
        arrays = {**made.arrays, **{f"per_layer/{key}": v for key, v in layers.items()}}
        sites = {"hook": "blocks.0-3.ln2.hook_out", "hook_out": "blocks.0-3.hook_mlp_out",
                 "d_out": 4, "coefficient": 0.1 * (1 + i)}  # fmt: skip
        results.append(
            made.model_copy(update={"arrays": arrays, "run": made.run.model_copy(update=sites)})
        )
    write_sweep(tmp_path / "runs", results)
    answers = answer(select([tmp_path / "runs"]).results, Question())
    path = write_report(answers, tmp_path / "report.html")
    for page in opened_page(browser, path, 1440, "light"):
        open_run(page, "small")
        page.locator("#g0-runs-table").get_by_label("choose large too").check()
        plot = "document.getElementById('run-layers-plot')"
        page.locator("#run-layers").scroll_into_view_if_needed()
        page.wait_for_function(f"{plot}.data?.length === 8")
        first = page.evaluate(f"{plot}.data[0]")
        assert (first["x"], first["y"]) == (["0", "1", "2", "3"], [0.2, 0.4, 0.6, 0.8])
        titles = page.evaluate(f"{plot}.layout.annotations.map(({{ text }}) => text)")
        assert titles == list(LAYERED.values())
        rows = downloaded(page, "#run-layers [data-figure-csv]", tmp_path)
        assert len(rows) == 2 * 4 * n_layers
        assert violations(page) == []
