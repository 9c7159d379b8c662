"""dictionary_learning: ``ae.pt`` (or ``checkpoints/ae_{step}.pt``) and ``config.json``."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from torch import Tensor

from prolu_eval.checkpoints import crosscoders
from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.hook_names import ASKED_FOR, of_free_name, of_ports
from prolu_eval.checkpoints.reading import read_json, validate
from prolu_eval.checkpoints.torch_files import read_torch
from prolu_eval.errors import CheckpointError

_WEIGHTS = re.compile(r"ae(_\d+)?\.pt")
_LINEAR = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
    "bias": "b_dec",
    "decoder_bias": "b_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
}


class _Trainer(BaseModel):
    trainer_class: str | None = None
    dict_class: str | None = None
    layer: int | None = None
    lm_name: str | None = None
    submodule_name: str | None = None
    seed: int | None = None
    lr: float | None = None
    l1_penalty: float | list[float] | None = None
    sparsity_penalty: float | list[float] | None = None


class _Buffer(BaseModel):
    # "in", "out", or for transcoders "in_and_out"
    io: str | None = None
    ctx_len: int | None = Field(None, gt=0)


class _Config(BaseModel):
    trainer: _Trainer
    buffer: _Buffer | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if "ae.pt" in names and "config.json" in names:
        yield folder
    if (folder.parent / "config.json").is_file():
        yield from (folder / n for n in sorted(names) if _WEIGHTS.fullmatch(n) and n != "ae.pt")


def _files(place: Path) -> tuple[Path, ...]:
    if place.suffix == ".pt":
        return place.parent.parent / "config.json", place
    return place / "config.json", place / "ae.pt"


def _interpret(place: Path) -> Mapping[str | None, Content]:
    config_path, path = _files(place)
    document = read_json(config_path)
    config = validate(_Config, document, config_path)
    transcodes = config.buffer is not None and config.buffer.io == "in_and_out"
    backup = read_torch(path)
    state, scale = _interrupted(backup, path)
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if any(n.endswith("encoder.weight") and t.ndim == 3 for n, t in weights.items()):
        return {None: crosscoders.content_of(weights, document, path)}
    wanted = config.trainer.dict_class or config.trainer.trainer_class or ""
    if "W_enc" in weights:
        variant, options, tensors, subtract = _direct(weights, path)
    else:
        variant, options, tensors, subtract = _linear(weights, wanted, path)
    d_sae, d_in = size(tensors, "W_dec", path)

    problems = _problems(variant, tensors) + _hook_problems(config)
    if state is not backup:
        problems += ("its training was interrupted: this is a backup from during the training",)
    content = Content(
        variant,
        d_in,
        d_sae,
        lambda: tensors,
        partial(_scale_biases, scale),
        options,
        subtract,
        problems=problems,
        about=_about(config, variant, document),
        d_out=d_in if transcodes else None,
    )
    return {None: content}


def _interrupted(weights: dict[str, Any], path: Path) -> tuple[dict[str, Any], float]:
    """The state dict, and the factor by which its biases must still be multiplied."""
    if not isinstance(weights.get("ae"), dict):
        return weights, 1.0
    factor = weights.get("norm_factor")
    factor = factor.item() if isinstance(factor, Tensor) and factor.numel() == 1 else factor
    if factor is None:
        return weights["ae"], 1.0
    if not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise CheckpointError(path, f"norm_factor is {factor}", "use a finished checkpoint")
    return weights["ae"], float(factor)


def _scale_biases(scale: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The library's own ``scale_biases``, which it applies when it saves a finished training."""
    matrices = ("W_enc", "W_dec", "r_mag")
    return {n: t if n in matrices else t * scale for n, t in tensors.items()}


def _linear(
    weights: Mapping[str, Tensor], wanted: str, path: Path
) -> tuple[str, dict[str, Any], dict[str, Tensor], bool]:
    tensors = {_LINEAR.get(name, name): value for name, value in weights.items()}
    for name in ("W_enc", "W_dec"):
        if name in tensors:
            tensors[name] = tensors[name].t() if tensors[name].ndim == 2 else tensors[name]
    if "b_gate" in tensors:
        return "gated", {}, tensors, True
    if "k" in tensors:
        options = {"k": _integer(tensors.pop("k"), path)}
        if "BatchTopK" in wanted:
            return "batchtopk", options, tensors, True
        if "TopK" not in wanted:
            raise CheckpointError(
                path,
                "could be a TopK or a BatchTopK, and its config does not say which",
                "restore dict_class in config.json",
            )
        tensors.pop("threshold", None)
        return "topk", options, tensors, True
    return "relu", {}, tensors, "decoder.bias" not in weights


