"""Each output of a comparison, read by other programs."""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from prolu_eval import __version__
from prolu_eval.baseline import about_baseline, save_baseline
from prolu_eval.comparison import Comparison, ComparisonOptions, compare_results, parse_tolerances
from prolu_eval.render import github
from prolu_eval.render.comparison_page import comparison_page
from prolu_eval.render.junit import comparison_junit
from prolu_eval.render.markdown import comparison_markdown, escape
from prolu_eval.render.tables import HEADER
from prolu_eval.render.terminal import comparison_text
from prolu_eval.results import Result, write_result
from tests.helpers.cli import Ran, run
from tests.helpers.synthetic import Sae, result, sweep
from tests.project.test_imports import loaded_after

STORED = Path(__file__).parent.parent / "data" / "baselines"
# A name that is markup in every output.
EVIL = "a|b <img src=x onerror=alert(1)> `c` **d** [e](f) ::error::%0A,\\x00 & \"g\" 'h' é"
DAMAGED = Sae("prolu", 0.35, decoder_scale=0.75)


def runs_then() -> list[Result]:
    return [*sweep(), result(Sae("prolu", 0.3), name=EVIL), result(Sae("relu", 0.25), name="gone")]


def runs_now() -> list[Result]:
    """One damaged run, one mended, one missing, one new, and a damaged one with a hostile name."""
    changed = {
        "prolu/0.35": result(DAMAGED),
        "relu/0.5": result(Sae("relu", 0.5, decoder_scale=1.15)),
        EVIL: result(Sae("prolu", 0.3, decoder_scale=0.75), name=EVIL),
    }
    kept = [changed.get(r.run.name, r) for r in runs_then() if r.run.name != "gone"]
    return [*kept, result(Sae("relu", 0.4), name="new <b>run</b>")]


@pytest.fixture(scope="module")
def found() -> Comparison:
    made = compare_results(runs_now(), runs_then()).with_update(
        "prolu-eval baseline update 'a `b`'"
    )
    assert {row.verdict for row in made.rows} == {
        "regression", "incomparable", "improvement", "pass",
    }  # fmt: skip
    return made


def test_the_terminal_shows_what_fails_first_and_how_to_accept_it(found: Comparison) -> None:
    lines = comparison_text(found).splitlines()
    assert lines[0].split()[:2] == ["verdict", "run"]
    verdicts = [line.split()[0] for line in lines[1 : 1 + len(found.rows)]]
    assert verdicts == sorted(
        verdicts, key=["regression", "incomparable", "improvement", "pass"].index
    )
    assert any("gone: is in the baseline" in line and "--prune" in line for line in lines)
    assert lines[-2].startswith("regression: ")
    assert lines[-1] == "To accept: prolu-eval baseline update 'a `b`'"


def test_many_passing_rows_are_only_counted() -> None:
    runs = [result(Sae(threshold=i / 100)) for i in range(10, 35)]
    found = compare_results(runs, runs)
    assert comparison_text(found).startswith(f"{len(found.rows)} pass; --all shows them\n")
    assert len(comparison_text(found, everything=True).splitlines()) > len(found.rows)


def test_markdown_renders_as_tables_whose_cells_are_the_texts(found: Comparison) -> None:
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable("table").parse(comparison_markdown(found))
    )
    cells: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            cells.append([])
        if before.type in ("td_open", "th_open"):
            children = token.children or []
            assert all(child.type in ("text", "text_special") for child in children), token.content
            cells[-1].append("".join(child.content for child in children))
    assert all(len(row) == len(HEADER) for row in cells)
    assert sum(row[0] == "verdict" for row in cells) == 2
    assert len(cells) == 2 + len(found.rows)
    names = {row[1] for row in cells}
    assert EVIL in names
    assert [t.content for t in tokens if t.type == "fence"] == [f"{found.update}\n"]
    blocks = {t.content.strip() for t in tokens if t.type == "html_block"}
    assert {re.sub(r"\d+", "N", block) for block in blocks} == {
        "<details>\n<summary>N pass</summary>", "</details>",
    }  # fmt: skip


def test_a_jobs_summary_stays_below_githubs_limit() -> None:
    base = [result(Sae(threshold=0.3), name=f"run {i} {'x' * 100}") for i in range(1500)]
    now = [result(Sae(threshold=0.3, decoder_scale=0.8), name=r.run.name) for r in base]
    found = compare_results(now, base)
    assert len(found.rows) >= 3000
    assert len(comparison_markdown(found).encode()) < 1 << 20


