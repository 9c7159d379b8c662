"""Crosscoders that forks of dictionary_learning train, at several sites of one model or of two.

They are stored as ``ae.pt`` or ``model_final.pt`` with the ``config.json`` of their training, or in
the hub's form of modules: ``model.safetensors`` and a ``config.json`` of sizes. The tensors are
``encoder.weight`` [n_sites, d, d_sae], ``encoder.bias``, ``decoder.weight`` [n_sites, d_sae, d] and
``decoder.bias`` [n_sites, d]; some files also hold a mean and a factor of the activations. No file
says which sites a crosscoder reads. A crosscoder that compares two models reads one site of each.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.checkpoints.several_sites import of_several_sites
from prolu_eval.checkpoints.torch_files import read_torch
from prolu_eval.errors import CheckpointError

_CONFIG = "config.json"
_FILES = ("model_final.pt", "model.safetensors")
_SIZES = {"activation_dim", "dict_size", "num_layers"}
_LIBRARY = "dictionary_learning"
_REMEDY = "restore the file that training wrote"
_NORMALISER = ("activation_mean", "activation_std", "activation_global_scale", "target_rms")
# The norms by which a code is multiplied before it is compared with BatchTopK's threshold, by their
# numbers in the files.
_SUM_OF_NORMS, _NORM, _MIXED, _NONE, _DECOUPLED = range(1, 6)
_TINY = 1e-8
SITES_ASKED_FOR = (
    "is a crosscoder of {n} sites, and does not say which: give them with --hook, as "
    "blocks.7,13.hook_resid_post"
)


class _Trainer(BaseModel):
    dict_class: str | None = None
    lm_name: str | None = None
    lr: float | None = None
    l1_penalty: float | None = None
    seed: int | None = None


class _Config(BaseModel):
    trainer: _Trainer = _Trainer()


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _CONFIG in names and names.intersection(_FILES) and _is_of_one(folder / _CONFIG):
        yield from (folder / name for name in _FILES if name in names)


def _is_of_one(path: Path) -> bool:
    """Whether a config.json, a name that many formats use, is a crosscoder's."""
    try:
        document = read_json(path)
    except CheckpointError:
        return False
    trainer = document.get("trainer")
    named = trainer.get("dict_class") if isinstance(trainer, dict) else None
    return document.keys() >= _SIZES or "crosscoder" in str(named).lower()


def _files(path: Path) -> tuple[Path, ...]:
    return path.with_name(_CONFIG), path


def _interpret(path: Path) -> Mapping[str | None, Content]:
    document = read_json(path.with_name(_CONFIG))
    found = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    return {None: content_of(weights, document, path)}


def content_of(weights: Mapping[str, Tensor], document: dict[str, Any], path: Path) -> Content:
    """The content of a crosscoder, from its tensors and its configuration.

    Raises:
        CheckpointError: if tensors are missing, or if codes differ between sites.
    """
    config = validate(_Config, document, path.with_name(_CONFIG))
    compiled = {name.removeprefix("_orig_mod."): tensor for name, tensor in weights.items()}
    encoder = compiled.get("encoder.weight")
    if encoder is None or encoder.ndim != 3 or 0 in encoder.shape:
        raise CheckpointError(path, "lacks encoder.weight [sites, d, features]", _REMEDY)
    n_sites, d_in, d_sae = encoder.shape
    thresholds = _real(compiled, "threshold")
    jumps = thresholds is not None and thresholds.numel() > 0 and bool((thresholds >= 0).any())
    kind = _scalar(compiled, "code_normalization_id", _SUM_OF_NORMS, path)
    if kind == _DECOUPLED or (thresholds is not None and thresholds.numel() != 1):
        raise CheckpointError(
            path, "has codes that differ from site to site", "evaluate one whose codes are shared"
        )
    if jumps and kind not in (_SUM_OF_NORMS, _NORM, _NONE):
        raise CheckpointError(
            path, "multiplies codes by a mixture of norms that its file does not hold",
            "evaluate one of another code normalisation",
        )  # fmt: skip
    problems: tuple[str, ...] = (SITES_ASKED_FOR.format(n=n_sites),)
    if thresholds is not None and not jumps:
        problems += ("its threshold was never set (training ended too early): it runs as ReLU",)
    trainer = config.trainer
    return of_several_sites(
        "crosscoder",
        n_sites,
        d_in,
        d_sae,
        partial(_tensors, compiled, path),
        fold=partial(_folded, _normaliser(compiled, path), int(kind) if jumps else None),
        jumps=jumps,
        problems=problems,
        about={
            "hook": None,
            "model": trainer.lm_name,
            "coefficient": trainer.l1_penalty,
            "learning_rate": trainer.lr,
            "seed": trainer.seed,
            "provenance": {"config": document},
        },
    )


