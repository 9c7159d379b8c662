"""The time, memory and page size of a large sweep's report, and the time to its first figure.

python benchmarks/report.py [--runs 1000] [--features 16384] [--sequences 1024]

Writes synthetic results into a temporary folder (several hundred MB), runs `prolu-eval report` on
it in a process of its own, and opens the page in Chromium if it is installed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from prolu_eval.analysis import is_nondominated
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import estimate
from prolu_eval.metrics import COLUMNS, METRICS
from prolu_eval.results import (
    PER_FEATURE,
    PER_SEQUENCE,
    RESPONSE,
    Result,
    RunSummary,
    Setting,
    write_result,
)

LABELS = ("relu+l1", "relu+sqrt_l1", "prolu/relu+l1", "prolu/ste+l1")


def made(index: int, n_features: int, n_sequences: int) -> Result:
    """A random result near the frontier of its variant."""
    rng = np.random.default_rng(index)
    label, l0 = LABELS[index % 4], float(np.exp(rng.uniform(1, 5.5)))
    sums = {column: rng.gamma(40, 3, n_sequences) for column in COLUMNS}
    sums["n"] = sums["n_next"] = np.full(n_sequences, 120.0)
    sums["l0"] = 120 * l0 * rng.gamma(50, 1 / 50, n_sequences)
    sums["ce_clean"] = 120 * rng.gamma(50, 1 / 25, n_sequences)
    damage = 120 * (3 - 0.3 * (index % 4)) / l0**0.8
    sums["ce_spliced"] = sums["ce_clean"] + damage * rng.gamma(50, 1 / 50, n_sequences)
    metrics = {
        key: estimate(metric, sums) if metric.denominator else Estimate(value=float(rng.random()))
        for key, metric in METRICS.items()
        if not metric.needs_truth
    }
    names = ("firing_rate", "mean_when_active", "max", "bias", "effective_threshold", "alignment")
    features = {name: rng.random(n_features, np.float32) for name in names}
    curves = {
        "features": np.arange(8), "scales": np.linspace(0, 2, 41, dtype="f4"),
        "activations": rng.random((8, 41), np.float32), "pre_activations": np.ones(8, "f4"),
    }  # fmt: skip
    return Result(
        fingerprint=f"{index:032x}",
        run=RunSummary(
            name=f"run{index}", path=f"runs/run{index}", format="native", variant="relu",
            label=label, d_in=768, d_sae=n_features, hook="blocks.8.hook_resid_pre",
            coefficient=10 / l0, seed=0,
        ),
        setting=Setting(
            model="gpt2", model_fingerprint="m", tokens="text", tokens_fingerprint="t",
            n_sequences=n_sequences, context_length=128, n_counted=120 * n_sequences,
            special_tokens="exclude", dtype="float32", metric_version=2,
        ),
        metrics=metrics,
        arrays={PER_SEQUENCE + k: v for k, v in sums.items()}
        | {PER_FEATURE + k: v for k, v in features.items()}
        | {RESPONSE + k: v for k, v in curves.items()},
    )  # fmt: skip


def first_figure(page: Path) -> float | None:
    """Milliseconds from opening a page until its first figure is drawn; None without a browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1440, "height": 2400})
        start = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector(".plot .main-svg .points path", state="attached")
        taken = 1000 * (time.perf_counter() - start)
        browser.close()
    return taken


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--sequences", type=int, default=1024)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(chosen.runs):
            write_result(
                made(i, chosen.features, chosen.sequences),
                Path(folder) / f"run{i}" / "evaluation",
            )
        start, before = time.perf_counter(), os.times()
        report = "from prolu_eval.cli import main; from peak import peak_mib; "
        report += f"assert main(['report', {folder!r}]) == 0; print(peak_mib())"
        ran = subprocess.run(
            [sys.executable, "-c", report], check=True, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip
        taken, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        page = Path(folder) / "report.html"
        print(f"report of {chosen.runs} runs x {chosen.features} features: {taken:.1f} s, ", end="")
        print(f"{cpu:.1f} s of CPU time")
        peak = ran.stdout.splitlines()[-1]
        print(f"peak memory {peak} MiB, page {page.stat().st_size / 1e6:.1f} MB")
        shown = first_figure(page)
        print("first figure: no browser" if shown is None else f"first figure: {shown:.0f} ms")
    points = np.random.default_rng(0).random((100_000, 2))
    table = pd.DataFrame(points, columns=["l0", "ce_degradation"])
    start = time.perf_counter()
    is_nondominated(table, "l0", "ce_degradation")
    print(f"frontier of 100,000 points: {1000 * (time.perf_counter() - start):.0f} ms")


if __name__ == "__main__":
    main()
