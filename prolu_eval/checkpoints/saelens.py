"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, inference and training, 3.x to 6.x."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolu_eval.checkpoints import temporal
from prolu_eval.checkpoints.base import Content, Fold, foreign, size
from prolu_eval.checkpoints.folding import fold_decoder_norms
from prolu_eval.checkpoints.hook_names import DOUBTFUL, hook_of, is_hook, of_module, of_ports
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.checkpoints.saelens_config import (
    Config,
    Metadata,
    legacy_metadata,
    problems,
    weight_processing,
)
from prolu_eval.checkpoints.saelens_units import (
    RUN_TIME,
    SCALER_FILE,
    WHITENING_FILE,
    folding,
    normalisation,
    training_scale,
)
from prolu_eval.errors import CheckpointError

CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "sae_weights.safetensors"

_VARIANTS = {
    "standard": "relu",
    "matryoshka_batchtopk": "matryoshka",
    **{name: name for name in ("jumprelu", "gated", "topk", "abstopk", "batchtopk")},
    "matching_pursuit": "matching_pursuit",
    "tanh-relu": "tanh_relu",
}
# Activation functions, besides ReLU, of autoencoders that SAELens before 6 called standard.
_FUNCTIONS = ("topk", "tanh-relu")
_TRANSCODERS = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_RESCALED = ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk")
_REFUSED = {"temporal": temporal.REASON}


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if CONFIG_FILE in names and WEIGHTS_FILE in names:
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    kept = (folder / name for name in (SCALER_FILE, WHITENING_FILE))
    extra = tuple(path for path in kept if path.is_file())
    return (folder / CONFIG_FILE, *extra, folder / WEIGHTS_FILE)


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    path = folder / CONFIG_FILE
    document = read_json(path)
    config = validate(Config, document, path)
    metadata = config.metadata or legacy_metadata(document, path)
    architecture = _architecture(config, path)
    transcodes = architecture in _TRANSCODERS
    if not transcodes and metadata.hook_name_out not in (None, metadata.hook_name):
        raise CheckpointError(
            path,
            f"is {architecture}, which has one hook point, but names another to write to "
            f"({metadata.hook_name_out})",
            "restore the architecture in cfg.json",
        )
    weights = read_safetensors(folder / WEIGHTS_FILE)
    _known_tensors(weights, architecture, folder / WEIGHTS_FILE)
    kind = normalisation(config.normalize_activations)
    if transcodes and kind not in RUN_TIME:
        raise CheckpointError(
            path,
            f"expects activations normalised by {kind!r}, and which factor its outputs have is not "
            "told",
            "save it for activations as they are",
        )
    d_out = None
    if transcodes:
        d_out = config.d_out or size(weights, "W_dec", folder / WEIGHTS_FILE)[1]

    def scaled_by(scale: float) -> Content:
        return Content(
            _TRANSCODERS[architecture] if transcodes else _VARIANTS[architecture],
            config.d_in,
            config.d_sae,
            lambda: _renamed(weights, turn_skip=transcodes),
            _fold(config, architecture, scale, path, logarithm="log_threshold" in weights),
            _options(config, architecture, scale, path),
            config.apply_b_dec_to_input and not transcodes,
            RUN_TIME.get(kind, "none"),
            problems(metadata) + (() if transcodes else _hook_problems(metadata)),
            _about(config, metadata, architecture, document),
            d_out=d_out,
            skip="skip" in architecture,
        )

    scale = training_scale(kind, path)
    if scale is None:
        return {None: replace(scaled_by(1.0), rescaled=scaled_by)}
    return {None: scaled_by(scale)}


def _architecture(config: Config, path: Path) -> str:
    name = config.architecture
    for known, reason in _REFUSED.items():
        if known in name:
            raise CheckpointError(path, f"is a {name} autoencoder: {reason}", temporal.REMEDY)
    if name in _TRANSCODERS:
        return name
    if name not in _VARIANTS:
        known = ", ".join([*_VARIANTS, *_TRANSCODERS])
        raise CheckpointError(path, f"unknown architecture {name!r}", f"known are {known}")
    function = config.activation_fn_str or config.activation_fn or "relu"
    if name == "standard" and function in _FUNCTIONS:
        return function
    if function not in ("relu", name):
        raise CheckpointError(
            path,
            f"its activation function is {function!r}",
            f"evaluate standard autoencoders with relu, {' or '.join(_FUNCTIONS)}",
        )
    return name


def _known_tensors(weights: Mapping[str, Tensor], architecture: str, path: Path) -> None:
    if "W_skip" in weights and "skip" not in architecture:
        raise CheckpointError(
            path,
            f"has a skip connection, but says that it is a {architecture}",
            "restore the architecture in cfg.json",
        )
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in weights and not bool((weights[name].float() == 1).all()):
            raise CheckpointError(
                path, f"holds a {name} that SAELens itself cannot load", "fold it into W_dec"
            )
    if "b_gate" in weights and architecture != "gated":
        raise CheckpointError(path, f"holds b_gate but says {architecture}", "correct cfg.json")


