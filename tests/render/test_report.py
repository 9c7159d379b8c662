"""Every number of the report, from handmade stored results, including bad ones."""

import csv
import io
import json
import math
import os
import re
import shutil
from dataclasses import replace
from html import unescape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prolu_eval.analysis import Answer, Frontier, Group, Question, answer, group_frontier
from prolu_eval.errors import UsageError
from prolu_eval.render import figures, page_document
from prolu_eval.render.browser import Browser, find_browser
from prolu_eval.render.environment import embedded, plotly_library
from prolu_eval.render.explorer import explorer_document
from prolu_eval.render.features import features_document, history_file, packed_floats
from prolu_eval.render.figures import VIEWS, figure_document, view_figure
from prolu_eval.render.looks import COLOURS, looks
from prolu_eval.render.markdown import frontier_markdown
from prolu_eval.render.page import write_report
from prolu_eval.render.page_document import figure_views, group_document, importance, runs_document
from prolu_eval.render.static import write_figures
from prolu_eval.render.table_files import run_frame, write_table
from prolu_eval.render.tables import saving_matrix
from prolu_eval.render.terminal import frontier_text
from prolu_eval.results import Examples, Result, read_result, result_files, select, write_result
from tests.helpers.cli import run
from tests.helpers.made_results import (
    drawn,
    result,
    setting,
    with_examples,
    with_features,
    write_sweep,
)
from tests.helpers.synthetic import sweep

KEYS = ("l0", "ce_degradation")


def by_hand() -> list[Result]:
    """Ties, duplicates, a single run, missing metrics and NaN, on two objectives and the proxy.

    On L0 and CE degradation the frontier is a1 (1, 4), b1 and its duplicate b2 (2, 2), b3 (5, 1).
    """
    values: dict[str, tuple[str, dict[str, float | None]]] = {
        "a1": ("relu+l1", {"l0": 1, "ce_degradation": 4, "l1": 9, "mse": 9}),
        "a2": ("relu+l1", {"l0": 3, "ce_degradation": 3, "l1": 1, "mse": 5}),
        "a3": ("relu+l1", {"l0": 2, "ce_degradation": 4, "l1": 5, "mse": 1}),
        "b1": ("prolu/ste+l1", {"l0": 2, "ce_degradation": 2, "l1": 6, "mse": 6}),
        "b2": ("prolu/ste+l1", {"l0": 2, "ce_degradation": 2, "l1": 2, "mse": 2}),
        "b3": ("prolu/ste+l1", {"l0": 5, "ce_degradation": 1, "l1": 7, "mse": None}),
        "c": ("alone", {"l0": 5, "ce_degradation": 4}),
        "d": ("unmeasured", {"l0": 5, "ce_degradation": None}),
    }
    return [result(name, label, metrics) for name, (label, metrics) in values.items()]


def only(results: list[Result]) -> tuple[Group, Frontier]:
    found = answered(results)
    return found.group, found.details


def answered(results: list[Result]) -> Answer:
    (found,) = answer(results, Question())
    return found


def document(results: list[Result], **extra: Any) -> dict[str, Any]:
    group, answer = only(results)
    found = group_document(group, answer, {}, "g0") | extra
    return json.loads(str(embedded(found)))  # type: ignore[no-any-return]


def test_the_table_of_runs_holds_what_was_stored() -> None:
    runs = document(by_hand())["runs"]
    rows = {name: i for i, name in enumerate(runs["name"])}
    assert runs["label"][rows["b1"]] == "prolu/ste+l1"
    assert {n for n, on in zip(runs["name"], runs["on_frontier"], strict=True) if on} == {
        "a1", "b1", "b2", "b3",
    }  # fmt: skip
    l0, ce = runs["metrics"]["l0"], runs["metrics"]["ce_degradation"]
    assert (l0["value"][rows["a2"]], l0["low"][rows["a2"]], l0["high"][rows["a2"]]) == (3, 2.4, 3.6)
    assert ce["value"][rows["d"]] is ce["low"][rows["d"]] is None
    assert runs["membership"] == [None] * 8, "nothing to resample"


def test_figures_join_what_is_nondominated() -> None:
    found = document(by_hand())
    names = found["runs"]["name"]
    views = {view["id"]: view for view in found["views"]}
    main = views["l0-ce_degradation"]
    assert found["views"][0] is main
    lines = {label: [names[row] for row in rows] for label, rows in main["lines"].items()}
    assert lines == {
        "relu+l1": ["a1", "a2"], "prolu/ste+l1": ["b1", "b2", "b3"], "alone": ["c"],
        "unmeasured": [],
    }  # fmt: skip
    assert [names[row] for row in main["front"]] == ["a1", "b1", "b2", "b3"]
    proxy = views["l1-mse"]
    assert [names[row] for row in proxy["front"]] == ["a2", "b2", "a3"]
    sweep = views["l0-l1"]
    assert [names[row] for row in sweep["lines"]["relu+l1"]] == ["a1", "a3", "a2"]
    assert sweep["front"] == []
    assert "sqrt_l1-mse" not in views, "no run has it"


