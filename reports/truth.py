"""What the four sweeps recover of known features: trains, evaluates, and writes tables with text.

    python reports/truth.py runs-truth            # everything: 2 benchmarks, 144 runs
    python reports/truth.py runs-truth --short    # one seed and every other coefficient
    python reports/truth.py                       # only the tables, from reports/results

The parts of the results that the tables need are stored in ``reports/results/truth-*``, the tables
in ``reports/tables-truth.md``; with ``--short`` both are stored in the folder of the runs. The text
is generated from the results, so that it always agrees with them.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from collected import gather

from prolu_eval import EvaluationOptions, evaluate, frontier, train
from prolu_eval.baseline import load_baseline
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import contrast, with_interval
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result, frame
from prolu_eval.training import Settings, SweepFile, read_sweep_file

HERE = Path(__file__).parent
BENCHMARKS = ("wide-magnitudes", "hierarchy")
_ASKED = {"wide-magnitudes": ("nmse", "feature_f1", "magnitude_r2"),
          "hierarchy": ("nmse", "feature_f1", "absorption")}  # fmt: skip
_SHOWN = ("l0", "nmse", "mcc", "recovered_fraction", "feature_f1", "magnitude_slope",
          "magnitude_intercept", "magnitude_r2", "absorption", "splitting")  # fmt: skip
_TOKENS = 32_768
_STORED = (*_SHOWN, "ideal_l0")
_SUMMED = [METRICS[key] for key in ("l0", "nmse", "feature_f1", "absorption")]
_COLUMNS = sorted({column for metric in _SUMMED
                   for column in (*metric.numerator, *metric.denominator)})  # fmt: skip


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
    """The mean over seeds with its t interval; a single seed has no interval."""
    known = values.dropna().to_numpy(float)
    if not len(known):
        return Estimate(value=None)
    n = len(known)
    error = known.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return with_interval(float(known.mean()), float(error), n - 1)


def table(results: pd.DataFrame) -> list[str]:
    """The table of configurations, in order of variant and coefficient."""
    keys = [key for key in _SHOWN if key in results and results[key].notna().any()]
    lines = [f"| variant | coefficient | {' | '.join(keys)} |", "|---|---|" + "---|" * len(keys)]
    for (label, coefficient), rows in results.groupby(["label", "coefficient"]):
        cells = [f"{over_seeds(rows[key])}" for key in keys]
        lines.append(f"| {label} | {coefficient:g} | {' | '.join(cells)} |")
    return lines


def at_the_truth(results: pd.DataFrame) -> pd.DataFrame:
    """For each variant and seed, the run whose L0 is nearest to the true features' L0."""
    distance = np.log(results["l0"] / results["ideal_l0"]).abs()
    nearest = distance.groupby([results["label"], results["seed"]]).idxmin()
    return results.loc[nearest]


