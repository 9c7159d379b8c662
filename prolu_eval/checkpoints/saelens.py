"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, inference and training, 3.x to 6.x."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign
from prolu_eval.checkpoints.folding import (
    Whitening,
    fold_decoder_norms,
    fold_scale,
    fold_whitening,
)
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import WeightProcessing

CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "sae_weights.safetensors"

_OWN_TENSORS = {
    "standard": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "topk": ("b_enc",),
    "abstopk": ("b_enc",),
    "batchtopk": ("b_enc", "topk_threshold"),
    "matryoshka_batchtopk": ("b_enc", "topk_threshold"),
}
_VARIANTS = {
    "standard": "relu",
    "matryoshka_batchtopk": "matryoshka",
    **{name: name for name in ("jumprelu", "gated", "topk", "abstopk", "batchtopk")},
    "matching_pursuit": "matching_pursuit",
}
_RESCALED = ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk")
_REFUSED = {
    "temporal": "its codes depend on the tokens before, so it cannot be run token by token",
    "transcoder": "it reads one hook point and writes another, so it reconstructs nothing",
}
_RUN_TIME = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}


class _Metadata(BaseModel):
    model_name: str | None = None
    hook_name: str | None = None
    hook_head_index: int | None = None
    context_size: int | None = None
    prepend_bos: bool | None = None
    dataset_path: str | None = None
    sae_lens_version: str | None = None
    sae_lens_training_version: str | None = None
    training_architecture: str | None = None
    model_from_pretrained_kwargs: dict[str, Any] | None = None


class _Config(BaseModel):
    architecture: str = "standard"
    d_in: int = Field(gt=0)
    d_sae: int = Field(gt=0)
    apply_b_dec_to_input: bool = True
    normalize_activations: str | bool | None = "none"
    reshape_activations: str | None = None
    k: float | None = Field(None, gt=0, allow_inf_nan=False)
    rescale_acts_by_decoder_norm: bool | None = None
    activation_fn_str: str | None = None
    activation_fn: str | None = None
    activation_fn_kwargs: dict[str, Any] | None = None
    residual_threshold: float = 0.0
    max_iterations: int | None = None
    stop_on_duplicate_support: bool = True
    l1_coefficient: float | None = None
    l0_coefficient: float | None = None
    matryoshka_widths: list[int] | None = None
    metadata: _Metadata | None = None


class _Scaler(BaseModel):
    scaling_factor: float | None = Field(None, gt=0, allow_inf_nan=False)
    has_whitening: bool = False


class _Legacy(_Metadata):
    hook_point: str | None = None
    hook_point_head_index: int | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if CONFIG_FILE in names and WEIGHTS_FILE in names:
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    kept = ("activation_scaler.json", "activation_whitening.safetensors")
    extra = tuple(folder / name for name in kept if (folder / name).exists())
    return (folder / CONFIG_FILE, *extra, folder / WEIGHTS_FILE)


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    path = folder / CONFIG_FILE
    document = read_json(path)
    config = validate(_Config, document, path)
    metadata = config.metadata or _legacy_metadata(document, path)
    architecture = _architecture(config, path)
    if metadata.hook_head_index is not None:
        raise CheckpointError(
            path, f"reads head {metadata.hook_head_index} alone", "evaluate SAEs of whole hooks"
        )
    weights = read_safetensors(folder / WEIGHTS_FILE)
    _known_tensors(weights, architecture, folder / WEIGHTS_FILE)
    change, problems = _fold_units(config, folder)
    normalisation = _RUN_TIME.get(_normalisation(config), "none")

    def tensors() -> Mapping[str, Tensor]:
        renamed = _canonical(dict(weights), config, architecture)
        return change(renamed)

    content = Content(
        _VARIANTS[architecture],
        config.d_in,
        config.d_sae,
        tensors,
        _options(config, architecture, path),
        config.apply_b_dec_to_input,
        normalisation,  # type: ignore[arg-type]
        problems,
        _about(config, metadata, architecture, document),
    )
    return {None: content}


def _legacy_metadata(document: Mapping[str, Any], path: Path) -> _Metadata:
    old = validate(_Legacy, document, path)
    head = old.hook_head_index if old.hook_head_index is not None else old.hook_point_head_index
    return old.model_copy(
        update={"hook_name": old.hook_name or old.hook_point, "hook_head_index": head}
    )


def _architecture(config: _Config, path: Path) -> str:
    name = config.architecture
    for known, reason in _REFUSED.items():
        if known in name:
            raise CheckpointError(
                path, f"is a {name}: {reason}", "evaluate autoencoders of one hook"
            )
    if name not in _VARIANTS:
        raise CheckpointError(
            path, f"unknown architecture {name!r}", f"known are {', '.join(_VARIANTS)}"
        )
    function = config.activation_fn_str or config.activation_fn or "relu"
    if name == "standard" and function == "topk":
        return "topk"
    if function not in ("relu", "topk"):
        raise CheckpointError(
            path,
            f"its activation function is {function!r}",
            "evaluate autoencoders with relu or topk",
        )
    return name


