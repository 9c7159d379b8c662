"""Compares measurements on a device with those of the CPU in float64; each line is PASS or FAIL.

It measures twenty kinds of autoencoder on a small model whose vocabulary size is not a multiple of
block sizes, and then every way in which the engine may compute: precisions, batch sizes, chunk
sizes, dense decoding, and eager code instead of the kernels.
"""

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from prolu_eval import kernels
from prolu_eval.errors import EvaluationError
from prolu_eval.evaluation.autoencoding import Sizes
from prolu_eval.evaluation.engine import Engine
from prolu_eval.intervals import estimate
from prolu_eval.lm import LanguageModel
from prolu_eval.metrics import METRICS
from prolu_eval.saes import VARIANTS, SparseAutoencoder
from prolu_eval.tokens import TokenRows

D_SAE = 120
KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("relu", {}, "none"), ("relu", {}, "layer_norm"), ("relu", {}, "constant_norm"),
    ("prolu", {}, "none"), ("prolu", {"gradient": "relu"}, "layer_norm"),
    ("prolu_relu_hybrid", {}, "none"), ("trec", {"theta": 0.75}, "none"),
    ("trec", {"theta": 0.5, "tied": True}, "none"), ("tlin", {"theta": 0.75}, "none"),
    ("tlin", {"theta": 0.5, "tied": True}, "none"), ("jumprelu", {}, "none"),
    ("gated", {}, "none"), ("topk", {"k": 8}, "none"), ("topk", {"k": 60}, "none"),
    ("topk", {"k": 12, "rectify": False}, "layer_norm"), ("abstopk", {"k": 6}, "none"),
    ("groupmax", {"k": 8}, "none"), ("batchtopk", {"k": 6}, "none"),
    ("matryoshka", {"k": 6, "group_sizes": (40, 80)}, "none"),
    ("matching_pursuit", {"residual_threshold": 0.5, "max_iterations": 6}, "none"),
)  # fmt: skip
# The relative and absolute differences that pass, by precision; they allow for rounding only. In
# low precisions, rounding also changes codes near a threshold and the order of nearly equal codes.
LIMITS = {
    "float64": (1e-6, 1e-7), "float32": (2e-4, 2e-5), "tf32": (1e-1, 1e-2),
    "bfloat16": (1e-1, 3e-2), "float16": (1e-1, 1e-2),
}  # fmt: skip
# In low precisions these metrics are not compared, because they divide differences that consist of
# rounding; the metrics that they are computed from are compared.
QUOTIENTS_OF_DIFFERENCES = ("ce_recovered_zero", "ce_recovered_mean")
WAYS: tuple[tuple[str, str, dict[str, Any], bool], ...] = (
    ("one row at a time", "float32", {"batch_size": 1}, True),
    ("small chunks", "float32", {"sizes": Sizes(codes=700, active=50)}, True),
    ("dense decoding", "float32", {"sizes": Sizes(dense_above=0.0)}, True),
    ("eager code", "float32", {}, False),
    ("float64", "float64", {}, True),
    ("tf32", "tf32", {}, True),
    ("bfloat16", "bfloat16", {}, True),
    ("bfloat16, eager code", "bfloat16", {}, False),
    ("float16", "float16", {}, True),
)


def autoencoders(d_in: int, spread: float) -> dict[str, SparseAutoencoder]:
    """One autoencoder of each kind, with random weights, for activations with a given spread."""
    found = {}
    for i, (variant, options, normalisation) in enumerate(KINDS):
        cls = VARIANTS[variant]
        rows: torch.Tensor | None = None
        sae = cls(d_in, D_SAE, cls.Options.model_validate(options), normalisation=normalisation)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(i)
        unit = spread if normalisation == "none" else 1.0
        for name, parameter in sae.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if name == "W_enc":
                values /= values.norm(dim=0)
                rows = values.T.contiguous()
                values = values / unit
            elif name == "W_dec":
                values = values / values.norm(dim=1, keepdim=True) if rows is None else rows * unit
            else:
                values *= 0.3
            if name == "threshold":
                values = 0.1 + values.abs()
            parameter.data = values
        name = "/".join([variant, *(f"{k}={v}" for k, v in options.items()), normalisation])
        found[name] = sae.eval().requires_grad_(False)
    return found


