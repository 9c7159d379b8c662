"""Results as files of SAEBench's ``core`` evaluation (its schema of 0.6), one for each run.

Numbers that prolu-eval does not measure are -1, the value that SAEBench writes for numbers that it
could not compute; each file lists them. ``explained_variance`` has prolu-eval's definition: one
minus the pooled error divided by the pooled deviation from the mean. SAEBench 0.6 and its paper use
other definitions, which each file says too. The legacy form of the paper stands beside it, marked
as such.
"""

import hashlib
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS
from prolu_eval.plain_text import printable
from prolu_eval.render.references import ReferencePoint
from prolu_eval.results import Array, Result, write_json

NOT_MEASURED = -1.0
LEGACY = "explained_variance_legacy"
_OURS: Mapping[str, Mapping[str, str | None]] = {
    "model_behavior_preservation": {
        "kl_div_score": None, "kl_div_with_ablation": None, "kl_div_with_sae": "kl",
    },
    "model_performance_preservation": {
        "ce_loss_score": "ce_recovered_zero", "ce_loss_with_ablation": "ce_zero",
        "ce_loss_with_sae": "ce_spliced", "ce_loss_without_sae": "ce_clean",
    },
    "reconstruction_quality": {
        "explained_variance": "explained_variance", "mse": "mse", "cossim": "cosine_similarity",
    },
    "shrinkage": {
        "l2_norm_in": None, "l2_norm_out": None, "l2_ratio": "l2_ratio",
        "relative_reconstruction_bias": "relative_reconstruction_bias",
    },
    "sparsity": {"l0": "l0", "l1": "l1_raw"},
}  # fmt: skip
# Metrics that SAEBench has under the same name, but defines differently.
_OTHERWISE = ("explained_variance", "mse")
_DETAILS = (
    "consistent_activation_heuristic", "encoder_bias", "encoder_norm",
    "encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim",
)  # fmt: skip
_MEANINGS = {
    "explained_variance": (
        "prolu-eval's definition: 1 - (squared error) / (squared deviation from the mean), each "
        "summed over all tokens. SAEBench 0.6 subtracts a squared mean of squares instead; its "
        "paper has the legacy form, a mean over tokens of 1 - error / deviation. Neither is "
        "comparable with this value."
    ),
    LEGACY: (
        "the form of SAEBench's paper and of Neuronpedia: a mean over tokens of 1 - error / "
        "deviation, here on up to 256 tokens and about their mean; -1 where it was not measured"
    ),
    "mse": "summed over dimensions and averaged over tokens, independent of the batch size",
    "ce_loss_with_ablation": "the activation replaced by zero at the counted positions only",
}


def write_saebench(results: Iterable[Result], folder: Path) -> list[Path]:
    """Write a file for each result into a folder, and return the files' paths.

    Raises:
        ResultsError: if a file cannot be written.
    """
    written: list[Path] = []
    for result in results:
        stem = re.sub(r"[^\w.+-]+", "_", result.run.name)
        path = folder / f"{stem}_eval_results.json"
        if path in written:  # names that differ only in characters that file names do not allow
            path = folder / f"{stem}_{result.fingerprint[:8]}_eval_results.json"
        write_json(path, document(result))
        written.append(path)
    return written


def document(result: Result) -> dict[str, Any]:
    """A result as a document in SAEBench's schema."""
    setting, run = result.setting, result.run
    groups: dict[str, dict[str, float]] = {
        group: {name: _value(result, ours) for name, ours in names.items()}
        for group, names in _OURS.items()
    }
    per_feature = result.per_feature()
    n_tokens = float(setting.n_counted)
    groups["token_stats"] = {
        "total_tokens_eval_reconstruction": n_tokens,
        "total_tokens_eval_sparsity_variance": n_tokens,
    }
    groups["misc_metrics"] = _misc(per_feature.get("firing_rate"))
    missing = [n for names in _OURS.values() for n, ours in names.items() if ours is None]
    missing += [n for n, value in groups["misc_metrics"].items() if value == NOT_MEASURED]
    packages = {"prolu-eval": str(result.environment.get("prolu-eval", ""))}
    return {
        "eval_type_id": "core",
        "eval_config": _config(result),
        "eval_id": str(uuid.UUID(hashlib.sha256(result.fingerprint.encode()).hexdigest()[:32])),
        "datetime_epoch_millis": int(result.file.stat().st_mtime * 1000) if result.file else 0,
        "eval_result_metrics": groups,
        "eval_result_details": _details(per_feature),
        "sae_bench_commit_hash": "Unknown",
        "sae_lens_id": run.provenance.get("sae_id") or run.name,
        "sae_lens_release_id": run.provenance.get("release") or "prolu-eval",
        "sae_lens_version": "Unknown",
        "sae_cfg_dict": {
            "architecture": run.variant, "d_in": run.d_in, "d_sae": run.d_sae,
            "hook_name": run.hook, "model_name": setting.model, "options": run.options,
        },
        "eval_result_unstructured": {
            "measured_by": packages,
            "not_measured": [*missing, *(n for n in _DETAILS if n not in _known(per_feature))],
            "meaning": _MEANINGS,
            "legacy": {LEGACY: _value(result, LEGACY)},
            "prolu_eval": {
                key: estimate.to_json()
                for key, estimate in result.metrics.items()
                if key in METRICS and estimate.value is not None
            },
        },
    }  # fmt: skip