def test_variants_on_the_page(tmp_path: Path) -> None:
    path = write_report([answered(by_hand())], tmp_path / "r.html")
    text = re.sub(r"<[^>]+>", " ", path.read_text().split('id="data"')[0])
    cells = " ".join(unescape(text).split())
    # Up to (5.4, 4.3): prolu/ste 3.4 x 2.3 + 0.4 x 1, relu 4.4 x 0.3 + 2.4 x 1, all 0.3 more.
    assert "prolu/ste+l1 3 3 8.22 96.48 % 56.34 %" in cells
    assert "relu+l1 3 1 3.72 43.66 % 3.521 %" in cells
    assert "alone 1 0 0.12 1.408 % 0 %" in cells
    assert "reference point (5.4, 4.3)" in cells
    assert "No variant is stated to be better" in cells


def test_other_tokens_stand_apart(tmp_path: Path) -> None:
    other = setting(tokens_fingerprint="u" * 32, tokens="other text")
    extra = result("x", "relu+l1", {"l0": 0.1, "ce_degradation": 0.1}, at=other)
    answers = answer([*by_hand(), extra], Question())
    assert [found.details.frontier for found in answers] == [["a1", "b1", "b2", "b3"], ["x"]]
    titles = [found.title for found in answers]
    assert titles[0].endswith(" on its own text")
    assert titles[1].endswith(" on other text")
    page = write_report(answers, tmp_path / "r.html").read_text()
    assert page.count("plotly.js (basic") == 1
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    relu = {tuple(group["styles"]["relu+l1"]) for group in data["groups"]}
    assert len(relu) == 1, "a variant looks the same everywhere"


def test_histograms_count_features() -> None:
    group, _ = only(
        [
            result("a", "x", {"l0": 1}, bias=[-1.0, -1.0, 0.5, math.nan]),
            result("b", "y", {"l0": 1}, bias=[0.0, 0.25, 0.25, 1.0]),
        ]
    )
    found = features_document(group, [1, 0])["histograms"]["bias"]
    edges, counts = np.array(found["edges"]), found["counts"]
    assert (edges[0], edges[-1], len(edges)) == (-1, 1, 49)
    assert (counts[0][0], sum(counts[0]), found["left_out"]) == (2, 3, {0: 1, 1: 0})
    assert counts[1][np.searchsorted(edges, 0.25, side="right") - 1] == 2
    assert counts[1][-1] == 1


def test_histograms_of_rates_are_logarithmic_and_leave_the_dead_out() -> None:
    made = result("a", "x", {"l0": 1})
    rates = np.array([0, 0, 0.001, 0.1], "f4")
    arrays = {**made.arrays, "per_feature/firing_rate": rates}
    group, _ = only([made.model_copy(update={"arrays": arrays})])
    document_ = features_document(group, [0])
    found = document_["histograms"]["firing_rate"]
    assert found["edges"][0] == pytest.approx(-3)
    assert found["edges"][-1] == pytest.approx(-1)
    assert (found["left_out"], sum(found["counts"][0])) == ({0: 2}, 2)
    assert document_["tables"][0]["firing_rate"] == packed_floats(rates)


def test_details_go_to_the_frontier_first_and_stay_within_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group, answer = only(by_hand())
    names = [group.table["name"][row] for row in importance(group, answer)]
    assert names[:4] == ["a1", "b1", "b3", "b2"] or set(names[:4]) == {"a1", "b1", "b2", "b3"}
    assert set(names[4:6]) == {"a2", "c"}, "those on their own variant's frontier"
    monkeypatch.setattr("prolu_eval.render.features.TABLE_BUDGET", 9)
    found = features_document(group, importance(group, answer))["tables"]
    assert len(found) == 2, "four biases each"


