"""Stores the results of a whole sweep in two or three small files, without weights or paths.

``NAME.json`` and ``NAME.safetensors`` are a baseline (:mod:`prolu_eval.baseline`) of the runs.
``NAME-history.json``, written if tables need it, has a few steps of each run's training history
from first to last, the last histogram of its encoder biases, and the number of tokens that it was
trained on.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from prolu_eval.baseline import load_baseline, save_baseline
from prolu_eval.json_text import loads
from prolu_eval.results import PER_SEQUENCE, Result, read_result, result_files, write_json

COLUMNS = ("n", "n_next", "l0", "l1", "sqrt_l1", "squared_error", "squared_deviation",
           "x_hat_squared", "x_hat_dot_x", "ce_clean", "ce_spliced")  # fmt: skip
METRICS = ("l0", "l1", "sqrt_l1", "mse", "explained_variance", "ce_clean", "ce_degradation",
           "relative_reconstruction_bias", "dead_fraction", "bias_negative_fraction")  # fmt: skip
HISTORY = ("bias_negative_fraction", "gradient_norm_W_enc", "gradient_norm_b_enc",
           "exact_gradient_norm_W_enc", "gradient_cosine_W_enc", "l0", "explained_variance",
           "dead_fraction")  # fmt: skip
# The name of the last histogram of encoder biases, over BIAS_EDGES.
BIASES = "bias_histogram"
# The name of the number of tokens that a run was trained on.
TOKENS = "tokens_trained"
BIAS_EDGES = np.linspace(-4, 4, 81)
_HISTORY_POINTS = 11

History = dict[str, list[float]]


def collect(runs: Path, out: Path, source: dict[str, str]) -> None:
    """Store the results below a folder; ``source`` replaces the paths of model and tokens."""
    names = gather(runs, out, source, METRICS, COLUMNS)
    write_json(_history(out), {name: _logged(runs / name) for name in names})


def gather(
    runs: Path, out: Path, source: dict[str, str], metrics: Sequence[str], columns: Sequence[str]
) -> list[str]:
    """Store the given metrics and sums of the results below a folder; return the runs' names."""
    results = [
        _reduced(read_result(path), source, metrics, columns) for path in result_files([runs])
    ]
    if len({result.setting for result in results}) != 1:
        raise SystemExit(f"{runs}: holds results of several settings; remove all but one setting's")
    save_baseline(results, out.with_suffix(".json"))
    return [result.run.name for result in results]


def _reduced(
    result: Result, source: dict[str, str], metrics: Sequence[str], columns: Sequence[str]
) -> Result:
    """A result with only the metrics and sums that the tables need, the sums in float32."""
    sums = {column: result.per_sequence()[column].astype(np.float32) for column in columns}
    return result.model_copy(
        update={
            "setting": result.setting.model_copy(update=source),
            "metrics": {key: result.metrics[key] for key in metrics if key in result.metrics},
            "arrays": {PER_SEQUENCE + column: rows for column, rows in sums.items()},
        }
    )


def _logged(run: Path) -> History:
    history = load_file(run / "history.safetensors")
    found = {}
    for name in HISTORY:
        if name in history:
            at = np.linspace(0, len(history[name]) - 1, _HISTORY_POINTS).round().astype(int)
            found[name] = [float(f"{value:.5g}") for value in history[name][at]]
    if BIASES in history:
        found[BIASES] = history[BIASES][-1].tolist()
    found[TOKENS] = [loads((run / "config.json").read_text(encoding="utf-8"))["tokens_seen"]]
    return found


def _history(path: Path) -> Path:
    return path.with_name(f"{path.name}-history.json")


def read(path: Path) -> tuple[list[Result], dict[str, History]]:
    """The results and the training histories by run's name that :func:`collect` wrote."""
    histories = loads(_history(path).read_text(encoding="utf-8"))
    return load_baseline(path.with_suffix(".json")), histories
