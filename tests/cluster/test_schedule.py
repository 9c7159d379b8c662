"""The schedule gives out all units once, so that workers finish at the same time."""

import itertools
import math
import random
import runpy
from argparse import Namespace
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prolu_eval.evaluation.schedule import GivenUp, Schedule, Unit

ROOT = Path(__file__).parent.parent.parent


def schedule_of(n_runs: int, n_shards: int, workers: int, model: str = "m") -> Schedule:
    """A schedule of one prepared group."""
    schedule = Schedule()
    for worker in range(workers):
        schedule.join(worker)
    schedule.add_group(0, model, n_runs)
    (prepare,) = [unit for unit in map(schedule.next, range(workers)) if unit is not None]
    assert prepare.kind == "prepare"
    schedule.done(prepare, 0)
    names = [str(i) for i in range(n_runs)]
    missing = {name: range(n_shards) for name in names}
    schedule.add_runs(0, [10] * n_shards, missing, dict.fromkeys(names, 1))
    return schedule


def drained(schedule: Schedule, workers: int, seconds: float = 0.1) -> list[Unit]:
    """All units, done one after another."""
    units = []
    while found := [(w, u) for w in range(workers) if (u := schedule.next(w)) is not None]:
        for _, unit in found:
            units.append(unit)
            schedule.done(unit, seconds * len(unit.names))
    return units


@pytest.mark.parametrize(("n_runs", "n_shards", "workers"), [(1, 1, 3), (7, 5, 2), (130, 3, 4)])
def test_each_run_is_measured_on_each_shard_once(n_runs: int, n_shards: int, workers: int) -> None:
    units = drained(schedule_of(n_runs, n_shards, workers), workers)
    done = [(name, unit.shard) for unit in units for name in unit.names]
    assert len(done) == len(set(done)) == n_runs * n_shards


def test_what_a_lost_worker_had_is_done_by_another() -> None:
    schedule = schedule_of(4, 6, 2)
    tried = schedule.next(0)
    assert tried is not None
    assert schedule.next(1) is None, "others wait for what the first runs cost"
    schedule.done(tried, 1.0)
    first, other = schedule.next(0), schedule.next(1)
    assert first is not None
    assert other is not None
    schedule.done(other, 1.0)
    assert schedule.leave(0) == []
    rest = drained(schedule, 2)
    done = [(name, unit.shard) for unit in [tried, other, *rest] for name in unit.names]
    assert len(done) == len(set(done)) == 24


def test_a_run_that_ends_workers_is_measured_alone_and_then_given_up() -> None:
    schedule = schedule_of(4, 1, 1)
    ended = 0
    given_up: list[GivenUp] = []
    while not given_up:
        unit = schedule.next(ended)
        assert unit is not None
        if "2" in unit.names:
            given_up = schedule.leave(ended)
            ended += 1
            schedule.join(ended)
        else:
            schedule.done(unit, 1.0)
    assert given_up == [GivenUp(0, ("2",))]
    assert ended == 6


def test_workers_stay_with_their_model() -> None:
    schedule = Schedule()
    for worker in (0, 1):
        schedule.join(worker)
    for key, model in enumerate(("a", "b", "a", "b")):
        schedule.add_group(key, model, 4)
    models: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(40):
        for worker in (0, 1):
            unit = schedule.next(worker)
            if unit is None:
                continue
            models[worker].append(unit.group % 2)
            schedule.done(unit, 1.0)
            if unit.kind == "prepare":
                missing = {f"{unit.group}-{i}": range(4) for i in range(4)}
                schedule.add_runs(unit.group, [10] * 4, missing, {})
            if schedule.is_through(unit.group) and unit.kind == "measure":
                schedule.finish(unit.group)
    for found in models.values():
        changes = sum(now != before for before, now in pairwise(found))
        assert changes <= 1, "it helps with the other model once its own is done"