def metrics(engine: Engine, saes: Mapping[str, SparseAutoencoder]) -> dict[str, dict[str, float]]:
    """Every metric of every autoencoder that follows from a pass over tokens."""
    total, count = engine.sum_of_activations()
    reference = engine.reference(total / count)
    found = {}
    for name, measured in engine.measure_saes(saes).items():
        if isinstance(measured, EvaluationError):
            raise measured
        sums = {**reference, **measured.by_row}
        found[name] = {
            key: estimate(metric, sums).value
            for key, metric in METRICS.items()
            if metric.numerator and set(metric.numerator) | set(metric.denominator) <= sums.keys()
        }
        scalars = measured.features.scalars()
        found[name] |= {key: scalar.value for key, scalar in scalars.items()}
    return found


def check(folder: Path, device: str, hook: str) -> Iterator[str]:
    """The lines of the check: one for each kind, one for each way, and the largest differences."""
    ids = torch.randint(1, 300, (6, 16), generator=torch.Generator().manual_seed(1))
    rows = TokenRows(ids, torch.ones_like(ids, dtype=torch.bool), "random")
    rows.counted[1, 3:9] = False

    def model(place: str, precision: str) -> LanguageModel:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        kind = torch.float32 if precision == "tf32" else getattr(torch, precision)
        return LanguageModel.load(str(folder), device=place, dtype=kind)

    reference = model("cpu", "float64")
    x = reference.activations(rows.ids, hook)
    spread = float(x.std())

    def measured(place: str, precision: str, **chosen: Any) -> dict[str, dict[str, float]]:
        saes = autoencoders(x.shape[-1], spread)
        return metrics(Engine(model(place, precision), hook, rows, **chosen), saes)

    expected = metrics(Engine(reference, hook, rows), autoencoders(x.shape[-1], spread))
    largest: dict[str, float] = {}
    for name, found in measured(device, "float32").items():
        worst = _worst(found, expected[name], "float32", largest)
        yield f"{_verdict(worst)} {name}: {worst[0]:.2f} of the limit in {worst[1]}"
    for name, precision, chosen, fused in WAYS:
        try:
            with contextlib.ExitStack() as stack:
                if not fused:
                    stack.enter_context(mock.patch.object(kernels, "suit", return_value=False))
                got = measured(device, precision, **chosen)
            worst = max(_worst(got[kind], expected[kind], precision) for kind in got)
            yield f"{_verdict(worst)} {name}: {worst[0]:.2f} of the limit in {worst[1]}"
        except Exception:  # noqa: BLE001 - the other ways are tried nevertheless
            yield f"FAIL {name}\n{traceback.format_exc()}"
    yield "largest relative differences in float32, by metric: " + ", ".join(
        f"{key} {value:.1e}" for key, value in largest.items()
    )


def _verdict(worst: tuple[float, str, bool]) -> str:
    return "PASS" if worst[2] else "FAIL"


def _worst(
    found: Mapping[str, float],
    expected: Mapping[str, float],
    precision: str,
    largest: dict[str, float] | None = None,
) -> tuple[float, str, bool]:
    """The largest difference as a share of its limit, its metric, and whether all pass."""
    relative, absolute = LIMITS[precision]
    shares = {}
    for key, value in expected.items():
        if precision not in ("float64", "float32") and key in QUOTIENTS_OF_DIFFERENCES:
            continue
        difference = abs(found[key] - value)
        shares[key] = difference / (absolute + relative * abs(value))
        if largest is not None:
            share = difference / max(abs(value), 1e-9)
            largest[key] = max(largest.get(key, 0.0), share)
    key = max(shares, key=lambda name: shares[name] if shares[name] == shares[name] else 1e9)
    return shares[key], key, shares[key] <= 1