def test_junit_is_read_by_a_parser_of_it(found: Comparison, tmp_path: Path) -> None:
    junitparser = pytest.importorskip("junitparser")
    path = tmp_path / "junit.xml"
    path.write_bytes(comparison_junit(found))
    suites = junitparser.JUnitXml.fromfile(str(path))
    (suite,) = suites
    verdicts = [row.verdict for row in found.rows]
    counts = (len(verdicts), verdicts.count("regression"), verdicts.count("incomparable"))
    assert (suites.tests, suites.failures, suites.errors) == counts
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (*counts, 0)
    expected = {"regression": "Failure", "incomparable": "Error"}
    for row, case in zip(found.rows, suite, strict=True):
        assert case.classname == row.run
        kinds = [type(outcome).__name__ for outcome in case.result]
        assert kinds == ([expected[row.verdict]] if row.verdict in expected else [])
        if kinds and row.remedy:
            assert row.remedy in case.result[0].message


def test_json_has_the_documented_shape(found: Comparison) -> None:
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["verdict"] == "regression"
    assert {row["run"] for row in document["runs"]} == {r.run.name for r in runs_then()}
    for row in document["runs"] + document["frontiers"]:
        assert row.keys() >= {
            "run", "metric", "baseline", "current", "difference", "ci95", "tolerance", "verdict",
        }  # fmt: skip
        if row["difference"] is not None:
            low, high = row["ci95"]
            assert low <= row["difference"] <= high
            assert row["difference"] == pytest.approx(row["current"] - row["baseline"])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder with a baseline and the results of runs now."""
    save_baseline(runs_then(), tmp_path / "baseline.json")
    for i, made in enumerate(runs_now()):
        write_result(made, tmp_path / "runs" / str(i) / "evaluation")
    return tmp_path


def compared(capfd: pytest.CaptureFixture[str], folder: Path, *options: object) -> Ran:
    return run(capfd, "compare", folder / "runs", "--baseline", folder / "baseline.json", *options)


def facts(page: str) -> dict[str, str]:
    """The facts that a comparison's page gives about its two sides."""
    section = page.partition('<section id="provenance">')[2].partition("</section>")[0]
    return {
        unescape(name): unescape(value)
        for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section)
    }


