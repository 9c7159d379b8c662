"""An evaluation on several devices gives the same as on one, even if helpers end."""

import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from prolu_eval.cli import main
from prolu_eval.devices import devices_of
from prolu_eval.errors import UsageError
from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.evaluation.engine import Engine
from prolu_eval.evaluation.shared_work import Rows, SharedWork
from prolu_eval.processes import Helper
from prolu_eval.progress import Progress
from prolu_eval.results import Result
from tests.evaluation.test_faults import (  # noqa: F401 (fixtures)
    N_RUNS,
    N_SHARDS,
    assert_same,
    options_of,
    undisturbed,
    work,
)

pytestmark = pytest.mark.deep


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROLU_EVAL_CACHE", str(tmp_path / "cache"))


def on_two(work: Path, results: Path) -> EvaluationOptions:  # noqa: F811
    return replace(options_of(work, results), device="cpu,cpu")


def waiting_for_its_helper(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Make this process wait until a helper has measured something, and then call ``then``."""
    measure = Engine.measure_saes
    pending = [then]

    def waiting(self: Engine, saes: object, rows: object = None) -> object:
        if pending:
            folder = Path(os.environ["PROLU_EVAL_CACHE"]).parent / "results"
            end = time.monotonic() + 120
            while not any(folder.rglob("*.parts/*.safetensors")):
                assert time.monotonic() < end, "the helper measures nothing"
                time.sleep(0.01)
            pending.pop()()
        return measure(self, saes, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "measure_saes", waiting)


def test_two_processes_give_what_one_gives(
    work: Path,  # noqa: F811
    undisturbed: dict[str, Result],  # noqa: F811
    tmp_path: Path,
    helpers: list[Helper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []
    update = Progress.update

    def noting(self: Progress, n: int = 1, note: str = "") -> None:
        counted.append(n)
        update(self, n, note)

    monkeypatch.setattr(Progress, "update", noting)
    waiting_for_its_helper(monkeypatch, lambda: None)
    outcomes = evaluate(work / "runs", on_two(work, tmp_path / "results"))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert_same(tmp_path / "results", undisturbed)
    (helper,) = helpers
    assert helper.is_done
    n_rows = next(iter(undisturbed.values())).setting.n_sequences
    assert sum(counted) == (N_RUNS + 2) * n_rows, "one progress, to the end"
    again = evaluate(work / "runs", on_two(work, tmp_path / "results"))
    assert {outcome.status for outcome in again} == {"cached"}


def test_a_killed_helper_loses_nothing(
    work: Path,  # noqa: F811
    undisturbed: dict[str, Result],  # noqa: F811
    tmp_path: Path,
    helpers: list[Helper],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting_for_its_helper(monkeypatch, lambda: os.kill(helpers[0].pid, signal.SIGKILL))
    outcomes = evaluate(work / "runs", on_two(work, tmp_path / "results"))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert_same(tmp_path / "results", undisturbed)
    assert "on cpu ended early (ended by SIGKILL); its work was done by the others" in caplog.text


def test_an_interruption_ends_the_helpers_and_the_next_call_goes_on(
    work: Path,  # noqa: F811
    undisturbed: dict[str, Result],  # noqa: F811
    tmp_path: Path,
    helpers: list[Helper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with monkeypatch.context() as patch:
        waiting_for_its_helper(patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            evaluate(work / "runs", on_two(work, tmp_path / "results"))
    (helper,) = helpers
    assert helper.is_done
    kept = list((tmp_path / "results").rglob("*.parts/*.safetensors"))
    assert 0 < len(kept) < N_RUNS * N_SHARDS
    evaluate(work / "runs", options_of(work, tmp_path / "results"))
    assert_same(tmp_path / "results", undisturbed)


def broken_runs(run: Path, runs: Path) -> Path:
    """Copies of a run in a folder: one intact, one with infinite weights, one truncated."""
    shutil.copytree(run, runs / "1")
    for name, value in (("infinite", math.inf), ("cut", 0.5)):
        shutil.copytree(run, runs / name)
        weights = load_file(runs / name / "sae.safetensors")
        weights["W_dec"][:] = value
        save_file(weights, runs / name / "sae.safetensors")
    (runs / "cut" / "sae.safetensors").write_bytes(b"cut off")
    return runs


def test_failures_are_those_of_one_process(
    work: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    runs = broken_runs(work / "runs" / "1", tmp_path / "runs")
    options = on_two(work, tmp_path / "results")
    on_one = evaluate(runs, replace(options, device="cpu", results=tmp_path / "others"))
    on_both = evaluate(runs, options)
    assert [(o.name, o.status, o.error) for o in on_both] == [
        (o.name, o.status, o.error) for o in on_one
    ]
    assert [o.status for o in on_both] == ["ok", "failed", "failed"]


@pytest.mark.parametrize(
    ("device", "reason"),
    [("cpu,nowhere", "'nowhere' is no device"), ("all", "there is none"), ("cpu,", "''")],
)
def test_devices_that_are_not_there(
    device: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=reason):
        devices_of(device)
    assert main(["evaluate", ".", "--device", device]) == 2
    assert reason in capfd.readouterr().err


def test_shares_and_rows() -> None:
    assert list(SharedWork(1, 3).shares("abcdefg")) == ["be", "cf", "adg"]
    assert list(SharedWork(0, 3).shares("a")) == ["a"]

    class Reported(SharedWork):
        reported = 0

        def rows(self, group: int) -> int:
            return self.reported

    shared_work = Reported()
    with Progress("x", "row", shown=False) as shown:
        rows = Rows(shown, shared_work, 0)
        rows.update(2)
        shared_work.reported = 5
        rows.skipped(0)
        assert shown._done == 7
        rows.skipped(3)
        assert shown._done == 7, "a helper has told of them"
        rows.skipped(4)
        assert shown._done == 9
