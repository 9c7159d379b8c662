"""From sums to a stored result: what was measured, on what, and every metric of it."""

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

import torch

from prolu_eval import __version__
from prolu_eval.evaluation import scale_consistency
from prolu_eval.evaluation.features import weight_arrays, weight_scalars
from prolu_eval.evaluation.grouping import Group
from prolu_eval.evaluation.options import Options
from prolu_eval.evaluation.sums import Measurement, Sums
from prolu_eval.intervals import estimate
from prolu_eval.lm import LanguageModel
from prolu_eval.metrics import METRIC_VERSION, METRICS
from prolu_eval.results import (
    PER_FEATURE,
    PER_SEQUENCE,
    RESPONSE,
    Result,
    RunSummary,
    Setting,
)
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows


@dataclass(frozen=True)
class Identity:
    """What a measurement is of: the digests of a run's files, and the fingerprint of it all."""

    checkpoint: dict[str, str]
    fingerprint: str


def setting_of(group: Group, options: Options, model: LanguageModel, tokens: TokenRows) -> Setting:
    """What a group is measured on."""
    return Setting(
        model=model.name,
        model_fingerprint=model.fingerprint,
        tokens=tokens.source,
        tokens_fingerprint=tokens.fingerprint,
        n_sequences=len(tokens),
        context_length=tokens.ids.shape[1],
        n_counted=int(tokens.counted.sum()),
        special_tokens=options.special_tokens,
        dtype=options.dtype,
        metric_version=METRIC_VERSION,
        prepend_bos=group.prepend_bos,
        packing=options.packing,
        weight_processing=group.weight_processing,
    )


def fingerprint(run: Run, checkpoint: dict[str, str], hook: str, setting: Setting) -> str:
    """The name of a measurement, from all that decides it."""
    # Where model and tokens lie, and how these were made, does not matter: what is in them does.
    names = {"model", "tokens", "prepend_bos", "packing"}
    parts = (*checkpoint.values(), run.part, hook, setting.model_dump_json(exclude=names))
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]


def result_of(
    run: Run,
    sae: SparseAutoencoder,
    group: Group,
    setting: Setting,
    identity: Identity,
    measured: Measurement,
    reference: Sums,
    pairs: scale_consistency.Sample,
) -> Result:
    """The result of a run whose sums over all rows are known."""
    features = measured.features
    scalars = features.scalars() | weight_scalars(sae)
    arrays = features.arrays() | weight_arrays(sae)
    violations, curves = scale_consistency.measure(sae, pairs, setting.n_sequences)
    sums = {**reference, **measured.by_row, **violations}
    return Result(
        fingerprint=identity.fingerprint,
        checkpoint=identity.checkpoint,
        run=RunSummary(
            name=run.name,
            path=str(run.path),
            format=run.format,
            variant=run.variant,
            label=run.label,
            d_in=run.d_in,
            d_sae=run.d_sae,
            hook=group.hook,
            penalty=run.penalty,
            coefficient=run.coefficient,
            learning_rate=run.learning_rate,
            seed=run.seed,
            provenance=run.provenance,
        ),
        setting=setting,
        metrics={
            key: scalars[key] if key in scalars else estimate(metric, sums)
            for key, metric in METRICS.items()
        },
        environment=environment(),
        arrays={PER_SEQUENCE + name: values for name, values in sums.items()}
        | {PER_FEATURE + name: values for name, values in arrays.items()}
        | {RESPONSE + name: values for name, values in curves.items()},
    )


def environment() -> dict[str, Any]:
    """Versions and hardware that a measurement ran on."""
    packages = ("torch", "transformer-lens", "transformers")
    return {
        "prolu-eval": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{name: importlib.metadata.version(name) for name in packages},
    }