def _real(weights: Mapping[str, Tensor], name: str) -> Tensor | None:
    """A tensor in float32, a precision that supports all operations; None if it is missing."""
    value = weights.get(name)
    return None if value is None else value.float()


def _scalar(weights: Mapping[str, Tensor], name: str, default: float, path: Path) -> float:
    value = _real(weights, name)
    if value is None:
        return default
    if value.numel() != 1 or not bool(value.isfinite().all()):
        raise CheckpointError(path, f"{name} is no number", _REMEDY)
    return float(value.item())


def _normaliser(weights: Mapping[str, Tensor], path: Path) -> tuple[Tensor, float] | None:
    """The mean [n_sites, d] that is subtracted from activations, and their factor; None if none."""
    mean = _real(weights, "activation_mean")
    if mean is None or not bool(mean.isfinite().all()):
        return None  # the file has NaN if training used none
    factor = _scalar(weights, "activation_global_scale", 1.0, path)
    if mean.shape != weights["encoder.weight"].shape[:2]:
        raise CheckpointError(path, "activation_mean is not shaped as the activations", _REMEDY)
    if factor <= 0:
        raise CheckpointError(path, f"activation_global_scale is {factor}", _REMEDY)
    return mean, factor


def _tensors(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by site, without those that describe the training."""
    left_out = (*_NORMALISER, "code_normalization_id", "k", "threshold")
    found = {name: tensor for name, tensor in weights.items() if name not in left_out}
    n_sites = len(weights["encoder.weight"])
    for name, own in (("encoder.weight", "W_enc"), ("decoder.weight", "W_dec"),
                      ("decoder.bias", "b_dec")):  # fmt: skip
        stacked = found.pop(name, None)
        if stacked is None or stacked.ndim == 0 or len(stacked) != n_sites:
            raise CheckpointError(path, f"lacks {name} of {n_sites} sites", _REMEDY)
        found |= {f"{own}_{i}": tensor for i, tensor in enumerate(stacked)}
    if "encoder.bias" in found:
        found["b_enc"] = found.pop("encoder.bias")
    threshold = _real(weights, "threshold")
    if threshold is not None and bool((threshold >= 0).all()):
        d_sae = weights["encoder.weight"].shape[2]
        found["threshold"] = threshold.reshape(1).expand(d_sae)
    return found


def _folded(
    normaliser: tuple[Tensor, float] | None, kind: int | None, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Fold norms into thresholds of the codes, and the normaliser into the weights.

    The library compares a code times a norm with one threshold. ``kind`` says which norm; it is
    None if there is no threshold.
    """
    folded = dict(tensors)
    n_sites = sum(name.startswith("W_dec_") for name in tensors)
    norms = torch.stack([tensors[f"W_dec_{i}"].norm(dim=1) for i in range(n_sites)])
    if kind in (_SUM_OF_NORMS, _NORM):
        weight = norms.sum(0) if kind == _SUM_OF_NORMS else norms.norm(dim=0)
        # A feature whose decoder rows are zero never passes the threshold. Its code would change
        # nothing.
        passes = torch.finfo(weight.dtype).max
        folded["threshold"] = torch.where(weight > 0, tensors["threshold"] / weight, passes)
        folded["threshold"] = folded["threshold"].clamp(max=passes)
    if normaliser is not None:
        means, factor = normaliser
        for i, mean in enumerate(means.to(norms.dtype)):
            folded[f"W_enc_{i}"] = tensors[f"W_enc_{i}"] * factor
            folded["b_enc"] = folded["b_enc"] - mean @ folded[f"W_enc_{i}"]
            folded[f"W_dec_{i}"] = tensors[f"W_dec_{i}"] / (factor + _TINY)
            folded[f"b_dec_{i}"] = tensors[f"b_dec_{i}"] / (factor + _TINY) + mean
    return folded


FORMAT = foreign("dictionary_learning_crosscoder", _LIBRARY, _find, _interpret, _files)