def test_curves_and_histories(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [with_features(drawn("a", "relu+l1", rng, 3, 1), rng)]
    write_sweep(tmp_path, made)
    (stored,) = select([tmp_path]).results
    assert history_file(stored) == tmp_path / "run0" / "history.safetensors"
    found = features_document(only([stored])[0], [0])
    curves = found["curves"][0]
    assert curves["features"] == [3, 7]
    at_one = curves["scales"].index(1.0)
    assert [own[at_one] for own in curves["responses"]] == pytest.approx([0.75, 0.75])
    logged = found["histories"][0]
    assert (logged["steps"][0], logged["steps"][-1], len(logged["steps"])) == (0, 49 * 40, 25)
    assert all(sum(counts) == 512 for counts in logged["counts"])
    (tmp_path / "run0" / "history.safetensors").write_bytes(b"broken")
    assert features_document(only([stored])[0], [0])["histories"] == {}


def test_layers_of_what_stands_for_several() -> None:
    rng = np.random.default_rng(0)
    layers = {
        "l0": np.array([3.0, 5.0]), "fvu": np.array([0.25, np.nan]),
        "ce_degradation": np.array([0.1, 0.2]), "kl": np.array([0.01, 0.02]),
    }  # fmt: skip
    for hook, axis, places in (
        ("blocks.7,13.hook_resid_post", "block", ["7", "13"]),
        ("blocks.0-1.hook_mlp_out", "block", ["0", "1"]),
        ("blocks.13,13.hook_resid_post", "model", ["first", "second"]),
    ):
        made = drawn("a", "relu-crosscoder", rng, 3, 1)
        arrays = {**made.arrays, **{f"per_layer/{k}": v for k, v in layers.items()}}
        summary = made.run.model_copy(update={"hook": hook})
        made = made.model_copy(update={"arrays": arrays, "run": summary})
        (found,) = features_document(only([made])[0], [0])["layers"].values()
        assert (found["axis"], found["places"]) == (axis, places)
        assert found["fvu"] == [0.25, None]
        assert found["l0"] == [3, 5]
    plain = drawn("b", "relu+l1", rng, 3, 1)
    assert features_document(only([plain])[0], [0])["layers"] == {}


def test_a_feature_that_fires_on_its_bias_alone_has_no_curve() -> None:
    rng = np.random.default_rng(0)
    made = with_features(drawn("a", "relu+l1", rng, 3, 1), rng)
    for plain, features in (([2.0, -1.0], [3]), ([-1.0, 0.0], None)):
        arrays = {**made.arrays, "response/pre_activations": np.array(plain, "f4")}
        group, answer = only([made.model_copy(update={"arrays": arrays})])
        found = json.loads(str(embedded(group_document(group, answer, {}, "g0"))))
        curves = found["features"]["curves"].get("0")
        assert (curves and curves["features"]) == features


def test_what_is_embedded_cannot_end_its_element() -> None:
    text = str(embedded({"name": "</script><script>alert(1)</script>", "amp": "&\u2028"}))
    assert "<" not in text
    assert json.loads(text)["name"].startswith("</script>")
    with pytest.raises(ValueError, match="JSON"):
        embedded({"value": math.nan})


def test_variants_look_alike_everywhere_and_unlike_each_other() -> None:
    labels = [f"v{i}" for i in range(56)]
    found = looks(labels)
    assert len(set(found.values())) == 56
    assert looks(["relu+l1", "v1"])["v1"] == looks(["v1", "other"])["v1"]
    assert len({(view.x, view.y) for view in VIEWS}) == len(VIEWS)


def test_text_and_markdown() -> None:
    text = frontier_text(answered(by_hand()))
    assert re.search(
        r"^\*\s+a1\s+relu\+l1\s+0\.1\s+1\.00 ±0\.10\s+4\.00 ±0\.40", text, re.MULTILINE
    )
    assert re.search(r"prolu/ste\+l1\s+3\s+3\s+8\.22\s+96\.48 %\s+56\.34 %", text)
    assert "capitals are on the frontier" in text
    hostile = [result("a|b", "x<script>", {"l0": 1, "ce_degradation": 1})]
    lines = frontier_markdown(answered(hostile)).splitlines()
    row = next(line for line in lines if "a\\|b" in line)
    assert "x&lt;script&gt;" in row
    assert row.replace("\\|", "").count("|") == lines[lines.index(row) - 1].count("|")


def _sketch(text: str) -> list[str]:
    """The lines of the sketch, its lower axis last."""
    lines = text.splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith("└"))
    return lines[end - 18 : end + 1]


@pytest.mark.parametrize("width", [24, 40, 100])
def test_the_sketch_fits_the_terminal(width: int) -> None:
    """A letter stands in its place: a line of the sketch is not broken where it has blanks."""
    canvas = _sketch(frontier_text(answered(by_hand()), width))
    assert all(line.startswith(("│", "└")) for line in canvas)
    assert max(map(len, canvas)) <= min(width, 65)
    whole = _sketch(frontier_text(answered(by_hand())))
    assert set(filter(str.isalpha, "".join(canvas))) == set(filter(str.isalpha, "".join(whole)))


def test_p_on_is_explained_where_it_is_shown() -> None:
    explained = "P(on) is the share of resampled sequences"
    for results, shown in ((by_hand(), False), (sweep(), True)):
        text = frontier_text(answered(results))
        assert ("P(on)  " in text, explained in text) == (shown, shown)


def test_tables_as_files(tmp_path: Path) -> None:
    answers = [answered(by_hand())]
    write_table(answers, tmp_path / "runs.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert {row["name"]: row["on_frontier"] for row in rows}["b2"] == "True"
    assert {row["name"]: row["ce_degradation"] for row in rows}["d"] == ""
    pytest.importorskip("pyarrow")
    write_table(answers, tmp_path / "runs.parquet", parquet=True)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "runs.parquet"), run_frame(answers), check_dtype=False
    )


def stored_sweep(folder: Path, *l0: float, label: str = "relu+l1") -> None:
    write_sweep(
        folder,
        [result(f"r{i}", label, {"l0": x, "ce_degradation": 9 / x}) for i, x in enumerate(l0)],
        logged=False,
    )


