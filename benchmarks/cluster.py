"""The overhead of a cluster: ``python benchmarks/cluster.py measure`` and ``... simulate``.

``measure`` evaluates the same runs in one process, in two processes at one time, and on one and two
workers of a Ray cluster on this machine, each with one thread. It prints rates, and the cost of a
unit besides measuring. On a busy machine CPU time is more reliable than elapsed time; the load is
printed.

``simulate`` runs the schedule of an evaluation with a simulated clock, for runs and shards on
workers with measured costs, noise and failures, and prints how much longer it takes than the ideal.
"""

import argparse
import heapq
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prolu_eval.checkpoints.native import save_run
from prolu_eval.cluster.pool import LocalPool
from prolu_eval.evaluation import EvaluationOptions, evaluate, runner
from prolu_eval.evaluation.distributed import SERVICE, Distribution, config_of
from prolu_eval.evaluation.schedule import Schedule, Unit
from prolu_eval.lm import LanguageModel
from prolu_eval.runs import RunConfig
from prolu_eval.tokens import load_tokens

HOOK = "blocks.1.hook_resid_post"


class Costs(NamedTuple):
    """Costs in seconds.

    ``clean`` is for measuring a row, ``each`` for every run on it, ``load`` for loading an
    autoencoder, ``model`` for starting a worker, ``unit`` for sending a unit, and ``part`` for
    storing a part.
    """

    clean: float
    each: float
    load: float
    model: float
    unit: float
    part: float


def measure(options: argparse.Namespace) -> None:
    """Print the rates of one process, of one worker and of two, and the cost of units."""
    with tempfile.TemporaryDirectory() as folder:
        runs = _made(Path(folder), options)
        os.environ["PROLU_EVAL_CACHE"] = f"{folder}/cache"
        print(f"{options.runs} runs of d_sae {options.d_sae} on {options.n_tokens:,} tokens")
        _evaluated(runs / "0000", Path(folder, "warm"), options)  # fills the cache
        if options.workers:
            _on_workers(runs, Path(folder), options)
            return
        here = _evaluated(runs, Path(folder, "here"), options)
        _print("one process", here, None)
        local = _evaluated(runs, Path(folder, "local"), options, pool=True)
        _print("one worker within it", local, here)
        extra = local["cpu"] - here["cpu"]
        print(
            f"overhead of a unit: {1000 * extra / local['units']:.1f} ms of CPU, "
            f"{extra / here['cpu']:+.1%} of the total ({local['units']} units)"
        )
        if options.local:
            return
        with get_context("spawn").Pool(2) as pool:
            both = pool.starmap(
                _evaluated, [(runs, Path(folder, side), options) for side in ("left", "right")]
            )
        slower = max(found["busy"] for found in both)
        print(
            f"two processes at one time, each with all runs: {here['busy'] / slower:.0%} of twice "
            "one's rate, which is what the machine allows"
        )
        _on_workers(runs, Path(folder), options)


def _on_workers(runs: Path, folder: Path, options: argparse.Namespace) -> None:
    """Print the rates of one worker of Ray and of two."""
    two = _evaluated(runs, folder / "two", options, on="ray", ray="cpus=1,workers=2")
    _print("two workers of Ray", two, None)
    one = _evaluated(runs, folder / "one", options, on="ray", ray="cpus=1,workers=1")
    _print("one worker of Ray", one, two)
    print(
        f"two workers reach {one['busy'] / two['busy'] / 2:.0%} of twice one worker's rate, "
        "from the first stored part to the last"
    )


def _made(folder: Path, options: argparse.Namespace) -> Path:
    from engine import made_sae

    model = LanguageModel.load("embedded", device="cpu")
    rows = load_tokens("embedded", model, split="heldout", n_tokens=4096, context_length=128)
    x = model.activations(rows.ids, HOOK)[rows.counted]
    for i in range(options.runs):
        sae = made_sae(x, options.d_sae, 32, i)
        config = RunConfig(
            variant="", d_in=1, d_sae=1, hook=HOOK, model="embedded", dataset="embedded"
        )
        save_run(folder / "runs" / f"{i:04}", sae, config)
    return folder / "runs"