def _direct(
    weights: Mapping[str, Tensor], path: Path
) -> tuple[str, dict[str, Any], dict[str, Tensor], bool]:
    tensors = dict(weights)
    if "k" not in tensors:
        return "jumprelu", {}, tensors, False
    options: dict[str, Any] = {"k": _integer(tensors.pop("k"), path)}
    sizes = tensors.pop("group_sizes", None)
    if sizes is None:
        return "batchtopk", options, tensors, True
    if sizes.ndim != 1 or sizes.is_floating_point():
        raise CheckpointError(path, "group_sizes is no list of sizes", "use another checkpoint")
    return "matryoshka", options | {"group_sizes": tuple(sizes.tolist())}, tensors, True


def _integer(k: Tensor, path: Path) -> int:
    if k.numel() != 1 or not bool(k.isfinite().all()) or k.item() < 1:
        raise CheckpointError(path, "k is no positive number", "use another checkpoint")
    return int(k.item())


def _problems(variant: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    threshold = tensors.get("threshold")
    if variant not in ("batchtopk", "matryoshka") or threshold is None or threshold.numel() != 1:
        return ()
    if threshold.item() >= 0:
        return ()
    return (
        "its threshold was never set (training ended too early): it runs as a plain ReLU SAE "
        "with far more active features than k",
    )


def _hook_problems(config: _Config) -> tuple[str, ...]:
    name, layer = config.trainer.submodule_name, config.trainer.layer
    if config.buffer is not None and config.buffer.io == "in_and_out":
        if _transcoder_hooks(config)["hook"] is None:
            return (f"the module of its submodule {name!r} is unknown: give --hook and --hook-out",)
        return ()
    if config.buffer is not None and config.buffer.io == "in":
        return (f"it reads the input of a submodule, whose hook point is unknown: {ASKED_FOR}",)
    if _hook(config) is None:
        where = "" if layer is None else f" of layer {layer}"
        return (f"the hook point of its submodule {name!r}{where} is unknown: {ASKED_FOR}",)
    if not name:
        return (f"it does not name its submodule: the output of layer {layer} is assumed",)
    return ()


def _hook(config: _Config) -> str | None:
    """The hook point of a submodule, whose name users choose freely or omit, as in examples."""
    layer, name = config.trainer.layer, config.trainer.submodule_name
    if (config.buffer is not None and config.buffer.io == "in") or (layer or 0) < 0:
        return None
    if not name:
        return None if layer is None else f"blocks.{layer}.hook_resid_post"
    return of_free_name(name, layer)


def _transcoder_hooks(config: _Config) -> dict[str, str | None]:
    """The sites that a transcoder reads and predicts: its submodule's input and output."""
    layer, name = config.trainer.layer, config.trainer.submodule_name
    hook = of_free_name(name, layer) if name else None
    match = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_post|mlp_out|attn_out)", hook or "")
    if match is None:
        return {"hook": None, "hook_out": None}
    modules = {"resid_post": "", "mlp_out": ".mlp", "attn_out": ".attn"}
    entering, leaving = of_ports(f"layers.{match[1]}{modules[match[2]]}")
    return {"hook": entering, "hook_out": leaving}


def _about(config: _Config, variant: str, document: dict[str, Any]) -> dict[str, Any]:
    trainer = config.trainer
    transcodes = config.buffer is not None and config.buffer.io == "in_and_out"
    coefficients = (trainer.l1_penalty, trainer.sparsity_penalty)
    about: dict[str, Any] = {
        **({"hook": _hook(config)} if not transcodes else _transcoder_hooks(config)),
        "model": trainer.lm_name,
        "context_length": config.buffer.ctx_len if config.buffer else None,
        "coefficient": next((c for c in coefficients if isinstance(c, float)), None),
        "learning_rate": trainer.lr,
        "seed": trainer.seed,
        "weight_processing": "none",
        "provenance": {"config": document},
    }
    labels = {"PAnnealTrainer": "relu+p_anneal", "GatedAnnealTrainer": "gated+p_anneal"}
    labels["StandardTrainerAprilUpdate"] = "relu+april_update"
    label = None if transcodes else labels.get(trainer.trainer_class or "")
    if label is not None and variant in label:
        about["label"] = label
    return about


FORMAT = foreign("dictionary_learning", "dictionary_learning", _find, _interpret, _files)
