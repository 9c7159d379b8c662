"""Llama Scope: ``hyperparams.json`` and ``checkpoints/final.safetensors``; its R1-Distill sequel.

Both were trained on activations divided by their mean norm over a data set, times sqrt(d_in). Llama
Scope stores this norm, and has one threshold for all features, in the model's own units. The sequel
(``config.json`` and ``sae_weights.safetensors``) stores the logarithm of one threshold per feature,
in the units of training; its norm, if stored, is among the weights or in the configuration.
Checkpoints that write to another hook point than they read are transcoders (LXTC), and have a norm
for each of the two.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
    """Mean norms of the activations at the input site and at the output site."""

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


class _Sizes(NamedTuple):
    """The widths of input and output, and the number of features; ``d_out`` if a transcoder."""

    d_in: int
    d_sae: int
    d_out: int | None


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
    sizes = _sizes(config, weights, weights_path)
    scale = sizes.d_in**0.5 / norms.into
    if sizes.d_out is not None and norms.out is None:
        raise CheckpointError(path, f"lacks {_NORM}.out of a transcoder", "download it again")
    # In float64, so that a value too large for float32 is refused as an infinite weight.
    thresholds = torch.full((sizes.d_sae,), threshold * scale, dtype=torch.float64)
    content = _content(
        config,
        document,
        sizes,
        lambda: weights | {"threshold": thresholds},
        partial(_fold, scale, (sizes.d_out or sizes.d_in) ** 0.5 / (norms.out or norms.into)),
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
    sizes = _sizes(config, weights, weights_path)

    def scaled_by(into: float, out: float | None = None) -> Content:
        factors = into, into if out is None else out
        return _content(
            config,
            document,
            sizes,
            lambda: weights,
            lambda given: _fold(*factors, given | {"threshold": given["threshold"].exp()}),
            model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        )

    norms = config.dataset_average_activation_norm
    into = _beside(stored, config.hook_point_in, weights_path) or (norms and norms.into)
    if sizes.d_out is None:
        if into is None:
            return {None: replace(scaled_by(1.0), rescaled=scaled_by)}
        return {None: scaled_by(sizes.d_in**0.5 / into)}
    out = _beside(stored, str(config.hook_point_out), weights_path) or (norms and norms.out)
    if into is None or out is None:
        raise CheckpointError(
            path, f"lacks {_NORM} of a transcoder's two sites", "download it again"
        )
    return {None: scaled_by(sizes.d_in**0.5 / into, sizes.d_out**0.5 / out)}


def _beside(stored: Mapping[str, Tensor], hook: str, path: Path) -> float | None:
    """The mean norm of the activations at a hook point, if it is stored among the weights."""
    beside = stored.get(f"{_NORM}.{hook}")
    if beside is None:
        return None
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
    return document, config


def _sizes(config: _Config, weights: Mapping[str, Tensor], path: Path) -> _Sizes:
    """The sizes, from the matrices; the output has a width of its own only in a transcoder."""
    d_sae, d_out = size(weights, "W_dec", path)
    if config.hook_point_out in (None, config.hook_point_in):
        return _Sizes(d_out, d_sae, None)
    return _Sizes(size(weights, "W_enc", path)[0], d_sae, d_out)


def _content(
    config: _Config,
    document: dict[str, Any],
    sizes: _Sizes,
    tensors: Callable[[], Mapping[str, Tensor]],
    fold: Fold,
    *,
    model: str,
) -> Content:
    written = {} if sizes.d_out is None else {"hook_out": hook_of(config.hook_point_out)}
    return Content(
        "jumprelu",
        sizes.d_in,
        sizes.d_sae,
        tensors,
        fold,
        d_out=sizes.d_out,
        apply_b_dec_to_input=config.apply_decoder_bias_to_pre_encoder,
        about={
            "hook": hook_of(config.hook_point_in),
            **written,
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
    """Turn weights from ``into * x`` to ``out * x`` into weights for x; codes are unchanged."""
    factors = {"W_enc": into, "W_dec": 1 / out, "b_dec": 1 / out}
    return {name: tensor * factors.get(name, 1.0) for name, tensor in weights.items()}


LLAMA_SCOPE = foreign("llama_scope", "Llama Scope", _find, _interpret, _files)
LLAMA_SCOPE_R1 = foreign(
    "llama_scope_r1_distill", "Llama Scope R1-Distill", _find_sequel, _interpret_sequel,
    _sequel_files,
)  # fmt: skip
