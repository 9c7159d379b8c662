"""A sweep over workers trains the same runs as one process, even if workers end."""

from pathlib import Path
from typing import Any

import pytest

from prolu_eval.cluster.pool import Event, Gone, Joined, LocalPool, Worker, service_of
from prolu_eval.errors import ModelError, UsageError
from prolu_eval.training import Settings, Trained, read_sweep_file, sweep, train_sweep
from prolu_eval.training.distributed import SERVICE, train_over
from prolu_eval.training.portions import config_of
from tests.training.test_devices import Noting, assert_same


@pytest.fixture
def alone(sweep_file: Path, tmp_path: Path) -> Path:
    """The runs that one process trains."""
    train_sweep(read_sweep_file(sweep_file), tmp_path / "alone", Settings("cpu"))
    return tmp_path / "alone"


class Ending(LocalPool):
    """Two workers, one of which ends after it has sent a checkpoint; another one starts."""

    out: Path
    ended = False

    def events(self, timeout: float) -> list[Event]:
        found = super().events(timeout)
        stored = [*self.out.glob("training*.checkpoint.safetensors")]
        if stored and not self.ended and self._asked:
            self.ended = True
            victim = self._asked[0][0]
            self._asked = [asked for asked in self._asked if asked[0] != victim]
            new = Worker(100, victim.node, "cpu")
            self._services[new.id] = service_of(self.service, self.config, lambda value: value)
            return [Gone(victim, "killed"), Joined(new), *found]
        return found


def over(monkeypatch: pytest.MonkeyPatch, kind: type[LocalPool], **more: Any) -> list[LocalPool]:
    """Make sweeps train over a pool of two workers."""
    pools: list[LocalPool] = []

    def elsewhere(file: Any, missing: Any, out: Path, settings: Settings, settle: Any) -> None:
        pool = kind(SERVICE, config_of(file, settings), ["a", "b"])
        for name, value in more.items():
            setattr(pool, name, value)
        pools.append(pool)
        train_over(pool, file, missing, out, settings, settle)

    monkeypatch.setattr(sweep, "train_elsewhere", elsewhere)
    monkeypatch.setattr(sweep, "engine_of", lambda on: on)
    return pools


def test_workers_train_what_one_process_trains(
    sweep_file: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(monkeypatch, LocalPool)
    told: list[Trained] = []
    logger = Noting()
    grid = read_sweep_file(sweep_file)
    settings = Settings("cpu", loggers=[logger], on="ray")
    trained = train_sweep(grid, tmp_path / "both", settings, told.append)
    assert {t.status for t in trained} == {"trained"}
    assert trained == told
    assert_same(tmp_path / "both", alone)
    assert logger.runs == {plan.name for plan in grid.plans()}
    assert {t.status for t in train_sweep(grid, tmp_path / "both", settings)} == {"present"}


def test_a_worker_that_ends_leaves_its_checkpoint(
    sweep_file: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "both"
    pools = over(monkeypatch, Ending, out=out)
    settings = Settings("cpu", checkpoint_minutes=0, on="ray")
    trained = train_sweep(read_sweep_file(sweep_file), out, settings)
    assert {t.status for t in trained} == {"trained"}
    assert isinstance(pools[0], Ending)
    assert pools[0].ended
    assert_same(out, alone)


def test_what_cannot_be_trained_is_told(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(monkeypatch, LocalPool)
    sweep_file.write_text(sweep_file.read_text().replace("blocks.1.", "blocks.9."))
    with pytest.raises(ModelError, match=r"blocks\.9\.hook_resid_post"):
        train_sweep(read_sweep_file(sweep_file), tmp_path / "both", Settings("cpu", on="ray"))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="'moon' is no cluster"):
        train_sweep(read_sweep_file(sweep_file), tmp_path / "both", Settings("cpu", on="moon"))
