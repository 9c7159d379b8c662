"""`prolu-eval baseline` and `compare` on the command line: what they write, print and refuse."""

import json
from pathlib import Path

import pytest

from prolu_eval.baseline import load_baseline
from prolu_eval.results import write_result
from tests.helpers.cli import run
from tests.helpers.synthetic import Sae, result

THRESHOLDS = (0.2, 0.35, 0.5)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with the results of three runs."""
    for threshold in THRESHOLDS:
        store(tmp_path / "runs", Sae(threshold=threshold))
    return tmp_path / "runs"


def store(folder: Path, sae: Sae) -> None:
    """Write a run's result, the newest of it."""
    for old in (folder / sae.name).rglob("*.*"):
        old.unlink()
    write_result(result(sae), folder / sae.name / "evaluation")


@pytest.fixture
def baseline(runs: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    path = runs.parent / "baseline.json"
    saved = run(capfd, "baseline", "save", runs, "-o", path)
    assert (saved.code, saved.out) == (0, "")
    assert "3 runs" in saved.err
    return path


def names(path: Path) -> list[str]:
    return [r.run.name for r in load_baseline(path)]


def test_saving_takes_the_runs_chosen_and_overwrites_on_request_alone(
    runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = baseline.read_bytes()
    refused = run(capfd, "baseline", "save", runs, "-o", baseline, "--only", "*/0.2")
    assert refused.code == 2
    assert "exists" in refused.err
    assert baseline.read_bytes() == before
    some = ("--only", "*/0.2", "--only", "*/0.5", "--force")
    assert run(capfd, "baseline", "save", runs, "-o", baseline, *some).code == 0
    assert names(baseline) == ["prolu/0.2", "prolu/0.5"]
    nothing = run(capfd, "baseline", "save", runs, "-o", baseline, "--only", "x*", "--force")
    assert (nothing.code, names(baseline)) == (2, ["prolu/0.2", "prolu/0.5"])


def test_showing_lists_runs_and_what_they_were_measured_on(
    baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = run(capfd, "baseline", "show", baseline)
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "run", "prolu/0.2", "prolu/0.35", "prolu/0.5", "on",
    ]  # fmt: skip
    assert "256 sequences of 16, model tiny (mmmmmmmm)" in lines[-1]
    document = json.loads(run(capfd, "baseline", "show", baseline, "--json").out)
    assert [r["run"]["name"] for r in document["runs"]] == names(baseline)


def test_updating_changes_what_is_chosen_alone(
    runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for threshold in THRESHOLDS[:2]:
        store(runs, Sae(threshold=threshold, decoder_scale=0.75))
    store(runs, Sae(threshold=0.8))
    assert run(capfd, "compare", runs, "-b", baseline).code == 1
    chosen = ("--only", "*/0.2", "--only", "*/0.8")
    updated = run(capfd, "baseline", "update", runs, "-b", baseline, *chosen)
    assert updated.code == 0
    assert "1 changed, 1 added, 0 dropped, 2 kept" in updated.err
    assert run(capfd, "compare", runs, "-b", baseline, *chosen).code == 0
    assert run(capfd, "compare", runs, "-b", baseline, "--only", "*/0.35").code == 1


def test_pruning_drops_runs_that_are_gone(
    runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for file in (runs / "prolu" / "0.5").rglob("*.*"):
        file.unlink()
    gone = run(capfd, "compare", runs, "-b", baseline)
    assert gone.code == 1
    assert "drop it with `prolu-eval baseline update --prune`" in gone.out
    assert gone.out.splitlines()[-1].endswith(f"--baseline {baseline} --prune")
    assert run(capfd, "baseline", "update", runs, "-b", baseline).code == 0
    assert names(baseline)[-1] == "prolu/0.5"
    assert run(capfd, "baseline", "update", runs, "-b", baseline, "--prune").code == 0
    assert names(baseline) == ["prolu/0.2", "prolu/0.35"]
    assert run(capfd, "compare", runs, "-b", baseline).code == 0


def test_accepting_renamed_runs_forgets_their_former_names(
    runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (file,) = (runs / "prolu" / "0.2" / "evaluation").glob("*.json")
    file.write_text(file.read_text().replace('"name": "prolu/0.2"', '"name": "other"'))
    by = ("--match", "configuration", "--tolerance", "l0=+0.1%")
    store(runs, Sae(threshold=0.35, encoder_noise=0.2))
    ran = run(capfd, "compare", runs, "-b", baseline, *by)
    assert ran.code == 1
    words = ran.out.splitlines()[-1].removeprefix("To accept: prolu-eval ").split()
    assert run(capfd, *words).code == 0
    assert sorted(names(baseline)) == ["other", "prolu/0.35", "prolu/0.5"]
    assert run(capfd, "compare", runs, "-b", baseline, *by).code == 0


def test_runs_of_one_name_in_two_folders_are_told_apart(
    runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = runs.parent / "other"
    store(other, Sae(threshold=0.2, decoder_scale=0.5))
    for folders in ((runs, other), (other, runs)):
        alone = run(capfd, "compare", *folders, "-b", baseline)
        assert (alone.code, "incomparable: 3 incomparable; 4 new" in alone.out) == (1, True)
        both = runs.parent / "both.json"
        assert run(capfd, "baseline", "save", *folders, "-o", both, "--force").code == 0
        assert sorted(names(both)) == [
            "other/prolu/0.2", "runs/prolu/0.2", "runs/prolu/0.35", "runs/prolu/0.5",
        ]  # fmt: skip
        assert run(capfd, "compare", *folders, "-b", both).code == 0


@pytest.mark.parametrize("name", ["baseline", "baseline.safetensors", "runs"])
def test_a_name_that_would_overwrite_a_baselines_sums_is_refused(
    name: str, runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in runs.parent.glob("*.*")}
    refused = run(capfd, "baseline", "save", runs, "-o", runs.parent / name, "--force")
    assert refused.code == 2
    assert "let it end in .json" in refused.err
    assert {path: path.read_bytes() for path in runs.parent.glob("*.*")} == before


def test_the_verdict_is_said_even_where_a_file_cannot_be_written(
    runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = run(capfd, "compare", runs, "-b", baseline, "--json", "--html", runs)
    assert ran.code == 2
    assert ran.json()["verdict"] == "pass"
    assert f"{runs}: cannot be written" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tolerance", "l0=-1%"], ["l0 is better when lower", "l0=+1%"]),
        (["--tolerance", "loss=1"], ["'loss' is not a metric"]),
        (["--frontier", "l0"], ["not a pair of metrics"]),
        (["--match", "("], ["not a regular expression"]),
        (["--only", "nothing"], ["leaves no run of the baseline"]),
        (["--junit", "{tmp}"], ["{tmp}", "cannot be written"]),
        (
            ["--html", "{tmp}/runs/prolu/0.2/evaluation/x/y.html", "-b", "{tmp}/no.json"],
            ["no.json"],
        ),
        (["--alpha", "2"], ["--alpha"]),
    ],
)
def test_options_that_make_no_sense(
    runs: Path, baseline: Path, options: list[str], words: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = [option.format(tmp=runs.parent) for option in options]
    ran = run(capfd, "compare", runs, "-b", baseline, *given)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    for word in words:
        assert word.format(tmp=runs.parent) in ran.err


def test_a_damaged_result_is_named_and_its_run_is_missing(
    runs: Path, baseline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (file,) = (runs / "prolu" / "0.2" / "evaluation").glob("*.json")
    file.write_text(file.read_text()[:100])
    ran = run(capfd, "compare", runs, "-b", baseline, "--json")
    assert ran.code == 1
    assert f"{file}: cannot be read" in ran.err
    (row,) = [row for row in ran.json()["runs"] if row["verdict"] == "incomparable"]
    assert (row["run"], row["metric"]) == ("prolu/0.2", None)
    for path in runs.rglob("*.json"):
        path.unlink()
    assert run(capfd, "compare", runs, "-b", baseline).code == 2


def test_a_folder_without_results_is_told_what_to_run_on_either_side(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bare = runs.parent / "bare"
    bare.mkdir()
    remedy = f"{bare}: holds no results; run `prolu-eval evaluate` on it first.\n"
    for folders in ((bare, runs), (runs, bare)):
        ran = run(capfd, "compare", *folders)
        assert (ran.code, ran.err) == (2, f"prolu-eval: {remedy}")
