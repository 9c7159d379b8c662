"""Llama Scope: ``hyperparams.json`` and ``checkpoints/final.safetensors``; its R1-Distill sequel.

Both were trained on activations divided by their mean norm over a data set, times sqrt(d_in). The
first knows the norm, and has one threshold for all features, in the model's own units. The sequel
(``config.json`` and ``sae_weights.safetensors``) has the logarithm of one for each feature, in the
units of training; its norm may stand beside the weights or in its configuration.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from prolu_eval.checkpoints.base import Content, Fold, foreign, size
from prolu_eval.checkpoints.hook_names import hook_of
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.errors import CheckpointError

_CONFIG, _FINAL = "hyperparams.json", "final.safetensors"
_SEQUEL_CONFIG, _SEQUEL = "config.json", "sae_weights.safetensors"
_LOGARITHM, _NORM = "log_jumprelu_threshold", "dataset_average_activation_norm"
_NAMES = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
    _LOGARITHM: "threshold",
}


class _Norms(BaseModel):
    """Mean norms of the activations that are read, and of those that are written."""

    into: float = Field(gt=0, allow_inf_nan=False, alias="in")
    out: float | None = Field(None, gt=0, allow_inf_nan=False)


class _Config(BaseModel):
    hook_point_in: str
    hook_point_out: str | None = None
    act_fn: str = "jumprelu"
    use_decoder_bias: bool = True
    apply_decoder_bias_to_pre_encoder: bool = False
    jump_relu_threshold: float | None = Field(None, allow_inf_nan=False)
    dataset_average_activation_norm: _Norms | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _FINAL in names and (folder.parent / _CONFIG).is_file():
        yield folder / _FINAL


def _files(weights_path: Path) -> tuple[Path, ...]:
    return weights_path.parent.parent / _CONFIG, weights_path


def _interpret(weights_path: Path) -> Mapping[str | None, Content]:
    path, _ = _files(weights_path)
    document, config = _read(path)
    norms, threshold = config.dataset_average_activation_norm, config.jump_relu_threshold
    if norms is None or threshold is None:
        lacking = "jump_relu_threshold" if norms else _NORM
        raise CheckpointError(path, f"lacks {lacking}", "download it again")
    weights = _renamed(read_safetensors(weights_path))
    d_sae, d_in = size(weights, "W_dec", weights_path)
    scale = d_in**0.5 / norms.into
    # In float64, so that what float32 cannot hold is refused as a weight that is infinite.
    thresholds = torch.full((d_sae,), threshold * scale, dtype=torch.float64)
    content = _content(
        config,
        document,
        d_in,
        d_sae,
        lambda: weights | {"threshold": thresholds},
        partial(_fold, scale, d_in**0.5 / (norms.out or norms.into)),
        model="meta-llama/Llama-3.1-8B",
    )
    return {None: content}


def _find_sequel(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _SEQUEL_CONFIG in names and _SEQUEL in names and "cfg.json" not in names:
        yield folder


def _sequel_files(folder: Path) -> tuple[Path, ...]:
    return folder / _SEQUEL_CONFIG, folder / _SEQUEL


def _interpret_sequel(folder: Path) -> Mapping[str | None, Content]:
    path, weights_path = _sequel_files(folder)
    document, config = _read(path)
    stored = read_safetensors(weights_path)
    weights = _renamed({n: t for n, t in stored.items() if not n.startswith(_NORM)})
    d_sae, d_in = size(weights, "W_dec", weights_path)

    def scaled_by(scale: float) -> Content:
        return _content(
            config,
            document,
            d_in,
            d_sae,
            lambda: weights,
            lambda given: _fold(scale, scale, given | {"threshold": given["threshold"].exp()}),
            model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        )

    norm = _norm(config, stored, weights_path)
    if norm is None:
        return {None: replace(scaled_by(1.0), rescaled=scaled_by)}
    return {None: scaled_by(d_in**0.5 / norm)}


def _norm(config: _Config, stored: Mapping[str, Tensor], path: Path) -> float | None:
    """The mean norm of the activations, from beside the weights or the configuration."""
    beside = stored.get(f"{_NORM}.{config.hook_point_in}")
    if beside is None:
        norms = config.dataset_average_activation_norm
        return None if norms is None else norms.into
    if beside.numel() != 1 or not 0 < beside.item() < float("inf"):
        raise CheckpointError(path, f"{_NORM} is no positive number", "download it again")
    return float(beside.item())


def _read(path: Path) -> tuple[dict[str, Any], _Config]:
    document = read_json(path)
    config = validate(_Config, document, path)
    if config.act_fn.lower() != "jumprelu":
        raise CheckpointError(
            path, f"its activation function is {config.act_fn!r}", "known is jumprelu"
        )
    if config.hook_point_out not in (None, config.hook_point_in):
        raise CheckpointError(
            path,
            f"is a transcoder: it reads {config.hook_point_in}, writes {config.hook_point_out}",
            "evaluate autoencoders of one hook",
        )
    return document, config


def _content(
    config: _Config,
    document: dict[str, Any],
    d_in: int,
    d_sae: int,
    tensors: Any,
    fold: Fold,
    *,
    model: str,
) -> Content:
    return Content(
        "jumprelu",
        d_in,
        d_sae,
        tensors,
        fold,
        apply_b_dec_to_input=config.apply_decoder_bias_to_pre_encoder,
        about={
            "hook": hook_of(config.hook_point_in),
            "model": model,
            "context_length": 1024,
            "weight_processing": "none",
            "provenance": {"config": document},
        },
    )


def _renamed(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {_NAMES.get(name, name): tensor for name, tensor in stored.items()}
    return {n: t.t() if n in ("W_enc", "W_dec") and t.ndim == 2 else t for n, t in named.items()}


def _fold(into: float, out: float, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for ``into * x`` that give ``out * x``, as weights for x; codes stay as they are."""
    factors = {"W_enc": into, "W_dec": 1 / out, "b_dec": 1 / out}
    return {name: tensor * factors.get(name, 1.0) for name, tensor in weights.items()}


LLAMA_SCOPE = foreign("llama_scope", "Llama Scope", _find, _interpret, _files)
LLAMA_SCOPE_R1 = foreign(
    "llama_scope_r1_distill", "Llama Scope R1-Distill", _find_sequel, _interpret_sequel,
    _sequel_files,
)  # fmt: skip