def _evaluated(
    runs: Path, results: Path, options: argparse.Namespace, *, pool: bool = False, **more: Any
) -> dict[str, float]:
    """The time, the CPU time of this process, and the number of units of an evaluation."""
    torch.set_num_threads(1)
    from prolu_eval.evaluation.parts import Parts

    units, stored = [0], []
    send, write = Distribution._send, Parts.write

    def counting(self: Distribution, *arguments: Any) -> None:
        units[0] += 1
        send(self, *arguments)

    def noting(self: Parts, *arguments: Any) -> None:
        write(self, *arguments)
        stored.append(time.monotonic())

    chosen = EvaluationOptions(
        tokens="embedded", n_tokens=options.n_tokens, shard_tokens=options.shard_tokens,
        device="cpu", results=results, on="ray" if pool else None, **more,
    ) if not more else EvaluationOptions(
        tokens="embedded", n_tokens=options.n_tokens, shard_tokens=options.shard_tokens,
        device="cpu", results=results, **more,
    )  # fmt: skip
    before = runner.workers_on
    if pool:
        runner.workers_on = _within  # type: ignore[assignment]
    Distribution._send, Parts.write = counting, noting  # type: ignore[method-assign]
    began, spent = time.monotonic(), time.process_time()
    try:
        evaluate(runs, chosen)
    finally:
        Distribution._send, Parts.write = send, write  # type: ignore[method-assign]
        runner.workers_on = before
    return {
        "seconds": time.monotonic() - began,
        "busy": stored[-1] - stored[0],
        "cpu": time.process_time() - spent,
        "units": float(units[0]),
    }


class _within:  # noqa: N801 (replaces a function)
    """A pool of one worker in this process."""

    def __init__(self, options: EvaluationOptions) -> None:
        self._pool = LocalPool(SERVICE, config_of(options), ["here"])

    def __enter__(self) -> LocalPool:
        return self._pool

    def __exit__(self, *_: object) -> None:
        self._pool.close()


def _print(what: str, found: dict[str, float], before: dict[str, float] | None) -> None:
    load = os.getloadavg()[0]
    than = "" if before is None else f", {before['busy'] / found['busy']:.2f} times as fast"
    print(
        f"{what}: {found['seconds']:.1f} s, {found['busy']:.1f} s of it measuring{than}; CPU time "
        f"of this process {found['cpu']:.1f} s; load {load:.1f}"
    )


def simulate(options: argparse.Namespace) -> None:
    """Print how long an evaluation takes on many workers, compared with the ideal."""
    costs = Costs(
        options.clean, options.each, options.load, options.model, options.unit, options.part
    )
    work = options.runs * options.shards * options.rows * costs.each
    print(
        f"{options.runs:,} runs x {options.shards:,} shards on {options.workers} workers; "
        f"one worker needs {work / 3600:,.1f} h for the measuring alone"
    )
    print("| workers' speeds | failures | makespan | ideal | over the ideal | losses |")
    print("|---|---|---|---|---|---|")
    for mixed in (False, True):
        for hours in (math.inf, options.mtbf):
            took, ideal, lost = _simulated(options, costs, mixed=mixed, hours=hours)
            speeds = "1 and 1/4" if mixed else "1"
            often = "none" if math.isinf(hours) else f"each worker every {hours:g} h"
            print(
                f"| {speeds} | {often} | {took / 60:.1f} min | {ideal / 60:.1f} min | "
                f"{took / ideal - 1:.1%} | {lost} |"
            )


