"""Progress is shown as one line a minute without a terminal, and not at all if it is unwanted."""

import re
from pathlib import Path

import pytest

from prolu_eval import progress
from prolu_eval.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the test moves, in seconds."""
    now = [0.0]
    monkeypatch.setattr("prolu_eval.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("blocks.1", "row", 1_000) as shown:
        shown.found(100)
        for step in range(1, 91):
            clock[0] = 4.0 * step  # six minutes in all
            shown.update(10, "L0 7")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0] == (
        "prolu-eval: blocks.1: 25% of 1,000 rows after 1 min, about 5 min left (L0 7)"
    )
    assert (
        lines[-1] == "prolu-eval: blocks.1: 100% of 1,000 rows after 6 min, about 0 s left (L0 7)"
    )


def test_a_short_work_and_a_quiet_one_say_nothing(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress("short", "row", 10) as shown:
        clock[0] = 59
        shown.update(10)
    with Progress("quiet", "row", 10, shown=False) as shown:
        clock[0] = 1_000
        shown.update(5)
    assert capfd.readouterr() == ("", "")


def test_an_evaluation_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from prolu_eval.checkpoints.native import save_run
    from prolu_eval.runs import RunConfig
    from prolu_eval.saes import Relu
    from tests.helpers.cli import run

    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    config = RunConfig(variant="", d_in=1, d_sae=1, hook="blocks.0.hook_resid_post",
                       model="embedded", dataset="embedded")  # fmt: skip
    save_run(tmp_path / "run", Relu(96, 32), config)
    few = ("--n-tokens", 512, "--device", "cpu")
    ran = run(capfd, "evaluate", tmp_path, *few)
    assert "prolu-eval: blocks.0.hook_resid_post: 100% of" in ran.err
    assert run(capfd, "evaluate", tmp_path, "--n-tokens", 256, "--device", "cpu", "-q").err == ""


def test_a_sweep_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.helpers.cli import run

    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    out = sweep_file.parent / "runs"
    said = run(capfd, "sweep", sweep_file, "--out", out, "--device", "cpu").err
    lines = [line for line in said.splitlines() if line.startswith("prolu-eval: training: ")]
    assert len(lines) > 1
    assert lines[-1].startswith("prolu-eval: training: 100% of ")
    filling = [line for line in lines if "(filling the buffer: " in line]
    assert filling, "a buffer may take minutes before the first step"
    assert lines[: len(filling)] == filling
    done, total = re.findall(r"[\d,]+", filling[-1].partition("(")[2])
    assert done == total
    cached = ("--out", f"{out}3", "--cache", f"{out}-cache", "--device", "cpu")
    said = run(capfd, "sweep", sweep_file, *cached).err
    assert said.index("(filling the cache: ") < said.index("(filling the buffer: ")
    quiet = run(capfd, "sweep", sweep_file, "--out", f"{out}2", "--device", "cpu", "-q")
    assert "prolu-eval: training: " not in quiet.err
