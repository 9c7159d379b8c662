"""Stored results made by hand, for tests of everything that reads results."""

from collections.abc import Mapping, Sequence

import numpy as np

from prolu_eval.metrics import COLUMNS, METRICS
from prolu_eval.results import PER_FEATURE, PER_SEQUENCE, Result, RunSummary, Scalar, Setting
from prolu_eval.statistics import estimate

HOOK = "blocks.1.hook_resid_post"


def setting(**changes: object) -> Setting:
    values = {
        "model": "embedded", "model_fingerprint": "m" * 32, "tokens": "embedded",
        "tokens_fingerprint": "t" * 32, "n_sequences": 8, "context_length": 16, "n_counted": 120,
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
    metrics = {key: Scalar(value=None) for key in METRICS} | {
        key: Scalar(value=None)
        if value is None
        else Scalar(value=value, standard_error=abs(value) / 10, ci95=(value * 0.8, value * 1.2))
        for key, value in values.items()
    }
    arrays = {} if bias is None else {PER_FEATURE + "bias": np.array(bias, "f4")}
    return Result(
        fingerprint=f"{abs(hash((name, label, hook))):032x}"[:32],
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
    sums = {column: rng.gamma(4, 1, n) for column in COLUMNS}
    sums["n"], sums["n_next"] = np.full(n, 15.0), np.full(n, 14.0)
    sums["l0"] = 15 * l0 * rng.gamma(50, 1 / 50, n)
    sums["ce_clean"] = 14 * rng.gamma(50, 1 / 25, n)
    sums["ce_spliced"] = sums["ce_clean"] + 14 * degradation * rng.gamma(50, 1 / 50, n)
    made = result(name, label, {"l0": 0.0})
    metrics = {key: estimate(m, sums) if m.numerator else Scalar(value=0.0)
               for key, m in METRICS.items()}  # fmt: skip
    arrays = {PER_SEQUENCE + key: value for key, value in sums.items()}
    return made.model_copy(update={"metrics": metrics, "arrays": {**made.arrays, **arrays}})