def test_two_folders_are_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stored_sweep(tmp_path / "A", 2, 5)
    stored_sweep(tmp_path / "B", 3)
    results = select([tmp_path / "A", tmp_path / "B"], titled=True).results
    assert [(r.run.name, r.run.label) for r in results] == [
        ("A/r0", "A: relu+l1"), ("A/r1", "A: relu+l1"), ("B/r0", "B: relu+l1"),
    ]  # fmt: skip
    ran = run(capfd, "report", tmp_path / "A", tmp_path / "B", "-o", tmp_path / "ab.html")
    assert (ran.code, ran.err) == (0, "")
    assert "A: relu+l1" in (tmp_path / "ab.html").read_text()


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Folders A and B of two variants; in A, "x" has half of its L0 in B, and "y" the same L0."""
    rng = np.random.default_rng(0)
    for folder, factors in (("A", {"x": 8, "y": 6}), ("B", {"x": 16, "y": 6})):
        made = [drawn(f"{label}{i}", label, rng, l0, factor / l0)
                for label, factor in factors.items()
                for i, l0 in enumerate(np.geomspace(4, 64, 6))]  # fmt: skip
        write_sweep(tmp_path / folder, made, logged=False)
    return tmp_path / "A", tmp_path / "B"


def assert_folders_and_budget(found: dict[str, Any]) -> None:
    parts = {(p["first"], p["variant"], p["saving"]["metric"]): p["saving"]
             for p in found["folders"]}  # fmt: skip
    assert len(parts) == 12, "two folders each way, two metrics, two variants and all"
    assert parts["A", "x", "l0"]["amount"]["value"] == pytest.approx(0.5, abs=0.05)
    assert parts["A", "x", "l0"]["status"] == "likely"
    assert parts["B", "y", "ce_degradation"]["status"] == "tied"
    assert parts["A", None, "l0"]["amount"]["ci95"][0] > 0.2
    assert found["statement"].startswith("A is better than B: ")
    assert "A is better than B for x: " in found["statement"]
    at = {part["label"]: part for part in found["at"]}
    assert at["A: x"]["value"]["value"] == pytest.approx(8 / 20, rel=0.1)
    assert at["A: x"]["value"]["ci95"][0] < at["A: x"]["value"]["value"]
    assert [part["label"] for part in found["at"]][-1] == "B: x"
    assert [part["rank"] for part in found["at"]] == [1, 1, 3, 3]
    assert at["A: x"]["nearest"]["name"] == "A/x3"


def test_compare_says_which_folder_is_better(
    two_folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    (document,) = run(capfd, "compare", *two_folders, "--json").json()["folders"]
    assert document["statement"].startswith("A is better than B: ")
    assert "For y, A and B are tied within what these runs can tell" in document["statement"]
    amounts = {(p["first"], p["variant"], p["metric"]): p for p in document["savings"]}
    assert amounts["A", "x", "l0"]["amount"]["value"] == pytest.approx(0.5, abs=0.05)
    assert amounts["A", "x", "l0"]["status"] == "likely"
    markdown, page = (two_folders[0].parent / name for name in ("ab.md", "ab.html"))
    text = run(capfd, "compare", *two_folders, "--markdown", markdown, "--html", page).out
    assert document["statement"] in text
    assert "A compared with B  less L0" in text
    assert "### Which folder is better" in markdown.read_text()
    assert document["statement"] in page.read_text()


def test_folders_and_budgets_are_answered_by_every_face(
    two_folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from prolu_eval.evaluation import Outcome

    page = two_folders[0].parent / "ab.html"
    reported = run(capfd, "report", *two_folders, "--at", "l0=20", "--json", "-o", page)
    assert (reported.code, reported.err) == (0, "")
    assert_folders_and_budget(reported.json())
    shown = " ".join(re.sub(r"<[^>]+>", " ", page.read_text().split('id="data"')[0]).split())
    assert "Variants at L0 20, with 95 % intervals" in shown
    assert "A compared with B, with 95 % intervals" in shown
    assert unescape(shown).count("A is better than B: ") == 1
    assert "--at=l0=20" in shown

    def outcome(result: Result, folder: Path) -> Outcome:
        name = result.run.name
        run = result.run.model_copy(update={"name": f"{folder.name}/{name}"})
        named = result.model_copy(update={"run": run})
        return Outcome(run.name, folder / name, "cached", run.variant, "native", named)

    outcomes = [outcome(r, folder) for folder in two_folders for r in select([folder]).results]
    monkeypatch.setattr("prolu_eval.evaluation.evaluate", lambda *_, **__: outcomes)
    asked = ("frontier", *two_folders, "--report", page, "--at", "l0=20", "--quiet")
    found = run(capfd, *asked, "--json").json()
    assert_folders_and_budget(found)
    assert found["statement"] == reported.json()["statement"]
    assert {r["run"] for r in found["runs"]} == {o.name for o in outcomes}
    text, markdown = run(capfd, *asked).out, run(capfd, *asked, "--markdown").out
    assert re.search(r"^3\s+B: x\s+0\.8\S+ \[\S+, \S+\]\s+B/x3\s+\S+ ±", text, re.MULTILINE)
    assert re.search(r"^x\s+\S+ % \[\S+, \S+\]\s+\S+ % \[\S+, \S+\]\s+A$", text, re.MULTILINE)
    assert re.search(r"^\| 3 \| B\\: x \| 0\.8", markdown, re.MULTILINE)
    assert re.search(r"^\| x \| \S+ % .* \| \S+ % .* \| A \|$", markdown, re.MULTILINE)
    for option in ("--at=mse=1", "--at=l0", "--at=l0=1 --at=l0=2", "--at=l0=1 -z kl"):
        ran = run(capfd, *asked[:-3], *option.split())
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


def test_single_runs_named_one_by_one_are_no_folders(
    two_folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from prolu_eval.evaluation import Outcome

    results = select([two_folders[0]]).results
    outcomes = [
        Outcome(r.run.name, two_folders[0] / r.run.name, "cached", r.run.variant, "native", r)
        for r in results
    ]
    monkeypatch.setattr("prolu_eval.evaluation.evaluate", lambda *_, **__: outcomes)
    page = two_folders[0].parent / "single.html"
    asked = ("frontier", *(o.path for o in outcomes), "--report", page, "--quiet", "--json")
    found = run(capfd, *asked).json()
    assert (set(found["variants"]), found["folders"]) == ({"x", "y"}, [])


def test_the_newest_result_of_a_run_counts_and_broken_ones_are_named(tmp_path: Path) -> None:
    stored_sweep(tmp_path, 2, 5)
    (first, second) = result_files([tmp_path])
    again = read_result(first).model_copy(update={"fingerprint": "e" * 32})
    newer = write_result(again, first.parent)
    os.utime(newer, (2e9, 2e9))
    second.write_text("{")
    chosen = select([tmp_path])
    assert [kept.fingerprint for kept in chosen.results] == ["e" * 32]
    assert str(second) in chosen.left_out[0]


def test_the_page_carries_the_one_kind_of_trace_that_it_draws() -> None:
    """The bundle does not end its script element early, and its licence is included."""
    bundle = plotly_library()
    assert bundle.startswith("/**\n* plotly.js (basic")
    assert len(bundle) < 1_300_000
    assert "</script" not in bundle.lower()
    assert "<!--" not in bundle
    licence = resources.files("prolu_eval.render") / "vendored" / "plotly-basic.LICENSE"
    assert licence.read_text(encoding="utf-8").startswith("MIT License")


def test_report_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stored_sweep(tmp_path, 2, 5)
    ran = run(capfd, "report", tmp_path, "--split", "l0=3", "--reference", "l0=10")
    assert (ran.code, ran.err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert "src=" not in page.split("plotly.js (basic")[0]
    assert "Runs with l0 &lt; 3" in page
    assert "reference point (10, 4.77)" in page
    assert "--split=l0=3 --reference=l0=10" in page
    for wrong in (("-y", "ce_clean"), ("--split", "l0=x"), ("--split", "speed=1"), ("-z", "l0"),
                  ("--reference", "mse=1")):  # fmt: skip
        ran = run(capfd, "report", tmp_path, *wrong)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert run(capfd, "report", tmp_path / "nowhere").code == 2
    (tmp_path / "empty").mkdir()
    assert "holds no results" in run(capfd, "report", tmp_path / "empty").err


def test_three_objectives_have_intervals_and_say_what_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    made = [drawn(f"{label}{i}", label, rng, 3**i, f / 3**i)
            for label, f in (("a", 2), ("b", 3)) for i in range(3)]  # fmt: skip
    write_sweep(tmp_path, made, logged=False)
    ran = run(capfd, "report", tmp_path, "-z", "explained_variance", "--json")
    found = ran.json()
    assert (ran.code, ran.err, found["report"]) == (0, "", str(tmp_path / "report.html"))
    assert found["keys"] == ["l0", "ce_degradation", "explained_variance"]
    assert found["statement"].startswith(
        "No lead, saving or attainment surface is stated for three objectives"
    )
    assert (found["savings"], found["leads"], found["surfaces"]) == ([], [], {})
    for variant in found["variants"].values():
        for key in ("hypervolume", "hypervolume_share", "exclusive_share"):
            low, high = variant[f"{key}_ci95"]
            assert low <= variant[key] <= high
            assert low < high or variant[key] == 0
    (there, _) = found["epsilons"]
    low, high = there["additive"]["ci95"]
    assert low < there["additive"]["value"] < high
    assert there["multiplicative"]["value"] is None, "costs of explained variance are negative"
    page = (tmp_path / "report.html").read_text()
    assert "No lead, saving or attainment surface is stated for three objectives" in page
    assert "Explained variance against CE degradation" in page
    (group, _) = only(list(select([tmp_path]).results))
    pairs = [(v.x, v.y) for v in figure_views(group, ("l0", "l1", "mse"))]
    assert pairs[:3] == [("l0", "l1"), ("l0", "mse"), ("l1", "mse")]
    assert len(set(pairs)) == len(pairs), "each has an id of its own"


def test_report_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, by_hand(), logged=False)
    ran = run(capfd, "report", tmp_path, "--json", "--split", "l0=3", "-o", tmp_path / "r.html")
    found = ran.json()
    assert (ran.code, ran.err) == (0, "")
    assert (found["x"], found["y"], found["report"]) == (*KEYS, str(tmp_path / "r.html"))
    assert found["frontier"] == ["a1", "b1", "b2", "b3"]
    assert found["variants"]["relu+l1"]["hypervolume"] == pytest.approx(3.72)
    assert found["stretches"]["l0 >= 3"]["frontier"] == ["a2", "b3"]
    by_name = {entry["run"]: entry for entry in found["runs"]}
    measured = by_name["a2"]["metrics"]["l0"]
    assert (measured["value"], measured["ci95"]) == (3, pytest.approx([2.4, 3.6]))
    assert (by_name["a2"]["status"], by_name["a2"]["path"]) == ("cached", "runs/a2")
    assert by_name["a2"]["provenance"]["setting"]["model"] == "embedded"
    (pair,) = (e for e in found["epsilons"] if (e["first"], e["second"]) == ("relu+l1", "alone"))
    assert pair["multiplicative"]["value"] == pytest.approx(0.75)
    assert pair["multiplicative"]["ci95"] == [None, None]
    for other in ("--json", "--static"):
        value = [] if other == "--json" else [tmp_path / "figures"]
        ran = run(capfd, "report", tmp_path, "--watch", other, *value)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


def test_watching_renders_when_results_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arriving = iter([(2,), (), (2, 5)])

    def sleep(_: float) -> None:
        l0 = next(arriving, None)
        if l0 is None:
            raise KeyboardInterrupt
        stored_sweep(tmp_path, *l0)

    monkeypatch.setattr("prolu_eval.cli.report.time.sleep", sleep)
    ran = run(capfd, "report", tmp_path, "--watch")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[-2] for line in ran.out.splitlines()[1:]] == ["1", "2"]
    assert 'http-equiv="refresh"' in (tmp_path / "report.html").read_text()


def test_figures_for_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium")
    rng = np.random.default_rng(0)
    made = [with_features(drawn(f"a {i}", "prolu/ste+l1", rng, 3**i, 1 / 3**i), rng)
            for i in range(1, 4)]  # fmt: skip
    write_sweep(tmp_path / "runs", made)
    results = list(select([tmp_path / "runs"]).results)
    page = write_report([answered(results)], tmp_path / "r.html")
    column = write_figures(page, tmp_path / "svg", width=3.25, font_size=8)
    stems = {path.stem for path in column}
    assert {"l0-ce_degradation", "l0-l1", "training", "bias-prolu_ste+l1"} <= stems
    (curves,) = (stem for stem in stems if stem.startswith("run_curves-"))
    assert re.fullmatch("run_curves-a_[123]", curves)
    main = (tmp_path / "svg" / "l0-ce_degradation.svg").read_text()
    assert main.startswith("<svg")
    assert "CE degradation" in main
    assert "prolu/ste+l1" in main
    assert len(re.findall('class="point[ "]', main)) == 3, "one a run"
    assert 'width="312"' in main[:300], "3.25 inches at 96 pixels each"
    for path in column:
        sizes = re.findall(r"font-size: ([0-9.]+)px", path.read_text())
        assert sizes, path
        assert min(map(float, sizes)) >= 7 * 96 / 72, path
    assert "a_" not in main
    assert re.search(">a [123]<", (tmp_path / "svg" / f"{curves}.svg").read_text())


def test_figures_in_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium")
    pair = [result(f"r{i}", "x", {"l0": i, "ce_degradation": 9 / i}, bias=None) for i in (1, 3)]
    page = write_report([answered(pair)], tmp_path / "r.html")
    (png,) = write_figures(page, tmp_path, "png")
    assert png.read_bytes().startswith(b"\x89PNG")
    (pdf,) = write_figures(page, tmp_path, "pdf", width=3.25, font="serif")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    size = re.search(rb"/MediaBox ?\[0 0 ([0-9.]+) ([0-9.]+)\]", content)
    assert size is not None
    assert float(size[1]) == pytest.approx(72 * 3.25, abs=0.5)
    assert content.count(b"/Type /Page\n") == 1
    with pytest.raises(UsageError, match="pdf, svg, png"):
        write_figures(page, tmp_path, "gif")
    broken = tmp_path / "broken.html"
    broken.write_text("<!doctype html><p>no report</p>")
    with pytest.raises(UsageError, match=r"cannot draw figures \(ReferenceError"):
        write_figures(broken, tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="install chromium"):
        find_browser()


def test_all_figures_are_drawn_and_printed_by_one_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium")
    rng = np.random.default_rng(0)
    made = [with_features(drawn(f"a{i}", "a", rng, 3**i, 1 / 3**i), rng) for i in range(1, 4)]
    write_sweep(tmp_path / "runs", made)
    page = write_report([answered(list(select([tmp_path / "runs"]).results))], tmp_path / "r.html")
    started: list[int] = []
    start = os.posix_spawn

    def spawn(*args: Any, **options: Any) -> int:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(os, "posix_spawn", spawn)
    paths = write_figures(page, tmp_path / "pdf", "pdf")
    assert len(paths) > 10
    assert all(path.read_bytes().startswith(b"%PDF") for path in paths)
    assert len({path.read_bytes() for path in paths}) == len(paths)
    assert len(started) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_a_browser_that_ends_is_said_to_with_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho first >&2\necho no display >&2\nexit 1\n")
    program.chmod(0o755)
    with (
        pytest.raises(UsageError, match=r"cannot draw figures \(no display\)"),
        Browser(str(program), 312),
    ):
        pass


def test_metrics_that_are_the_same_everywhere_are_a_sentence(tmp_path: Path) -> None:
    made = [result(f"r{i}", "x", {"l0": i, "ce_degradation": 9 / i, "bias_negative_fraction": 1})
            for i in (1, 3)]  # fmt: skip
    group, _ = only(made)
    assert "bias_negative_fraction" not in {view.y for view in figure_views(group, KEYS)}
    text = write_report([answered(made)], tmp_path / "r.html").read_text()
    assert "Negative encoder biases is 1 for every run." in text
    other = result("other", "x", {"l0": 5, "ce_degradation": 1, "bias_negative_fraction": 0.9})
    group, _ = only([*made, other])
    assert "bias_negative_fraction" in {view.y for view in figure_views(group, KEYS)}


def test_what_can_be_explored_is_what_was_measured_and_differs() -> None:
    other = "blocks.3.hook_resid_post"
    first = [result("a", "x", {"l0": 1, "mse": 2}), result("b", "y", {"l0": 2, "mse": 1})]
    second = [result("c", "x", {"l0": 1, "mse": 2}, hook=other)]
    groups = [found.group for found in answer([*first, *second], Question(y="mse"))]
    found = explorer_document(groups)
    assert set(found["axes"]) == {"coefficient", "l0", "mse"}
    assert found["axes"]["l0"] == {"title": "L0 (features)", "better": "min", "log": True}
    assert found["dimensions"]["label"]["values"] == ["x", "y"]
    assert found["dimensions"]["layer"]["values"] == [1, 3]
    assert "seed" not in found["dimensions"], "one seed"
    assert found["filters"] == ["label", "layer", "hook", "evaluation"]
    assert found["presets"] == [], "none of the usual figures is over what was measured"
    assert found["start"] == {"panels": "evaluation", "points": "intervals"}


def test_settings_are_told_once_where_all_share_them() -> None:
    runs = document(by_hand())["runs"]
    assert runs["shared_settings"]["hook"] == "blocks.1.hook_resid_post"
    assert {own["variant"] for own in runs["settings"]} == {
        "relu+l1", "prolu", "alone", "unmeasured",
    }  # fmt: skip
    assert all("hook" not in own for own in runs["settings"])
    assert len(set(runs["configuration"])) == 8


def test_training_curves_and_examples_are_on_the_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = with_examples(with_features(drawn("a", "relu+l1", rng, 3, 1), rng), "<b>", rng)
    write_sweep(tmp_path, [made])
    (stored,) = select([tmp_path]).results
    found = features_document(only([stored])[0], [0])
    curves = found["training"][0]
    assert (curves["step"][0], curves["step"][-1], len(curves["step"])) == (0, 49 * 40, 40)
    assert curves["loss"][-1] < curves["loss"][0]
    texts = found["examples"][0]
    rate = stored.per_feature()["firing_rate"]
    assert set(texts) == set(np.flatnonzero(rate > 0).tolist()), "all that fire, and no others"
    examples = Examples.of(stored)
    assert examples is not None
    for feature, own in texts.items():
        strongest = examples.strongest(feature)
        assert [token for _, _, token, _ in own] == [e.token for e in strongest[: len(own)]]
        assert own[0][1] == "".join(strongest[0].before)


def test_large_numbers_of_points_are_quick() -> None:
    import time

    rng = np.random.default_rng(0)
    made = [result("a", "x", {"l0": 1, "ce_degradation": 1})]
    group, _ = only(made)
    table = pd.DataFrame({"l0": rng.random(100_000), "ce_degradation": rng.random(100_000)})
    from prolu_eval.analysis import is_nondominated

    start = time.perf_counter()
    assert is_nondominated(table, *KEYS).sum() < 100
    assert time.perf_counter() - start < 1
    assert group_frontier(group, *KEYS).frontier == ["a"]
    assert runs_document(group, group_frontier(group, *KEYS))["name"] == ["a"]


def test_frontier_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from prolu_eval.evaluation import Outcome

    outcomes = [
        Outcome(r.run.name, tmp_path / r.run.name, "cached", r.run.variant, "native", r)
        for r in by_hand()
    ]
    monkeypatch.setattr("prolu_eval.evaluation.evaluate", lambda *_, **__: outcomes)
    asked = ("frontier", tmp_path, "--split", "l0=3", "--csv", tmp_path / "runs.csv", "--quiet")
    found = json.loads(run(capfd, *asked, "--json").out)
    assert (found["x"], found["y"], found["reference"]) == ("l0", "ce_degradation", [5.4, 4.3])
    assert found["frontier"] == ["a1", "b1", "b2", "b3"]
    assert found["variants"]["relu+l1"]["hypervolume"] == pytest.approx(3.72)
    assert found["variants"]["relu+l1"]["hypervolume_ci95"] == [None, None]
    assert found["stretches"]["l0 >= 3"]["frontier"] == ["a2", "b3"]
    by_pair = {(s["first"], s["second"], s["metric"]): s for s in found["savings"]}
    saved = by_pair["prolu/ste+l1", "relu+l1", "l0"]
    assert saved["range"] is None, "CE degradation 1 to 2 against 3 to 4"
    assert {run["run"] for run in found["runs"]} == {r.run.name for r in by_hand()}
    assert Path(found["report"]).exists()
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 9
    ran = run(capfd, *asked, "--markdown")
    assert (ran.code, ran.err) == (0, "")
    assert r"| prolu/ste\+l1 | 3 | 3 | 8.22 |" in ran.out
    three = json.loads(run(capfd, "frontier", tmp_path, "-z", "mse", "--json", "--quiet").out)
    assert three["keys"] == ["l0", "ce_degradation", "mse"]
    assert three["frontier"] == ["a1", "b2", "a3"]


def test_a_page_goes_where_results_go_and_json_always_has_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from prolu_eval.evaluation import Outcome

    (tmp_path / "runs").mkdir()
    measured = [Outcome(r.run.name, tmp_path / "runs", "cached", r.run.variant, "native", r)
                for r in by_hand()]  # fmt: skip
    monkeypatch.setattr("prolu_eval.evaluation.evaluate", lambda *_, **__: measured)
    out = tmp_path / "out"
    asked = ("frontier", tmp_path / "runs", "--results", out, "--quiet", "--json")
    assert run(capfd, *asked).json()["report"] == str(out / "report.html")
    assert list((tmp_path / "runs").iterdir()) == []
    failed = [Outcome("a", tmp_path, "failed", "relu", "native", None, "cannot be read")]
    monkeypatch.setattr("prolu_eval.evaluation.evaluate", lambda *_, **__: failed)
    ran = run(capfd, *asked)
    found = ran.json()
    assert (ran.code, found["report"], found["groups"]) == (2, None, [])
    assert [(r["run"], r["status"], r["error"]) for r in found["runs"]] == [
        ("a", "failed", "cannot be read")
    ]


def test_the_matrix_says_what_a_row_takes_less_than_a_column() -> None:
    rng = np.random.default_rng(0)
    made = [drawn(f"{label}{i}", label, rng, factor * 4.0**i, 1 / 4.0**i)
            for label, factor in (("a", 1.0), ("b", 2.0)) for i in range(4)]  # fmt: skip
    _, answer = only(made)
    matrix = saving_matrix(answer)
    ours, theirs = matrix["a"][1], matrix["b"][0]
    assert list(matrix) == ["a", "b"]
    assert (matrix["a"][0].status, ours.status, theirs.status) == ("self", "less", "more")
    (saving,) = (s for s in answer.savings if (s.first, s.metric) == ("a", "l0"))
    assert ours.text == f"{saving.amount:%}".partition(" %")[0] + " % less"
    assert theirs.text.endswith("% more")
    assert ours.interval.startswith("[")
    apart = [result("a", "a", {"l0": 1, "ce_degradation": 1}),
             result("b", "b", {"l0": 2, "ce_degradation": 5})]  # fmt: skip
    assert saving_matrix(only(apart)[1])["a"][1].text == "no shared range"


def test_figures_are_plotly_s_and_drawn_to_be_read() -> None:
    rng = np.random.default_rng(0)
    made = [drawn(f"{label}{i}", label, rng, factor * 4.0**i, 1 / 4.0**i)
            for label, factor in (("a", 1.0), ("b", 2.0)) for i in range(4)]  # fmt: skip
    group, _ = only(made)
    figure = view_figure(group, VIEWS[0])
    assert figure.layout.xaxis.type == "log"
    assert {5, 10, 20, 50, 100} <= set(figure.layout.xaxis.tickvals)
    notes = {note.text: note for note in figure.layout.annotations}
    assert notes.keys() == {"a", "b", "frontier of all"}
    assert {note.name for note in notes.values()} == {"a", "b", None}
    # Right of all points and of their bars, so that no line goes through a name.
    ends = [x + more for trace in figure.data if trace.mode == "markers"
            for x, more in zip(trace.x, trace.error_x.array, strict=True)]  # fmt: skip
    assert {note.axref for note in notes.values()} == {"x"}
    assert all(note.ax > math.log10(max(ends)) for note in notes.values())
    (steps,) = (trace for trace in figure.data if trace.meta == "all")
    assert steps.line.shape == "hv"
    figure.to_json()


def test_bars_of_fractions_end_at_zero_and_axes_begin_there() -> None:
    made = result("a", "x", {"l0": 3, "dead_fraction": 0.01})
    wide = replace(made.metrics["dead_fraction"], ci95=(-0.02, 0.04))
    metrics = {**made.metrics, "dead_fraction": wide}
    group, _ = only([made.model_copy(update={"metrics": metrics})])
    figure = view_figure(group, next(v for v in VIEWS if v.y == "dead_fraction"))
    (bars,) = (trace.error_y for trace in figure.data if trace.mode == "markers")
    assert list(bars.arrayminus) == [pytest.approx(0.01)]
    assert figure.layout.yaxis.rangemode == "tozero"


def test_intervals_of_very_many_runs_are_left_out_of_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [result("a", f"x{i}", {"l0": 3.0 + i, "ce_degradation": 1 / (1 + i)}) for i in range(3)]
    group, answer = only(made)
    view = VIEWS[0]
    shown = page_document.view_document(group, view, answer, looks(group.labels))
    assert any("error_x" in trace for trace in shown["figure"]["data"])
    assert shown["reading"] == view.reading
    for module in (figures, page_document):
        monkeypatch.setattr(module, "MOST_INTERVALS", 2)
    shown = page_document.view_document(group, view, answer, looks(group.labels))
    assert not any("error_x" in trace for trace in shown["figure"]["data"])
    assert "Intervals of so many runs are in the table" in shown["reading"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_seen_on_light_and_on_dark(colour: str) -> None:
    dark, own = luminance("#0f1318"), luminance(colour)
    assert 1.05 / (own + 0.05) >= 3
    assert (own + 0.05) / (dark + 0.05) >= 3


def test_a_page_s_figures_are_the_figures_that_notebooks_get() -> None:
    """Plotly accepts the plain data, and does not change it."""
    rng = np.random.default_rng(0)
    made = [drawn(f"{label}{i}", label, rng, factor * 4.0**i, 1 / 4.0**i)
            for label, factor in (("a", 1.0), ("b", 2.0)) for i in range(4)]  # fmt: skip
    group, answer = only(made)
    for view in figure_views(group, answer.keys):
        plain = figure_document(group, view, surfaces=answer.surfaces)
        figure = view_figure(group, view, surfaces=answer.surfaces).to_plotly_json()
        figure["layout"].pop("template")
        assert figure == plain


def test_a_page_of_many_runs_has_histograms_of_some_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    made = [with_features(drawn(f"r{i}", "relu+l1", rng, 3.0 + i, 1.0 / (i + 1)), rng)
            for i in range(4)]  # fmt: skip
    answers = answer(made, Question(), 20)
    page = write_report(answers, tmp_path / "all.html").read_text(encoding="utf-8")
    assert "room for the histograms" not in page
    for module in ("features", "page"):
        monkeypatch.setattr(f"prolu_eval.render.{module}.MOST_HISTOGRAMS", 2)
    page = write_report(answers, tmp_path / "some.html").read_text(encoding="utf-8")
    assert "room for the histograms of 2 of 4 runs" in page
    document = group_document(answers[0].group, answers[0].details, {}, "g0")
    counts = document["features"]["histograms"]["bias"]["counts"]
    assert sum(found is not None for found in counts) == 2
