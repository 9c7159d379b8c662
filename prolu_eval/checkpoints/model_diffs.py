"""Kissane's crosscoders of a model and its tuned form: ``cfg.json`` and ``cc_weights.pt``.

Tensors are ``W_enc`` [2, d_in, d_sae], ``b_enc`` [d_sae], ``W_dec`` [d_sae, 2, d_in] and ``b_dec``
[2, d_in]. In training, each model's activations were multiplied by a factor: sqrt(d_in) over their
mean norm on the first text. The original files do not contain these factors. A file
``activation_scaler.json`` can be added to give them, as ``{"scaling_factor": [FIRST, SECOND]}``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign
from prolu_eval.checkpoints.reading import read_json, validate
from prolu_eval.checkpoints.saelens_units import SCALER_FILE
from prolu_eval.checkpoints.several_sites import of_several_sites
from prolu_eval.checkpoints.torch_files import read_torch
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import hooks_of, of_two_models

_CONFIG, _WEIGHTS = "cfg.json", "cc_weights.pt"
_REMEDY = "download it again"
_MODELS = 2
_TUNED = {"gemma-2-2b": "gemma-2-2b-it"}  # the files name only the first
_KEEP = (
    f"each of its models has its own factor: write them beside it in {SCALER_FILE}, as "
    '{"scaling_factor": [FIRST, SECOND]}'
)


class _Config(BaseModel):
    model_name: str | None = None
    hook_point: str | None = None
    l1_coeff: float | None = None
    lr: float | None = None
    seed: int | None = None


class _Scaler(BaseModel):
    scaling_factor: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        min_length=_MODELS, max_length=_MODELS
    )


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _CONFIG in names and _WEIGHTS in names:
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    scaler = folder / SCALER_FILE
    return (folder / _CONFIG, *((scaler,) if scaler.is_file() else ()), folder / _WEIGHTS)


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    files = _files(folder)
    document, path = read_json(files[0]), files[-1]
    config = validate(_Config, document, files[0])
    weights = {n: t for n, t in read_torch(path).items() if isinstance(t, Tensor)}
    encoder = weights.get("W_enc")
    if encoder is None or encoder.ndim != 3 or len(encoder) != _MODELS or 0 in encoder.shape:
        raise CheckpointError(path, "lacks W_enc [2 models, d, features]", _REMEDY)
    _, d_in, d_sae = encoder.shape
    about = {
        "hook": _hook(config.hook_point),
        "model": _both(config.model_name),
        "context_length": 1024,
        "coefficient": config.l1_coeff,
        "learning_rate": config.lr,
        "seed": config.seed,
        "provenance": {"config": document},
    }

    def scaled_by(*scales: float) -> Content:
        return of_several_sites(
            "crosscoder",
            _MODELS,
            d_in,
            d_sae,
            partial(_tensors, weights, path),
            fold=partial(_folded, scales),
            jumps=False,
            about=about,
        )

    if len(files) == 3:
        scaler = validate(_Scaler, read_json(files[1]), files[1])
        return {None: scaled_by(*scaler.scaling_factor)}
    return {None: replace(scaled_by(1.0, 1.0), problems=(_KEEP,), rescaled=scaled_by)}


def _hook(point: str | None) -> str | None:
    """The site of both models, from the name that each model has for it."""
    match = re.fullmatch(r"blocks\.(\d{1,4})\.(\S+)", point or "")
    return hooks_of([int(match[1])] * _MODELS, match[2]) if match else None


def _both(name: str | None) -> str | None:
    """The two models, from the name of the first; None if the second is unknown."""
    first = (name or "").removeprefix("google/")
    tuned = _TUNED.get(first)
    return None if tuned is None else of_two_models(f"google/{first}", f"google/{tuned}")


def _tensors(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by site."""
    found = dict(weights)
    for name, axis in (("W_enc", 0), ("W_dec", 1), ("b_dec", 0)):
        stacked = found.pop(name, None)
        if stacked is None or stacked.ndim <= axis or stacked.shape[axis] != _MODELS:
            raise CheckpointError(path, f"lacks {name} of {_MODELS} models", _REMEDY)
        found |= {f"{name}_{i}": tensor for i, tensor in enumerate(stacked.unbind(axis))}
    return found


def _folded(scales: Sequence[float], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the factors into the weights, for unscaled activations; codes are unchanged."""
    folded = dict(tensors)
    for i, scale in enumerate(scales):
        folded[f"W_enc_{i}"] = tensors[f"W_enc_{i}"] * scale
        for name in (f"W_dec_{i}", f"b_dec_{i}"):
            folded[name] = tensors[name] / scale
    return folded


FORMAT = foreign(
    "crosscoder_model_diff", "crosscoder-model-diff-replication", _find, _interpret, _files
)