def test_the_page_says_where_both_sides_are_from(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each fact is given for its own side; the sides differ in text, versions and model."""
    then = [r.model_copy(update={"environment": {"prolu-eval": "0.1.0", "gpu": None}})
            for r in sweep()]  # fmt: skip
    save_baseline(then, tmp_path / "a <b>.json")
    text = (tmp_path / "a <b>.json").read_text()
    (day,) = re.findall(r'"saved": "(\d{4}-\d\d-\d\d)"', text)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(f"{day}T12:00+00:00")).days < 2
    at = then[0].setting
    now_at = at.model_copy(
        update={"tokens": "other <i>text", "tokens_fingerprint": "u" * 32, "model": "new",
                "model_fingerprint": "n" * 16}
    )  # fmt: skip
    for i, made in enumerate(then):
        write_result(
            made.model_copy(
                update={"setting": now_at, "environment": {"prolu-eval": "0.2.0", "gpu": "H100"}}
            ),
            tmp_path / "runs" / str(i) / "evaluation",
        )
    run(capfd, "compare", tmp_path / "runs", "-b", tmp_path / "a <b>.json", "--unpaired",
        "--html", tmp_path / "page.html")  # fmt: skip
    count = f"{at.n_counted:,} tokens of"
    length = f"in {at.n_sequences:,} sequences"
    assert facts((tmp_path / "page.html").read_text()) == {
        "baseline": f"{tmp_path / 'a <b>.json'}, saved on {day} by prolu-eval {__version__}",
        "current": str(tmp_path / "runs"),
        "baseline, measured on": f"{count} {at.tokens} (version {at.tokens_fingerprint[:8]}) "
        f"{length}, model {at.model} (version {at.model_fingerprint[:8]})",
        "baseline, measured with": "prolu-eval 0.1.0",
        "current, measured on": f"{count} other <i>text (version uuuuuuuu) {length}, "
        "model new (version nnnnnnnn)",
        "current, measured with": "prolu-eval 0.2.0, gpu H100",
    }


def test_a_baseline_of_a_time_without_dates_says_by_what_it_was_saved() -> None:
    stored = STORED / "v3" / "baseline.json"
    assert about_baseline(stored) == f"{stored}, saved by prolu-eval 0.1.0"


def test_github_gets_a_summary_annotations_and_a_verdict(
    stored: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.setenv(variable, str(stored / variable))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(stored))
    (stored / "GITHUB_OUTPUT").write_text("before=1\n")
    ran = compared(capfd, stored, "--json")
    assert ran.code == 1
    assert ran.json()["verdict"] == "regression"
    assert (stored / "GITHUB_STEP_SUMMARY").read_text().startswith("## ❌ prolu-eval: regression")
    assert (stored / "GITHUB_OUTPUT").read_text() == "before=1\nverdict=regression\n"
    lines = (stored / "baseline.json").read_text().splitlines()
    said = list(commands(ran.err))
    for kind, about, message in said:
        assert about["file"] == "baseline.json"
        if kind == "error":
            assert message
            key = about["title"].partition(" of ")[2]
            # The line of the run, or of its metric.
            above = [line for line in lines[: int(about["line"])] if line.startswith('  "')]
            assert key.startswith(("overall", "frontier")) or json.dumps(key) in above[-1]
    titles = {about["title"] for _, about, _ in said}
    assert titles >= {"regression of prolu/0.35", "incomparable of gone", f"regression of {EVIL}"}
    (notice,) = [message for kind, _, message in said if kind == "notice"]
    assert "relu/0.5" in notice
    assert "baseline update" in notice


def commands(output: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Workflow commands as the runner reads them: kind, properties, message."""
    decode = {"%25": "%", "%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ","}

    def plain(escaped: str) -> str:
        return re.sub("|".join(decode), lambda match: decode[match.group()], escaped)

    for line in output.splitlines():
        if match := re.fullmatch(r"::(\w+) (.*?)::(.*)", line):
            kind, about, message = match.groups()
            pairs = (part.partition("=") for part in about.split(","))
            yield kind, {key: plain(value) for key, _, value in pairs}, plain(message)


def test_at_most_ten_annotations_of_a_kind(tmp_path: Path) -> None:
    base = [result(Sae(threshold=0.3), name=f"run {i}") for i in range(30)]
    now = [result(Sae(threshold=0.3, decoder_scale=0.8), name=r.run.name) for r in base]
    save_baseline(base, tmp_path / "b.json")
    found = compare_results(now, base, ComparisonOptions(frontier=None))
    lines = list(github.annotations(found, tmp_path / "b.json", {}))
    assert len(lines) == 10
    assert "21 more runs fail" in lines[-1]


def test_what_the_tokens_are_too_few_for_is_said_in_every_output(tmp_path: Path) -> None:
    base, now = [result(Sae(), np.arange(5))], [result(Sae(encoder_noise=0.01), np.arange(5))]
    save_baseline(base, tmp_path / "b.json")
    found = compare_results(now, base, ComparisonOptions(parse_tolerances(["ce_degradation=+3%"])))
    (sentence,) = found.too_few_tokens
    (warning,) = commands("\n".join(github.annotations(found, tmp_path / "b.json", {})))
    assert (warning[0], warning[2]) == ("warning", sentence)
    assert sentence in comparison_text(found)
    assert escape(sentence) in comparison_markdown(found)
    assert sentence in comparison_page(found)
    assert found.to_json()["too_few_tokens"] == [sentence]


def test_improvements_come_with_the_command_that_accepts_them(
    stored: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    only = ("--only", "relu/0.5")
    ran = compared(capfd, stored, *only)
    assert ran.code == 0
    command = ran.out.splitlines()[-1].removeprefix("To accept: prolu-eval ")
    words = subprocess.run(["xargs", "-n1"], input=command, text=True, capture_output=True)
    assert run(capfd, *words.stdout.splitlines()).code == 0
    again = compared(capfd, stored, *only)
    assert again.code == 0
    assert "To accept" not in again.out
    # What was not chosen stays as it was.
    assert compared(capfd, stored, "--only", "prolu/0.35").code == 1


def test_files_are_written_beside_the_table(
    stored: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = {"--markdown": "a/c.md", "--junit": "a/c.xml", "--html": "a/c.html"}
    ran = compared(capfd, stored, *[w for o, n in names.items() for w in (o, stored / n)])
    assert ran.code == 1
    assert ran.out.startswith("verdict")
    assert all((stored / name).stat().st_size > 1000 for name in names.values())
    quiet = compared(capfd, stored, "--quiet")
    assert quiet.out.count("\n") == 1
    assert quiet.out.startswith("regression: ")


def test_no_command_about_baselines_loads_torch(stored: Path) -> None:
    runs, baseline, page = (str(stored / name) for name in ("runs", "baseline.json", "c.html"))
    commands = (
        ["compare", runs, "-b", baseline, "--html", page],
        ["baseline", "show", baseline],
        ["baseline", "update", runs, "-b", baseline],
        ["baseline", "save", runs, "-o", baseline, "--force"],
    )
    mains = "".join(f"\nmain({arguments})" for arguments in commands)
    loaded = loaded_after(f"from prolu_eval.cli import main{mains}")
    assert "numpy" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "transformer_lens"})
