"""A sweep on several devices trains the same runs as on one, even if helpers end."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prolu_eval.errors import Interrupted
from prolu_eval.processes import Helper
from prolu_eval.progress import Progress
from prolu_eval.training import Settings, Trained, read_sweep_file, train_sweep
from prolu_eval.training.checkpoint import CHECKPOINT_FILE, checkpoint_file
from prolu_eval.training.loop import Training
from tests.helpers.cli import run


class Noting:
    """A logger that stores the values that it receives."""

    def __init__(self) -> None:
        self.runs: set[str] = set()

    def log(self, run: str, step: int, values: dict[str, float]) -> None:
        assert values["l0"] >= 0
        self.runs.add(run)

    def close(self) -> None:
        pass


def assert_same(got: Path, expected: Path) -> None:
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in got.iterdir()} == names
    for name in names:
        assert (got / name / "config.json").read_bytes() == (
            expected / name / "config.json"
        ).read_bytes()
        for file in ("sae.safetensors", "history.safetensors"):
            ours, theirs = load_file(got / name / file), load_file(expected / name / file)
            assert ours.keys() == theirs.keys()
            for key, tensor in theirs.items():
                torch.testing.assert_close(ours[key], tensor, rtol=1e-4, atol=1e-5, equal_nan=True)


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, work: Callable[[], object]) -> None:
    """Call ``work`` once, after the given step of this process."""
    step = Training._step
    pending = [work]

    def stepping(self: Training, n: int) -> None:
        step(self, n)
        if n == number and pending:
            pending.pop()()

    monkeypatch.setattr(Training, "_step", stepping)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.01)


@pytest.fixture
def alone(sweep_file: Path, tmp_path: Path) -> Path:
    """The runs that one process trains."""
    train_sweep(read_sweep_file(sweep_file), tmp_path / "alone", Settings("cpu"))
    return tmp_path / "alone"


def test_two_processes_train_what_one_trains(
    sweep_file: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    update = Progress.update

    def noting(self: Progress, n: int = 1, note: str = "") -> None:
        counted.append(n)
        update(self, n, note)

    monkeypatch.setattr(Progress, "update", noting)
    told: list[Trained] = []
    logger = Noting()
    grid = read_sweep_file(sweep_file)
    settings = Settings("cpu,cpu", loggers=[logger])
    trained = train_sweep(grid, tmp_path / "both", settings, told.append)
    assert {t.status for t in trained} == {"trained"}
    assert trained == told
    assert sorted(t.plan.name for t in trained) == sorted(p.name for p in grid.plans())
    assert_same(tmp_path / "both", alone)
    assert logger.runs == {plan.name for plan in grid.plans()}
    assert sum(counted) == 2 * grid.shared.n_steps, "one progress over both"
    again = train_sweep(grid, tmp_path / "both", settings)
    assert {t.status for t in again} == {"present"}


def test_what_a_killed_helper_leaves_is_done_here(
    sweep_file: Path,
    alone: Path,
    tmp_path: Path,
    helpers: list[Helper],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "both"
    # The helper is ended at once, before it can finish.
    at_step(monkeypatch, 0, lambda: os.kill(helpers[0].pid, signal.SIGKILL))
    trained = train_sweep(read_sweep_file(sweep_file), out, Settings("cpu,cpu"))
    assert {t.status for t in trained} == {"trained"}
    assert_same(out, alone)
    assert "on cpu ended early (ended by SIGKILL)" in caplog.text


def test_an_interrupted_sweep_goes_on_with_any_number_of_devices(
    sweep_file: Path,
    alone: Path,
    tmp_path: Path,
    helpers: list[Helper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "both"
    grid = read_sweep_file(sweep_file)

    def interrupt() -> None:
        wait_for(out / checkpoint_file(1))
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_step(patch, 9, interrupt)
        with pytest.raises(Interrupted, match="step 10 of 64 is stored"):
            train_sweep(grid, out, Settings("cpu,cpu", None, 0.0))
    assert helpers[0].is_done
    assert (out / CHECKPOINT_FILE).exists()
    steps: list[int] = []
    step = Training._step

    def noted(self: Training, number: int) -> None:
        steps.append(number)
        step(self, number)

    monkeypatch.setattr(Training, "_step", noted)
    train_sweep(grid, out, Settings("cpu"))
    begun_at = [n for before, n in zip([-2, *steps], steps, strict=False) if n != before + 1]
    assert 10 in begun_at
    assert 0 not in begun_at, "neither portion begins anew"
    assert_same(out, alone)


def test_the_cost_is_told_for_all_devices(
    sweep_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run(capfd, "sweep", sweep_file, "--dry-run", "--device", "cpu,cpu")
    assert done.code == 0, done.err
    assert "shared by 2 devices like it:" in done.out
