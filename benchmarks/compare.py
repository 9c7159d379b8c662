"""How long ``prolu-eval compare`` takes for many stored runs and a baseline of them.

python benchmarks/compare.py [--runs 500] [--sequences 1024]

Writes results as an evaluation stores them, with random sums, into a temporary folder, and times
the command from its start to its exit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from prolu_eval.baseline import save_baseline
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import estimate
from prolu_eval.metrics import COLUMNS, METRIC_VERSION, METRICS
from prolu_eval.results import PER_FEATURE, PER_SEQUENCE, Result, RunSummary, Setting, write_result


def made_result(index: int, n_sequences: int, d_sae: int) -> Result:
    """A result with one of five labels, with metrics computed from gamma-distributed sums."""
    rng = np.random.default_rng(index)
    sums = {column: 127 * rng.gamma(20, 1 / 20, n_sequences) for column in COLUMNS}
    sums["n"] = sums["n_next"] = np.full(n_sequences, 127.0)
    sums["l0"] *= 5 + index % 100
    sums["ce_spliced"] = sums["ce_clean"] * (1 + 1 / (5 + index % 100))
    label = f"variant{index % 5}+l1"
    name = f"{label}_{index}"
    return Result(
        fingerprint=f"{index:032x}",
        run=RunSummary(
            name=name, path=f"runs/{name}", format="native", variant="relu", label=label, d_in=768,
            d_sae=d_sae, hook="blocks.8.hook_resid_pre", coefficient=index / 100, seed=0,
        ),
        setting=Setting(
            model="gpt2", model_fingerprint="m" * 32, tokens="text.txt",
            tokens_fingerprint="t" * 32, n_sequences=n_sequences, context_length=128,
            n_counted=127 * n_sequences, special_tokens="exclude", dtype="float32",
            metric_version=METRIC_VERSION,
        ),
        metrics={
            key: estimate(metric, sums) if metric.denominator else Estimate(value=0.0)
            for key, metric in METRICS.items()
            if not metric.needs_truth
        },
        arrays={PER_SEQUENCE + column: values for column, values in sums.items()}
        | {PER_FEATURE + "firing_rate": np.zeros(d_sae, np.float32)},
    )  # fmt: skip


def main() -> None:
    """Write the files, and time the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--sequences", type=int, default=1024)
    parser.add_argument("--d-sae", type=int, default=24_576)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = [made_result(i, chosen.sequences, chosen.d_sae) for i in range(chosen.runs)]
        for result in results:
            write_result(result, folder / "runs" / result.run.name / "evaluation")
        save_baseline(results, folder / "baseline.json")
        size = sum(path.stat().st_size for path in folder.glob("baseline.*"))
        print(f"{chosen.runs} runs, {chosen.sequences} sequences; baseline {size / 1e6:.1f} MB")
        command = [sys.executable, "-m", "prolu_eval", "compare", folder / "runs", "--baseline",
                   folder / "baseline.json", "--html", folder / "comparison.html"]  # fmt: skip
        for _ in range(chosen.repeats):
            start, before = time.perf_counter(), os.times()
            done = subprocess.run(command, capture_output=True, text=True)
            wall, after = time.perf_counter() - start, os.times()
            cpu = sum(after[2:4]) - sum(before[2:4])
            print(f"{wall:.2f} s ({cpu:.2f} s of CPU): {done.stdout.splitlines()[-1]}")


if __name__ == "__main__":
    main()