def motivation(results: pd.DataFrame) -> list[str]:
    """How the runs nearest to the true features' L0 recover magnitudes."""
    chosen = at_the_truth(results)
    lines = ["For each variant and seed, the run whose L0 is nearest to the true features' L0 "
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
    """What a line of recovered against true magnitudes means, as far as its intervals allow."""
    if slope.value is None or intercept.value is None:
        return "no feature is recovered, so there is no line"
    if slope.low is None or intercept.low is None or slope.high is None:
        return "one seed, so there are no intervals for the line"
    through = not intercept.excludes_zero
    whole = slope.low <= 1 <= slope.high
    if through and whole:
        return "the line cannot be told from that of the whole ray"
    if through:
        shrunk = "shrinks" if slope.value < 1 else "stretches"
        return f"the line cannot be told from one through zero, which {shrunk} the whole ray alike"
    if whole:
        return "what is recovered differs from the truth by a constant"
    meeting = intercept.value / (1 - slope.value)
    if meeting > 0:
        return f"recovered and true magnitude agree only at {meeting:.2g} of the mean"
    return "recovered and true magnitude agree nowhere on the ray"


def differences(results: pd.DataFrame) -> list[str]:
    """How much nearer to the whole ray ProLU's lines are than ReLU's, by Welch's intervals."""
    chosen = at_the_truth(results)
    lines = ["For the same runs, each ProLU variant minus each ReLU variant:", ""]
    by_label = {str(label): rows for label, rows in chosen.groupby("label")}
    for one in (label for label in by_label if label.startswith("prolu")):
        for other in (label for label in by_label if label.startswith("relu")):
            parts = []
            for name, key, ideal in (
                ("abs(intercept)", "magnitude_intercept", 0.0),
                ("abs(slope - 1)", "magnitude_slope", 1.0),
                ("R2", "magnitude_r2", None),
            ):
                found = _less(by_label[one][key], by_label[other][key], ideal)
                parts.append(f"{name} {found:+}")
            lines.append(f"- {one} minus {other}: {', '.join(parts)}")
    return lines


def _less(first: "pd.Series[float]", second: "pd.Series[float]", ideal: float | None) -> Estimate:
    """The difference of two means over seeds, or of their mean distances from an ideal."""
    sides = [side.dropna().to_numpy(float) for side in (first, second)]
    if ideal is not None:
        sides = [np.abs(side - ideal) for side in sides]
    if min(map(len, sides)) == 0:
        return Estimate(value=None)
    means = [float(side.mean()) for side in sides]
    pulls = [(side - mean) / len(side) for side, mean in zip(sides, means, strict=True)]
    return contrast(means[0] - means[1], pulls[0], pulls[1], paired=False)[0]


def section(benchmark: str, results: Sequence[Result]) -> list[str]:
    """The table and the text of one benchmark."""
    lines = [f"## {benchmark}", ""]
    for y in _ASKED[benchmark]:
        lines += [f"{y}: {frontier(results, y=y).sentence}", ""]
    of_runs = frame(results)
    told = [*motivation(of_runs), "", *differences(of_runs)]
    return [*lines, *told, "", *table(of_runs), ""]


def tables(folder: Path) -> str:
    """The tables and the text of the results in a folder, by benchmark."""
    lines = [
        "# The four sweeps on known features", "",
        "Written by `reports/truth.py` from its results. Numbers are means over seeds, with 95 % "
        "intervals in brackets; there are no brackets for a single seed. Lines of magnitudes are "
        "for recovered features only, which are not the same in all variants.", "",
    ]  # fmt: skip
    for benchmark in BENCHMARKS:
        lines += section(benchmark, load_baseline(stored(folder, benchmark)))
    return "\n".join(lines)


def stored(folder: Path, benchmark: str) -> Path:
    """The file of a benchmark's stored results."""
    return folder / f"truth-{benchmark}.json"


def measure(runs: Path, results: Path, *, short: bool) -> None:
    """Train and evaluate runs that the folder does not have, and store what the tables need."""
    begun, n = time.monotonic(), 0
    for benchmark in BENCHMARKS:
        folder = runs / benchmark
        n += len(train(grid(benchmark, short), folder, Settings(progress=True)))
        evaluate(folder, EvaluationOptions(n_tokens=_TOKENS), progress=True)
        gather(folder, stored(results, benchmark), {}, _STORED, _COLUMNS)
    minutes = (time.monotonic() - begun) / 60
    print(f"{n} runs in {minutes:.1f} minutes on {torch.get_num_threads()} threads")  # noqa: T201


def main() -> None:
    """Train and evaluate runs if a folder is named, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    results, place = HERE / "results", HERE
    if arguments.short and arguments.runs is not None:
        results = place = arguments.runs
    if arguments.runs is not None:
        measure(arguments.runs, results, short=arguments.short)
    (place / "tables-truth.md").write_text(tables(results), encoding="utf-8")


if __name__ == "__main__":
    main()
