"""Stored results made by hand, for tests of everything that reads results."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from prolu_eval.estimates import Estimate
from prolu_eval.intervals import estimate
from prolu_eval.metrics import COLUMNS, CONSISTENCY_COLUMNS, METRICS
from prolu_eval.results import (
    EXAMPLE,
    PER_FEATURE,
    PER_SEQUENCE,
    RESPONSE,
    Result,
    RunSummary,
    Setting,
    write_result,
)

HOOK = "blocks.1.hook_resid_post"


def setting(**changes: object) -> Setting:
    values = {
        "model": "embedded", "model_fingerprint": "m" * 32, "tokens": "embedded",
        "tokens_fingerprint": "t" * 32, "n_sequences": 32, "context_length": 16, "n_counted": 120,
        "special_tokens": "exclude", "dtype": "float32", "metric_version": 1,
    }  # fmt: skip
    return Setting.model_validate(values | changes)


def result(
    name: str,
    label: str,
    values: Mapping[str, float | None],
    *,
    coefficient: float | None = 0.1,
    bias: Sequence[float] | None = (-1.0, -0.5, 0.25, 0.5),
    hook: str = HOOK,
    at: Setting | None = None,
) -> Result:
    """A result with given metric values; its standard errors are a tenth of them."""
    metrics = {key: Estimate(value=None) for key in METRICS} | {
        key: Estimate(value=None)
        if value is None
        else Estimate(value=value, standard_error=abs(value) / 10, ci95=(value * 0.8, value * 1.2))
        for key, value in values.items()
    }
    arrays = {} if bias is None else {PER_FEATURE + "bias": np.array(bias, "f4")}
    return Result(
        fingerprint=hashlib.sha256(repr((name, label, hook)).encode()).hexdigest()[:32],
        run=RunSummary(
            name=name, path=f"runs/{name}", format="native", variant=label.split("/")[0],
            label=label, d_in=4, d_sae=4, hook=hook, coefficient=coefficient, seed=0,
        ),
        setting=at or setting(),
        metrics=metrics,
        environment={"torch": "2.13.0"},
        arrays=arrays,
    )  # fmt: skip


def drawn(name: str, label: str, rng: np.random.Generator, l0: float, degradation: float) -> Result:
    """A result whose per-sequence sums are drawn around an L0 and a CE degradation."""
    n = 32
    sums = {column: rng.gamma(4, 1, n) for column in COLUMNS | CONSISTENCY_COLUMNS}
    sums["n"], sums["n_next"] = np.full(n, 15.0), np.full(n, 14.0)
    sums["error_ratio"], sums["n_ratios"] = np.full(n, 0.6), np.full(n, 2.0)
    sums["l0"] = 15 * l0 * rng.gamma(50, 1 / 50, n)
    sums["ce_clean"] = 14 * rng.gamma(50, 1 / 25, n)
    sums["ce_spliced"] = sums["ce_clean"] + 14 * degradation * rng.gamma(50, 1 / 50, n)
    made = result(name, label, {"l0": 0.0})
    usual = {k: m for k, m in METRICS.items() if not m.needs_truth and m.over == "sequences"}
    metrics = {key: estimate(m, sums) if m.numerator else Estimate(value=0.0)
               for key, m in usual.items()}  # fmt: skip
    arrays = {PER_SEQUENCE + key: value for key, value in sums.items()}
    return made.model_copy(update={"metrics": metrics, "arrays": {**made.arrays, **arrays}})


def with_features(
    made: Result, rng: np.random.Generator, d_sae: int = 64, bias: float = -0.5
) -> Result:
    """A result with every per-feature array, and response curves that its bias shifts or not."""
    rate = 10 ** rng.normal(-2, 0.8, d_sae).clip(-6, 0)
    rate[rng.random(d_sae) < 0.1] = 0
    dead = rate == 0
    b = rng.normal(bias, 0.4, d_sae)
    features = {
        "firing_rate": rate,
        "mean_when_active": np.where(dead, np.nan, rng.gamma(3, 0.3, d_sae)),
        "max": np.where(dead, np.nan, rng.gamma(9, 0.4, d_sae)),
        "bias": b,
        "effective_threshold": np.maximum(-b, 0),
        "alignment": rng.beta(8, 2, d_sae),
    }
    scales, plain, own = np.linspace(0, 2, 41), np.array([2.0, 1.0]), np.array([-0.5, -0.25])
    m = plain[:, None] * scales
    relu = made.run.label.startswith("relu")
    curves = np.maximum(m + own[:, None], 0) if relu else np.where(m + own[:, None] > 0, m, 0)
    arrays = {
        **made.arrays,
        **{PER_FEATURE + name: values.astype("f4") for name, values in features.items()},
        RESPONSE + "features": np.array([3, 7]),
        RESPONSE + "scales": scales.astype("f4"),
        RESPONSE + "activations": curves.astype("f4"),
        RESPONSE + "pre_activations": plain.astype("f4"),
    }
    shares = {"bias_negative_fraction": b < 0, "dead_fraction": dead, "dense_fraction": rate > 0.1}
    exact = {key: Estimate(value=float(on.mean())) for key, on in shares.items()}
    metrics = {**made.metrics, **exact}
    return made.model_copy(update={"arrays": arrays, "metrics": metrics})


def with_examples(made: Result, text: str, rng: np.random.Generator, n: int = 3) -> Result:
    """A result with examples of every feature that fires, whose tokens begin with ``text``."""
    alive = np.flatnonzero(made.per_feature()["firing_rate"] > 0)
    d_sae, length = len(made.per_feature()["firing_rate"]), 5
    pieces = [f"{text}{i} ".encode() for i in range(20)]
    index = np.full((d_sae, n), -1, "i4")
    index[alive] = rng.integers(0, 50, (len(alive), n))
    activation = -np.sort(-rng.random((d_sae, n)), axis=1)
    activation[index < 0] = np.nan
    arrays = {
        "activation": activation.astype("f4"),
        "index": index,
        "row": np.arange(50, dtype="i4"),
        "position": np.full(50, 2, "i4"),
        "context": rng.integers(0, len(pieces), (50, length)).astype("i4"),
        "before": np.array(2, "i4"),
        "piece_bytes": np.frombuffer(b"".join(pieces), "u1").copy(),
        "piece_ends": np.cumsum([len(piece) for piece in pieces], dtype="i8"),
    }
    named = {EXAMPLE + name: array for name, array in arrays.items()}
    return made.model_copy(update={"arrays": {**made.arrays, **named}})


def history(rng: np.random.Generator, n_logs: int = 50) -> dict[str, np.ndarray]:
    """The history of a training run: the loss falls, biases start at zero and become negative."""
    edges = np.linspace(-4, 4, 81)
    counts = [np.histogram(rng.normal(-i / n_logs, 0.2 + i / n_logs, 512).clip(-4, 4), edges)[0]
              for i in range(n_logs)]  # fmt: skip
    return {
        "step": np.arange(n_logs, dtype="f4") * 40,
        "loss": np.geomspace(100, 1, n_logs).astype("f4"),
        "l0": np.geomspace(60, 9, n_logs).astype("f4"),
        "explained_variance": np.linspace(-1, 0.9, n_logs).astype("f4"),
        "bias_histogram": np.array(counts, "i4"),
        "bias_edges": edges.astype("f4"),
    }


def write_sweep(folder: Path, runs: Sequence[Result], *, logged: bool = True) -> None:
    """Store results like an evaluated sweep, one folder per run, with each training history."""
    for i, run in enumerate(runs):
        home = folder / f"run{i}"
        write_result(run, home / "evaluation")
        if logged:
            save_file(history(np.random.default_rng(i)), home / "history.safetensors")
