"""The effect of precision on metrics: ``python benchmarks/precision.py RUNS --tokens FILE``.

Evaluates each run in float64 and in other precisions. For each metric it prints the largest
difference of a run's value from its value in float64, and for comparison the largest value and the
largest standard error.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from prolu_eval.evaluation import EvaluationOptions, evaluate
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result


def evaluated(runs: str, options: argparse.Namespace, dtype: str) -> list[Result]:
    """The results of the runs, evaluated in a precision."""
    with tempfile.TemporaryDirectory() as results:
        chosen = EvaluationOptions(
            tokens=options.tokens, n_tokens=options.n_tokens, device=options.device, dtype=dtype,
            results=Path(results),
        )  # fmt: skip
        outcomes = evaluate(runs, chosen)
    return [outcome.result for outcome in outcomes if outcome.result is not None]


def main() -> None:
    """Parse the options, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs")
    parser.add_argument("--tokens", default="embedded")
    parser.add_argument("--n-tokens", type=int, default=16_384)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    dtypes = ["float32", "bfloat16"]
    if torch.device(options.device).type == "cuda":
        dtypes[1:1] = ["tf32", "float16"]
    exact = evaluated(options.runs, options, "float64")
    found = {dtype: evaluated(options.runs, options, dtype) for dtype in dtypes}
    print(f"| metric | value (largest) | standard error | {' | '.join(dtypes)} |")
    print("|---|---|---|" + "---|" * len(dtypes))
    for key in filter(exact[0].metrics.__contains__, METRICS):
        scalars = [result.metrics[key] for result in exact]
        value = max(abs(scalar.value or 0) for scalar in scalars)
        error = max(scalar.standard_error or 0 for scalar in scalars)
        cells = []
        for dtype in dtypes:
            others = [result.metrics[key] for result in found[dtype]]
            pairs = zip(scalars, others, strict=True)
            cells.append(f"{max(abs((a.value or 0) - (b.value or 0)) for a, b in pairs):.2g}")
        print(f"| {key} | {value:.4g} | {error:.2g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