def _simulated(
    options: argparse.Namespace, costs: Costs, *, mixed: bool, hours: float
) -> tuple[float, float, int]:
    """The makespan, its ideal, and how many workers failed."""
    chance = random.Random(options.seed)
    schedule, order = Schedule(), count()
    names = [f"{i:05}" for i in range(options.runs)]
    rows = [options.rows] * options.shards
    schedule.add_group(0, "model", len(names))
    events: list[tuple[float, int, Callable[[], None]]] = []
    now, free_at, lost = 0.0, 0.0, 0
    alive: dict[int, tuple[float, set[str]]] = {}
    waiting: dict[int, list[tuple[Unit, float]]] = {}
    left = dict.fromkeys(names, options.shards)
    ids = count()

    def at(when: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (when, next(order), what))

    def join(speed: float) -> None:
        worker = next(ids)
        alive[worker], waiting[worker] = (speed, set()), []
        schedule.join(worker)
        if not math.isinf(hours):
            at(now + chance.expovariate(1 / (3600 * hours)), lambda: leave(worker))

    def leave(worker: int) -> None:
        nonlocal lost
        speed, _ = alive.pop(worker)
        del waiting[worker]
        lost += 1
        assert not schedule.leave(worker), "nothing is given up"
        at(now + options.restart + costs.model, lambda: join(speed))

    def hand_out() -> None:
        for worker in list(alive):
            while (unit := schedule.next(worker)) is not None:
                begin(worker, unit)

    def begin(worker: int, unit: Unit) -> None:
        speed, held = alive[worker]
        seconds = costs.unit
        measured = 0.0
        if unit.kind == "measure":
            new = set(unit.portion) - held
            seconds += costs.load * len(new) / speed
            held.difference_update(held - set(unit.portion))
            held.update(unit.portion)
            measured = options.rows * (costs.clean + costs.each * len(unit.names)) / speed
            measured *= math.exp(chance.gauss(0, options.noise))
        elif unit.kind == "mean":
            measured = options.rows * costs.clean / speed
        elif unit.kind == "assemble":
            measured = options.assemble / speed
        starts = max(now, waiting[worker][-1][1] if waiting[worker] else 0)
        ends = starts + seconds + measured
        waiting[worker].append((unit, ends))
        at(ends, lambda: finish(worker, unit, measured))

    def finish(worker: int, unit: Unit, seconds: float) -> None:
        nonlocal free_at
        if worker not in alive:
            return
        waiting[worker] = [w for w in waiting[worker] if w[0] is not unit]
        free_at = max(now, free_at) + costs.part * len(unit.names)  # parts are stored in turn
        at(free_at, lambda: store(unit, seconds))

    def store(unit: Unit, seconds: float) -> None:
        if unit.kind == "prepare":
            schedule.done(unit, 0)
            schedule.add_chores(0, "mean", range(options.shards))
            everything = {name: range(options.shards) for name in names}
            schedule.add_runs(0, rows, everything, dict.fromkeys(names, options.weight))
        elif unit.kind == "measure":
            for name in schedule.done(unit, seconds):
                left[name] -= 1
                if not left[name]:
                    schedule.assemble(0, name)
        else:
            schedule.done(unit, seconds)
            for name in unit.names:
                del left[name]

    for i in range(options.workers):
        at(costs.model, lambda speed=0.25 if mixed and i % 2 else 1.0: join(speed))  # type: ignore[misc]
    while left:
        now, _, what = heapq.heappop(events)
        what()
        hand_out()
    speeds = options.workers * (0.625 if mixed else 1.0)
    ideal = options.runs * options.shards * options.rows * costs.each / speeds
    return now, ideal, lost


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("measure")
    measured.set_defaults(run=measure)
    measured.add_argument("--runs", type=int, default=16)
    measured.add_argument("--d-sae", type=int, default=512)
    measured.add_argument("--n-tokens", type=int, default=131_072)
    measured.add_argument("--shard-tokens", type=int, default=16_384)
    measured.add_argument("--local", action="store_true", help="without Ray")
    measured.add_argument("--workers", action="store_true", help="one and two workers of Ray alone")
    simulated = commands.add_parser("simulate")
    simulated.set_defaults(run=simulate)
    for name, value in (("runs", 1000), ("shards", 1000), ("workers", 64), ("rows", 128),
                        ("seed", 0), ("weight", 1 << 24)):  # fmt: skip
        simulated.add_argument(f"--{name}", type=int, default=value)
    # Measured on one thread of a CPU, with the embedded model and autoencoders of 512 features.
    for name, seconds in (("clean", 0.0030), ("each", 0.0032), ("load", 0.002), ("model", 10.0),
                          ("unit", 0.023), ("part", 0.0006), ("assemble", 1.0), ("mtbf", 4.0),
                          ("restart", 60.0), ("noise", 0.1)):  # fmt: skip
        simulated.add_argument(f"--{name}", type=float, default=seconds)
    chosen = parser.parse_args()
    chosen.run(chosen)


if __name__ == "__main__":
    main()
