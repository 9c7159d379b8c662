"""Results of a whole sweep in two small files: what the tables need, and no weights or paths.

``NAME.json`` has the setting, and of each run its configuration, its scalar metrics and what its
training history ends with; ``NAME.safetensors`` the per-sequence sums, from which intervals follow.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from prolu_eval.estimates import Estimate
from prolu_eval.results import Result, RunSummary, Setting, read_result, result_files

COLUMNS = ("n", "n_next", "l0", "l1", "sqrt_l1", "squared_error", "squared_deviation",
           "x_hat_squared", "x_hat_dot_x", "ce_clean", "ce_spliced")  # fmt: skip
METRICS = ("l0", "l1", "sqrt_l1", "mse", "explained_variance", "ce_clean", "ce_degradation",
           "relative_reconstruction_bias", "dead_fraction", "bias_negative_fraction")  # fmt: skip
HISTORY = ("bias_negative_fraction", "gradient_norm_W_enc", "gradient_norm_b_enc",
           "exact_gradient_norm_W_enc", "gradient_cosine_W_enc")  # fmt: skip
_HISTORY_POINTS = 11


def collect(runs: Path, out: Path, source: dict[str, str]) -> None:
    """Gather the results below a folder; ``source`` replaces paths of model and tokens."""
    results = [read_result(path) for path in result_files([runs])]
    if len({result.setting.model_dump_json() for result in results}) != 1:
        raise SystemExit(f"{runs}: results of one setting are needed; remove the others")
    entries = [_entry(result, runs) for result in results]
    setting = results[0].setting.model_dump() | source
    document = {"setting": setting, "environment": _environment(results[0]), "runs": entries}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(_json(document))
    sums = {
        column: np.stack([result.per_sequence()[column] for result in results]).astype(np.float32)
        for column in COLUMNS
    }
    # What is the same for every run is kept once.
    sums = {name: rows[:1] if (rows == rows[0]).all() else rows for name, rows in sums.items()}
    out.with_suffix(".safetensors").write_bytes(save(sums))


def _environment(result: Result) -> dict[str, Any]:
    kept = ("prolu_eval", "torch", "python", "device")
    return {k: v for k, v in result.environment.items() if k in kept}


def _entry(result: Result, runs: Path) -> dict[str, Any]:
    run = result.run
    kept = ("name", "variant", "label", "d_in", "d_sae", "hook", "penalty", "coefficient",
            "learning_rate", "seed")  # fmt: skip
    metrics = {}
    for key in METRICS:
        scalar = result.metrics[key]
        metrics[key] = [_short(scalar.value), _short(scalar.standard_error)]
    history = load_file(runs / run.name / "history.safetensors")
    logged = {}
    for name in HISTORY:
        if name in history:
            at = np.linspace(0, len(history[name]) - 1, _HISTORY_POINTS).round().astype(int)
            logged[name] = [_short(float(value)) for value in history[name][at]]
    return {**run.model_dump(include=set(kept)), "metrics": metrics, "history": logged}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _json(document: dict[str, Any]) -> str:
    """JSON with a line for each run."""
    runs = ",\n".join(json.dumps(entry) for entry in document["runs"])
    head = {key: value for key, value in document.items() if key != "runs"}
    return f'{json.dumps(head)[:-1]},\n"runs": [\n{runs}\n]}}\n'


def read(path: Path) -> tuple[list[Result], list[dict[str, Any]]]:
    """Results and training histories, as :func:`collect` wrote them."""
    document = json.loads(path.with_suffix(".json").read_text())
    sums = load_file(path.with_suffix(".safetensors"))
    setting = Setting.model_validate(document["setting"])
    results = []
    for index, entry in enumerate(document["runs"]):
        summary = {key: value for key, value in entry.items() if key not in ("metrics", "history")}
        results.append(
            Result(
                fingerprint=f"{index:032x}",
                run=RunSummary(path=entry["name"], format="native", **summary),
                setting=setting,
                metrics={k: Estimate(value=v, standard_error=se)
                         for k, (v, se) in entry["metrics"].items()},
                arrays=_rows(sums, index),
            )
        )  # fmt: skip
    return results, [entry["history"] for entry in document["runs"]]


def _rows(sums: dict[str, NDArray[Any]], index: int) -> dict[str, NDArray[np.float64]]:
    return {
        f"per_sequence/{name}": rows[min(index, len(rows) - 1)].astype(np.float64)
        for name, rows in sums.items()
    }