def _renamed(weights: Mapping[str, Tensor], *, turn_skip: bool) -> dict[str, Tensor]:
    tensors = {n: t for n, t in weights.items() if not n.endswith("scaling_factor")}
    for name in ("log_threshold", "topk_threshold"):
        if name in tensors:
            tensors["threshold"] = tensors.pop(name)
    if turn_skip and "W_skip" in tensors and tensors["W_skip"].ndim == 2:
        tensors["W_skip"] = tensors["W_skip"].T
    return tensors


def _fold(config: Config, architecture: str, scale: float, path: Path, *, logarithm: bool) -> Fold:
    training = "batchtopk" in architecture
    rescale = config.rescale_acts_by_decoder_norm
    rescaled = architecture in _RESCALED and (training if rescale is None else rescale)
    tied = architecture == "matching_pursuit"
    zeroed = tied and not config.apply_b_dec_to_input
    fold_units = folding(
        normalisation(config.normalize_activations),
        scale,
        path,
        config.d_in,
        architecture,
        subtracts=config.apply_b_dec_to_input,
        keep_rows=rescaled or tied,
    )

    def fold(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        if logarithm:
            weights = weights | {"threshold": weights["threshold"].exp()}
        if zeroed:
            weights = weights | {"b_dec": torch.zeros_like(weights["b_dec"])}
        return fold_units(fold_decoder_norms(weights) if rescaled else weights)

    return fold


def _options(config: Config, architecture: str, scale: float, path: Path) -> dict[str, Any]:
    if architecture == "matching_pursuit":
        return {
            "residual_threshold": config.residual_threshold / scale,
            "max_iterations": config.max_iterations,
            "stop_on_duplicate_support": config.stop_on_duplicate_support,
        }
    if architecture not in _RESCALED:
        return {}
    k = (config.activation_fn_kwargs or {}).get("k") if config.k is None else config.k
    if not isinstance(k, int | float):
        raise CheckpointError(path, f"is a {architecture} without k", "restore k in cfg.json")
    if architecture in ("topk", "abstopk"):
        if k != int(k):
            raise CheckpointError(path, f"k is {k}, no whole number", "restore k in cfg.json")
        return {"k": int(k)}
    if architecture == "matryoshka_batchtopk":
        widths = [0, *(config.matryoshka_widths or [config.d_sae])]
        return {"k": float(k), "group_sizes": tuple(b - a for a, b in pairwise(widths))}
    return {"k": float(k)}


def _hook(metadata: Metadata) -> str | None:
    """The hook point, including the head if the autoencoder reads only one head."""
    hook = hook_of(metadata.hook_name)
    if hook is None or metadata.hook_head_index is None:
        return hook
    return f"{hook}[{metadata.hook_head_index}]"


def _hook_problems(metadata: Metadata) -> tuple[str, ...]:
    """Doubts about a hook point that is named by a module of the Hugging Face model."""
    hook = of_module(metadata.hook_name or "") or ""
    return (DOUBTFUL,) if hook.endswith(("mlp_out", "attn_out")) else ()


def _site(name: str) -> str:
    """A hook point by its name in SAELens, which without TransformerLens is a module's path.

    Such a path refers to the module's output.
    """
    return name if is_hook(name) else of_ports(name)[1]


def _about(
    config: Config, metadata: Metadata, architecture: str, document: dict[str, Any]
) -> dict[str, Any]:
    trained_as = metadata.training_architecture
    hooks: dict[str, str | None] = {"hook": _hook(metadata)}
    if architecture in _TRANSCODERS:
        names = {"hook": metadata.hook_name, "hook_out": metadata.hook_name_out}
        hooks = {key: name and _site(name) for key, name in names.items()}
    coefficient = config.coefficient(architecture)
    if coefficient is None and metadata.training_architecture_details is not None:
        coefficient = metadata.training_architecture_details.coefficient(architecture)
    about: dict[str, Any] = {
        **hooks,
        "model": metadata.model_name,
        "dataset": metadata.dataset_path,
        "context_length": metadata.context_size,
        "prepend_bos": metadata.prepend_bos is not False,
        "weight_processing": weight_processing(metadata),
        "coefficient": coefficient,
        "provenance": {
            "version": metadata.sae_lens_version or metadata.sae_lens_training_version,
            "config": document,
        },
    }
    said = (None, "standard", architecture, *_TRANSCODERS)
    if architecture not in _TRANSCODERS and trained_as not in said:
        about["label"] = trained_as
    return about


FORMAT = foreign("saelens", "SAELens", _find, _interpret, _files)
