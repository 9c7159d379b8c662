"""What the four sweeps find of known features: trains, measures, and writes the table and its text.

    python reports/truth.py runs-truth            # all of it: 2 benchmarks, 144 trainings
    python reports/truth.py runs-truth --short    # one seed and every other coefficient

The tables go to ``reports/tables-truth.md``, or with ``--short`` to ``tables-truth.md`` beside the
runs. The text is written from the results, whichever way they come out.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from prolu_eval import EvaluationOptions, evaluate, frontier, load_results, train
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import with_interval
from prolu_eval.training import Settings, SweepFile, read_sweep_file

HERE = Path(__file__).parent
BENCHMARKS = ("wide-magnitudes", "hierarchy")
_ASKED = {"wide-magnitudes": ("nmse", "feature_f1", "magnitude_r2"),
          "hierarchy": ("nmse", "feature_f1", "absorption")}  # fmt: skip
_SHOWN = ("l0", "nmse", "mcc", "recovered_fraction", "feature_f1", "magnitude_slope",
          "magnitude_intercept", "magnitude_r2", "absorption", "splitting")  # fmt: skip
_TOKENS = 32_768


def grid(benchmark: str, short: bool) -> SweepFile:
    """The sweeps on a benchmark; with ``short``, one seed and every other coefficient."""
    file = read_sweep_file(HERE / "sweeps" / "truth.toml", model=f"synthetic:{benchmark}")
    if not short:
        return file
    document = file.model_dump()
    document["within"]["seeds"] = [0]
    for sweep in document["sweep"]:
        sweep["coefficients"] = sweep["coefficients"][::2]
    return SweepFile.model_validate(document)


def over_seeds(values: "pd.Series[float]") -> Estimate:
    """The mean over trainings, with its t interval; none of a single one."""
    known = values.dropna().to_numpy(float)
    if not len(known):
        return Estimate(value=None)
    n = len(known)
    error = known.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return with_interval(float(known.mean()), float(error), n - 1)


def table(results: pd.DataFrame) -> list[str]:
    """One line for each configuration, in order of variant and coefficient."""
    keys = [key for key in _SHOWN if key in results and results[key].notna().any()]
    lines = [f"| variant | coefficient | {' | '.join(keys)} |", "|---|---|" + "---|" * len(keys)]
    for (label, coefficient), rows in results.groupby(["label", "coefficient"]):
        cells = [f"{over_seeds(rows[key])}" for key in keys]
        lines.append(f"| {label} | {coefficient:g} | {' | '.join(cells)} |")
    return lines


def at_the_truth(results: pd.DataFrame) -> pd.DataFrame:
    """Of each variant and seed, the run whose L0 is nearest to that of the truth."""
    distance = np.log(results["l0"] / results["ideal_l0"]).abs()
    nearest = distance.groupby([results["label"], results["seed"]]).idxmin()
    return results.loc[nearest]


def motivation(results: pd.DataFrame) -> list[str]:
    """What the runs nearest to the truth's L0 say of how magnitudes are recovered."""
    chosen = at_the_truth(results)
    lines = ["Of each variant and seed, the run whose L0 is nearest to that of the truth "
             f"({results['ideal_l0'].mean():.2f}); means over seeds:", ""]  # fmt: skip
    slopes = {}
    for label, rows in chosen.groupby("label"):
        slope, intercept, r2, share, l0 = (
            over_seeds(rows[key])
            for key in ("magnitude_slope", "magnitude_intercept", "magnitude_r2",
                        "recovered_fraction", "l0")
        )  # fmt: skip
        slopes[str(label)] = slope, intercept
        lines.append(f"- {label}: L0 {l0}, features recovered {share:%}, slope {slope}, intercept "
                     f"{intercept}, R2 {r2}: {_reading(slope, intercept)}.")  # fmt: skip
    return lines


def _reading(slope: Estimate, intercept: Estimate) -> str:
    """What a line of recovered against true magnitudes means, as far as its intervals tell."""
    if slope.value is None or intercept.value is None:
        return "no feature is recovered, so there is no line"
    if slope.low is None or intercept.low is None or slope.high is None:
        return "one training, so that no interval says how sure the line is"
    through = not intercept.excludes_zero
    whole = slope.low <= 1 <= slope.high
    if through and whole:
        return "the line is not told from that of the whole ray"
    if through:
        shrunk = "shrinks" if slope.value < 1 else "stretches"
        return f"the line is not told from one through zero, which {shrunk} the whole ray alike"
    if whole:
        return "what is recovered differs from the truth by a constant"
    meeting = intercept.value / (1 - slope.value)
    if meeting > 0:
        return f"recovered and true magnitude agree at {meeting:.2g} of the mean alone"
    return "recovered and true magnitude agree nowhere on the ray"


def section(benchmark: str, runs: Path) -> list[str]:
    """Table and text of one benchmark."""
    results = load_results(runs)
    lines = [f"## {benchmark}", ""]
    for y in _ASKED[benchmark]:
        lines += [f"{y}: {frontier(runs, y=y).sentence}", ""]
    return [*lines, *motivation(results), "", *table(results), ""]


def main() -> None:
    """Train and measure what is not there yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    lines = [
        "# The four sweeps on known features", "",
        "Written by `reports/truth.py` from its results. Means over trainings with other seeds, "
        "in brackets their 95 % intervals; nothing in brackets for a single training.", "",
    ]  # fmt: skip
    begun, n = time.monotonic(), 0
    for benchmark in BENCHMARKS:
        folder = arguments.runs / benchmark
        trained = train(grid(benchmark, arguments.short), folder, Settings(progress=True))
        n += len(trained)
        evaluate(folder, EvaluationOptions(n_tokens=_TOKENS), progress=True)
        lines += section(benchmark, folder)
    minutes = (time.monotonic() - begun) / 60
    print(f"{n} runs in {minutes:.1f} minutes on {torch.get_num_threads()} threads")  # noqa: T201
    place = arguments.runs if arguments.short else HERE
    path = place / "tables-truth.md"
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