def _known_tensors(weights: Mapping[str, Tensor], architecture: str, path: Path) -> None:
    if "W_skip" in weights:
        raise CheckpointError(
            path,
            "has a skip connection, so it is a transcoder",
            "evaluate autoencoders of one hook",
        )
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in weights and not bool((weights[name] == 1).all()):
            raise CheckpointError(
                path, f"holds a {name} that SAELens itself cannot load", "fold it into W_dec"
            )
    if "b_gate" in weights and architecture != "gated":
        raise CheckpointError(path, f"holds b_gate but says {architecture}", "correct cfg.json")


def _canonical(weights: dict[str, Tensor], config: _Config, architecture: str) -> dict[str, Tensor]:
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        weights.pop(name, None)
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    if "topk_threshold" in weights:
        weights["threshold"] = weights.pop("topk_threshold").float()
    if architecture == "matching_pursuit" and not config.apply_b_dec_to_input:
        weights["b_dec"] = torch.zeros_like(weights["b_dec"])
    training = "batchtopk" in architecture
    rescale = config.rescale_acts_by_decoder_norm
    if architecture in _RESCALED and (training if rescale is None else rescale):
        fold_decoder_norms(weights)
    return weights


def _normalisation(config: _Config) -> str:
    value = config.normalize_activations
    if isinstance(value, bool):
        return "expected_average_only_in" if value else "none"
    return value or "none"


def _fold_units(
    config: _Config, folder: Path
) -> tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], tuple[str, ...]]:
    path, kind = folder / CONFIG_FILE, _normalisation(config)
    scaler_path = folder / "activation_scaler.json"
    scaler = (
        validate(_Scaler, read_json(scaler_path), scaler_path)
        if scaler_path.exists()
        else _Scaler()
    )
    if kind in _RUN_TIME:
        return (lambda weights: weights), ()
    if kind == "expected_average_only_in" and scaler.scaling_factor is not None:
        factor = scaler.scaling_factor
        return (lambda weights: fold_scale(weights, factor)), ()
    if kind == "covariance_whitening" and scaler.has_whitening:
        return _unwhitener(config, folder), ()
    raise CheckpointError(
        path,
        f"expects activations normalised by {kind!r}, and their factor is not in the folder",
        "keep activation_scaler.json beside it, or save the final, folded weights",
    )


def _unwhitener(config: _Config, folder: Path) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    path, d_in = folder / "activation_whitening.safetensors", config.d_in
    whitening = read_safetensors(path)
    shapes = {"mean": (d_in,), "matrix": (d_in, d_in), "inverse_matrix": (d_in, d_in)}
    for name, shape in shapes.items():
        if name not in whitening or tuple(whitening[name].shape) != shape:
            raise CheckpointError(path, f"lacks {name} {list(shape)}", "restore the file")
    if config.architecture == "matching_pursuit":
        raise CheckpointError(path, "pursuit in whitened units cannot be folded", "train without")
    mean, into, back = (whitening[name].float() for name in shapes)
    subtracts = config.apply_b_dec_to_input
    bias = "b_gate" if config.architecture == "gated" else "b_enc"
    return lambda weights: fold_whitening(weights, Whitening(mean, into, back), bias, subtracts)


def _options(config: _Config, architecture: str, path: Path) -> dict[str, Any]:
    if architecture == "matching_pursuit":
        names = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")
        return {name: getattr(config, name) for name in names}
    if architecture not in _RESCALED:
        return {}
    k = (config.activation_fn_kwargs or {}).get("k") if config.k is None else config.k
    if not isinstance(k, int | float):
        raise CheckpointError(path, f"is a {architecture} without k", "restore k in cfg.json")
    if architecture in ("topk", "abstopk"):
        if k != int(k):
            raise CheckpointError(path, f"k is {k}, no whole number", "restore k in cfg.json")
        return {"k": int(k)}
    return {"k": float(k)}


def _about(
    config: _Config, metadata: _Metadata, architecture: str, document: dict[str, Any]
) -> dict[str, Any]:
    trained_as = metadata.training_architecture
    coefficient = config.l1_coefficient if architecture != "jumprelu" else config.l0_coefficient
    about: dict[str, Any] = {
        "hook": metadata.hook_name,
        "model": metadata.model_name,
        "dataset": metadata.dataset_path,
        "context_length": metadata.context_size,
        "prepend_bos": metadata.prepend_bos is not False,
        "weight_processing": _weight_processing(metadata),
        "coefficient": coefficient,
        "provenance": {
            "version": metadata.sae_lens_version or metadata.sae_lens_training_version,
            "config": document,
        },
    }
    if trained_as is not None and trained_as not in ("standard", architecture):
        about["label"] = trained_as
    return about


def _weight_processing(metadata: _Metadata) -> WeightProcessing:
    """Whether SAELens processed the model's weights so that activations at the hook differ.

    It asks TransformerLens for none, but for what the configuration names.
    """
    asked = {name for name, on in (metadata.model_from_pretrained_kwargs or {}).items() if on}
    hook = metadata.hook_name or ""
    felt = {"center_writing_weights"}
    if hook.endswith(("hook_z", "hook_v")):
        felt = {"fold_value_biases"}
    elif hook.endswith("hook_normalized"):
        felt = {"fold_ln"}
    return "processed" if asked & felt else "none"


FORMAT = foreign("saelens", "SAELens", _find, _interpret, _files)
