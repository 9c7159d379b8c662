"""Results without a language model: autoencoders of sparse data under a linear readout.

Cross-entropies, reconstruction errors and counts are computed for a tiny simulated world in numpy,
and summed by sequence for a large pool of sequences, from which tests draw.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prolu_eval.estimates import Estimate
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRIC_VERSION, METRICS
from prolu_eval.results import PER_FEATURE, PER_SEQUENCE, Result, RunSummary, Setting

Floats = NDArray[np.float64]

POOL, LENGTH, D_IN, D_SAE, VOCABULARY = 2048, 16, 24, 24, 20
THRESHOLDS = (0.1, 0.2, 0.35, 0.5, 0.8)


@dataclass(frozen=True)
class Sae:
    """An autoencoder of the simulated world, with damages such as a change of code can cause."""

    variant: str = "prolu"
    threshold: float = 0.3
    encoder_noise: float = 0.0
    decoder_scale: float = 1.0

    @property
    def name(self) -> str:
        """The run's name, which does not depend on the damage."""
        return f"{self.variant}/{self.threshold:g}"


@cache
def _world() -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    dictionary = np.linalg.qr(rng.normal(size=(D_SAE, D_IN)))[0]
    codes = rng.exponential(size=(POOL, LENGTH, D_SAE)) * (rng.random((POOL, LENGTH, D_SAE)) < 0.3)
    x = codes @ dictionary + 0.05 * rng.normal(size=(POOL, LENGTH, D_IN))
    readout = 1.5 * rng.normal(size=(D_IN, VOCABULARY))
    gumbel = rng.gumbel(size=(POOL, LENGTH, VOCABULARY))
    return dictionary, x, readout, (x @ readout + gumbel).argmax(-1)


def _log_probabilities(x: Floats) -> Floats:
    logits = x @ _world()[2]
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def _cross_entropy(x: Floats) -> Floats:
    nexts = _world()[3]
    return np.asarray(-np.take_along_axis(_log_probabilities(x), nexts[..., None], -1)[..., 0])


@cache
def pool_sums(sae: Sae) -> dict[str, Floats]:
    """Sums of an autoencoder over each sequence of the pool. [POOL] per column"""
    dictionary, x, _, _ = _world()
    noise = np.random.default_rng(1).normal(size=dictionary.T.shape)
    m = x @ (dictionary.T + sae.encoder_noise * noise)
    gated = m if sae.variant == "prolu" else m - sae.threshold
    codes = np.where(m > sae.threshold, gated, 0)
    x_hat = sae.decoder_scale * codes @ dictionary
    mean = x.mean((0, 1))
    clean, spliced = _log_probabilities(x), _log_probabilities(x_hat)
    ones = np.ones(x.shape[:2])
    tokens = {
        "n": ones,
        "n_next": ones,
        "l0": (codes != 0).sum(-1),
        "l1": sae.decoder_scale * codes.sum(-1),
        "l1_raw": codes.sum(-1),
        "sqrt_l1": np.sqrt(sae.decoder_scale * codes).sum(-1),
        "sqrt_l1_raw": np.sqrt(codes).sum(-1),
        "squared_error": np.square(x - x_hat).sum(-1),
        "squared_deviation": np.square(x - mean).sum(-1),
        "cosine_similarity": ones,
        "norm_ratio": np.linalg.norm(x_hat, axis=-1) / np.linalg.norm(x, axis=-1),
        "x_hat_squared": np.square(x_hat).sum(-1),
        "x_hat_dot_x": (x_hat * x).sum(-1),
        "ce_clean": _cross_entropy(x),
        "ce_spliced": _cross_entropy(x_hat),
        "ce_zero": _cross_entropy(np.zeros_like(x)),
        "ce_mean": _cross_entropy(np.broadcast_to(mean, x.shape)),
        "kl": (np.exp(clean) * (clean - spliced)).sum(-1),
    }
    return {column: np.asarray(values, float).sum(1) for column, values in tokens.items()}


def result(
    sae: Sae,
    sequences: NDArray[np.int64] | None = None,
    *,
    name: str | None = None,
    setting: dict[str, Any] | None = None,
    dead_fraction: float | None = 0.25,
    scalars: bool = True,
    **run: Any,
) -> Result:
    """A result as an evaluation would have stored it, on the given sequences of the pool.

    ``scalars=False`` leaves out all values that follow from the sums, which is faster.
    """
    chosen = np.arange(256) if sequences is None else sequences
    sums = {column: values[chosen] for column, values in pool_sums(sae).items()}
    tokens = hashlib.sha256(chosen.tobytes()).hexdigest()
    fingerprint = hashlib.sha256(f"{sae} {tokens} {setting} {name} {run}".encode()).hexdigest()
    known = {
        key: m for key, m in METRICS.items()
        if m.denominator and m.numerator.keys() | m.denominator.keys() <= sums.keys()
    }  # fmt: skip
    metrics = {key: estimate(m, sums) for key, m in known.items() if scalars}
    return Result(
        fingerprint=fingerprint[:32],
        run=RunSummary(
            **{
                "name": name or sae.name,
                "path": f"runs/{name or sae.name}",
                "format": "native",
                "variant": sae.variant,
                "label": f"{sae.variant}+l1",
                "d_in": D_IN,
                "d_sae": D_SAE,
                "hook": "blocks.1.hook_resid_post",
                "penalty": "l1",
                "coefficient": sae.threshold,
                "seed": 0,
            }
            | run
        ),
        setting=Setting(
            **{
                "model": "tiny",
                "model_fingerprint": "m" * 16,
                "tokens": "text.txt",
                "tokens_fingerprint": tokens[:16],
                "n_sequences": len(chosen),
                "context_length": LENGTH,
                "n_counted": len(chosen) * LENGTH,
                "special_tokens": "exclude",
                "dtype": "float32",
                "metric_version": METRIC_VERSION,
            }
            | (setting or {})
        ),
        metrics=metrics | {"dead_fraction": Estimate(value=dead_fraction)},
        arrays={PER_SEQUENCE + column: values for column, values in sums.items()}
        | {PER_FEATURE + "firing_rate": np.zeros(D_SAE)},
    )


def sweep(sequences: NDArray[np.int64] | None = None, **options: Any) -> list[Result]:
    """Two variants at five thresholds."""
    return [
        result(Sae(variant, threshold), sequences, **options)
        for variant in ("prolu", "relu")
        for threshold in THRESHOLDS
    ]