def test_a_slow_worker_leaves_the_last_units_to_quick_ones() -> None:
    schedule = schedule_of(16, 8, 1)
    for _ in range(2):
        first = schedule.next(0)
        assert first is not None
        schedule.done(first, len(first.names) / 10.0)
    schedule.join(1)
    free, rates, ends = {0: 0.0, 1: 0.0}, {0: 10.0, 1: 0.25}, [0.0]
    under_way: dict[int, Unit] = {}
    idle: set[int] = set()
    while True:
        for worker in (0, 1):
            if worker not in under_way and (unit := schedule.next(worker)) is not None:
                began = max(free[worker], ends[-1] if worker in idle else 0.0)
                idle.discard(worker)
                free[worker] = began + len(unit.names) / rates[worker]
                under_way[worker] = unit
            elif worker not in under_way:
                idle.add(worker)
        if not under_way:
            break
        worker = min(under_way, key=free.__getitem__)
        unit = under_way.pop(worker)
        schedule.done(unit, len(unit.names) / rates[worker])
        ends.append(free[worker])
    ideal = 16 * 8 / sum(rates.values())
    assert max(ends) < 2.2 * ideal, "one unit of the slow worker at the end would take as long"


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_when_workers_end_or_lack_memory(seed: int) -> None:
    """Workers with room for few runs end, refuse units, and fail at single runs, at random."""
    chance = random.Random(seed)
    room, n_runs, n_shards = chance.randrange(1, 6), 24, 5
    schedule = schedule_of(n_runs, n_shards, 3)
    left = {(str(run), shard) for run in range(n_runs) for shard in range(n_shards)}
    under_way: dict[int, list[Unit]] = {0: [], 1: [], 2: []}
    new = itertools.count(3)
    for _ in range(5000):
        for worker, units in under_way.items():
            while (unit := schedule.next(worker)) is not None:
                units.append(unit)
        busy = [worker for worker, units in under_way.items() if units]
        if not busy:
            break
        worker = chance.choice(busy)
        unit = under_way[worker][0]
        held = len({*unit.names, *unit.portion})
        if held > room and (chance.random() < 0.5 or not schedule.halve(unit)):
            del under_way[worker]
            assert not schedule.leave(worker, out_of_memory=True)
            schedule.join(joined := next(new))
            under_way[joined] = []
        elif held > room:
            under_way[worker].remove(unit)
        elif chance.random() < 0.1:
            under_way[worker].remove(unit)
            schedule.again(unit)
        else:
            under_way[worker].remove(unit)
            failing = {n for n in unit.names if len(unit.names) > 1 and chance.random() < 0.1}
            measured = tuple(name for name in unit.names if name not in failing)
            schedule.done(replace(unit, names=measured), 0.1 * held)
            left -= {(name, unit.shard) for name in measured}
            for name in failing:
                schedule.separate(0, name)
    assert not left
    assert schedule.is_through(0)


def test_a_large_job_takes_little_beyond_the_ideal() -> None:
    """The benchmark's simulation, smaller: with and without failures, on even and mixed workers."""
    simulated = runpy.run_path(str(ROOT / "benchmarks" / "cluster.py"), run_name="benchmark")
    costs = simulated["Costs"](0.0013, 0.0013, 0.05, 5.0, 0.01, 0.0005)
    options: Any = Namespace(
        runs=96, shards=64, rows=128, workers=8, seed=1, weight=1 << 20, restart=20.0,
        noise=0.1, assemble=0.2,
    )  # fmt: skip
    for mixed in (False, True):
        for hours in (math.inf, 0.03):
            took, ideal, lost = simulated["_simulated"](options, costs, mixed=mixed, hours=hours)
            # A worker that ends every 108 s and is away for 25 s loses a quarter of its time.
            most = (1.35 if mixed else 1.2) if math.isinf(hours) else 1.7
            assert took < most * ideal, (mixed, hours, took, ideal)
            assert (lost > 0) == (not math.isinf(hours))
