"""The memory of the process that drives an evaluation on a cluster.

``python benchmarks/cluster_memory.py`` drives evaluations of 10, 1,000 and 10,000 runs, whose
workers repeat the answers that a real one gives for a first run, and prints the peak memory of the
driving process.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import peak
from cluster import _made

from prolu_eval.checkpoints import discover
from prolu_eval.cluster.pool import Answered, Event, Joined, LocalPool, Worker
from prolu_eval.evaluation import EvaluationOptions
from prolu_eval.evaluation.conditions import conditions_of
from prolu_eval.evaluation.distributed import SERVICE, Distribution, config_of
from prolu_eval.runs import Run


class Recording(LocalPool):
    """A worker within this process, whose answers are kept by what was asked."""

    def __init__(self, options: EvaluationOptions) -> None:
        super().__init__(SERVICE, config_of(options), ["here"])
        self.answers: dict[tuple[str, Any], dict[str, Any]] = {}

    def events(self, timeout: float) -> list[Event]:
        """The events of the worker."""
        asked = self._asked[0][2] if self._asked else {}
        found = super().events(timeout)
        for event in found:
            if isinstance(event, Answered):
                self.answers[asked["do"], asked.get("rows")] = event.answer
        return found


class Repeating(LocalPool):
    """Workers that answer for every run what a real one answered for a first run."""

    def __init__(self, answers: dict[tuple[str, Any], dict[str, Any]]) -> None:
        super().__init__("", {}, ["a", "b", "c", "d"])
        self._answers, self._joined = answers, False

    def events(self, timeout: float) -> list[Event]:
        """The workers at the first call, and then the answer to the oldest message."""
        del timeout
        if not self._joined:
            self._joined = True
            return [Joined(Worker(i, node, "cpu")) for i, node in enumerate(self.nodes)]
        if not self._asked:
            return []
        worker, call, message = self._asked.pop(0)
        names = message["names"]
        answer = self._answers[message["do"], message.get("rows")]
        if message["do"] == "measure":
            (part,) = answer["parts"].values()
            copies = {name: {key: array.copy() for key, array in part.items()} for name in names}
            answer = {"parts": copies, "failed": {}, "seconds": 0.01 * len(names)}
        elif message["do"] == "assemble":
            first = answer["result"]
            answer = {"result": first.model_copy(
                update={"run": first.run.model_copy(update={"name": names[0]})}
            )}  # fmt: skip
        return [Answered(worker, call, answer)]


def measure(options: argparse.Namespace) -> None:
    """Print the peak memory of a process that drives evaluations of few and of many runs."""
    if options.runs is not None:
        _drive(options)
        return
    for n in (10, 1000, 10_000):
        for kept in ([], ["--kept"]):
            command = [sys.executable, __file__, "--runs", str(n), *kept]
            subprocess.run([*command, "--shards", str(options.shards)], check=True)


def _drive(options: argparse.Namespace) -> None:
    """Print the peak memory of driving the evaluation of one number of runs."""
    shards, rows = options.shards, 2
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        os.environ["PROLU_EVAL_CACHE"] = f"{folder}/cache"
        made = _made(Path(folder), argparse.Namespace(runs=1, d_sae=64))
        chosen = EvaluationOptions(
            tokens="embedded", n_tokens=shards * rows * 128, shard_tokens=rows * 128,
            device="cpu", results=Path(folder, "results"),
        )  # fmt: skip
        (run,) = (run for run in discover(made) if isinstance(run, Run))
        recording = Recording(chosen)
        conditions = conditions_of(run, chosen)
        list(Distribution({conditions: [run]}, chosen, recording, False).outcomes())
        runs = [replace(run, name=f"{i:06}") for i in range(options.runs)]
        pool = Repeating(recording.answers)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was free before would hide new use
        peak.reset()
        before, began = peak.peak_mib(), time.monotonic()
        outcomes = Distribution({conditions: runs}, chosen, pool, False).outcomes()
        kept = list(outcomes) if options.kept else [outcome.status for outcome in outcomes]
        mib, seconds = peak.peak_mib() - before, time.monotonic() - began
    what = "outcomes kept" if options.kept else "outcomes dropped"
    print(
        f"{len(kept):,} runs on {shards} shards, {what}: peak {mib} MiB beyond the {before} MiB "
        f"before, {seconds:.0f} s"
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, help="drive so many, instead of 10, 1,000 and 10,000")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--kept", action="store_true", help="keep all outcomes until the end")
    parser.add_argument("--folder", help="for parts and results [default: the temporary folder]")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