def _value(result: Result, ours: str | None) -> float:
    value = None if ours is None or ours not in result.metrics else result.metrics[ours].value
    return NOT_MEASURED if value is None else value


def _config(result: Result) -> dict[str, Any]:
    """The settings of SAEBench that have a counterpart here."""
    setting = result.setting
    switches = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics",
                "featurewise_density_statistics", "featurewise_weight_based_metrics")  # fmt: skip
    return {
        "model_name": setting.model,
        "llm_dtype": setting.dtype,
        "batch_size_prompts": 1,
        "n_eval_reconstruction_batches": setting.n_sequences,
        "n_eval_sparsity_variance_batches": setting.n_sequences,
        "dataset": setting.tokens,
        "context_size": setting.context_length,
        **{f"compute_{switch}": True for switch in switches},
        "exclude_special_tokens_from_reconstruction": setting.special_tokens == "exclude",
        "verbose": False,
    }


def _misc(rate: Array | None) -> dict[str, float]:
    """The shares of features that fire often, and their shares of all firing."""
    names = ("freq_over_1_percent", "freq_over_10_percent")
    found = dict.fromkeys((*names, *(f"normalized_{name}" for name in names)), NOT_MEASURED)
    found |= {f"average_max_{side}coder_cosine_sim": NOT_MEASURED for side in ("en", "de")}
    found["frac_alive"] = NOT_MEASURED
    if rate is None or not len(rate):
        return found
    total = float(rate.sum())
    for name, least in zip(names, (0.01, 0.1), strict=True):
        often = rate > least
        found[name] = float(often.mean())
        found[f"normalized_{name}"] = float(rate[often].sum()) / total if total else 0.0
    return found | {"frac_alive": float((rate > 0).mean())}


def _known(per_feature: Mapping[str, Array]) -> dict[str, Array]:
    named = {"encoder_bias": "bias", "encoder_decoder_cosine_sim": "alignment"}
    return {theirs: per_feature[ours] for theirs, ours in named.items() if ours in per_feature}


def _details(per_feature: Mapping[str, Array]) -> Sequence[dict[str, Any]]:
    rate = per_feature.get("firing_rate")
    if rate is None:
        return []
    known = _known(per_feature)
    columns = {
        name: np.nan_to_num(known[name], nan=NOT_MEASURED) if name in known
        else np.full(len(rate), NOT_MEASURED)
        for name in _DETAILS
    }  # fmt: skip
    return [
        {"index": i, "feature_density": round(float(rate[i]), 10)}
        | {name: round(float(values[i]), 10) for name, values in columns.items()}
        for i in range(len(rate))
    ]


class _Config(BaseModel):
    hook_name: str | None = None


class _Document(BaseModel):
    """The parts of a results file that figures use."""

    eval_type_id: Literal["core"]
    eval_result_metrics: dict[str, dict[str, float]]
    sae_lens_id: str | None = None
    sae_lens_release_id: str | None = None
    sae_cfg_dict: _Config = _Config()


def read_references(path: Path) -> list[ReferencePoint]:
    """The values in SAEBench's files as points for figures, for metrics with the same definition.

    SAEBench's explained variance, and its MSE, which depends on the batch, are left out.

    Args:
        path: a results file, or a folder of results files.

    Raises:
        UsageError: if there is no results file, or if one is not of SAEBench's core evaluation.
    """
    files = sorted(path.rglob("*_eval_results.json")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise UsageError(path, "holds no results of SAEBench", "name a file of its core evaluation")
    return [_reference(file) for file in files]


def _reference(file: Path) -> ReferencePoint:
    try:
        known = _Document.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise UsageError(
            file, f"is not a result of SAEBench's core evaluation ({reason})", "name one that is"
        ) from None
    metrics = known.eval_result_metrics
    values = {
        ours: value
        for group, names in _OURS.items()
        for theirs, ours in names.items()
        if ours is not None and ours not in _OTHERWISE
        and (value := metrics.get(group, {}).get(theirs, NOT_MEASURED)) != NOT_MEASURED
        and math.isfinite(value)
    }  # fmt: skip
    if "ce_spliced" in values and "ce_clean" in values:
        values["ce_degradation"] = values["ce_spliced"] - values["ce_clean"]
    name = "/".join(filter(None, (known.sae_lens_release_id, known.sae_lens_id))) or file.stem
    return ReferencePoint(printable(name), "SAEBench", known.sae_cfg_dict.hook_name, values)
