"""circuit-tracer's cross-layer transcoders: ``W_enc_i`` and ``W_dec_i`` files, ``config.yaml``."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign
from prolu_eval.checkpoints.reading import (
    read_safetensors,
    read_yaml,
    safetensors_shapes,
    validate,
)
from prolu_eval.checkpoints.several_sites import of_several_sites
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import hooks_of

_CONFIG = "config.yaml"
_FIRST = "W_enc_0.safetensors"
_REMEDY = "download the folder again"


class _Config(BaseModel):
    model_name: str | None = None
    model_kind: str = "cross_layer_transcoder"
    feature_input_hook: str = "hook_resid_mid"
    feature_output_hook: str = "hook_mlp_out"


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _FIRST in names:
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    found = [re.fullmatch(r"W_enc_(\d+)\.safetensors", path.name) for path in folder.iterdir()]
    n_layers = max((int(match[1]) for match in found if match), default=0) + 1
    config = folder / _CONFIG
    weights = [
        folder / f"{name}_{i}.safetensors" for name in ("W_enc", "W_dec") for i in range(n_layers)
    ]
    return (*((config,) if config.is_file() else ()), *weights)


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    files = _files(folder)
    weights = [path for path in files if path.name != _CONFIG]
    n_layers = len(weights) // 2
    document = read_yaml(folder / _CONFIG) if files[0].name == _CONFIG else {}
    config = validate(_Config, document, folder / _CONFIG)
    if config.model_kind != "cross_layer_transcoder":
        raise CheckpointError(
            folder / _CONFIG, f"says that it is a {config.model_kind}", "restore its config.yaml"
        )
    shapes = safetensors_shapes(weights[0])
    encoder = shapes.get("W_enc_0", ())
    if len(encoder) != 2 or 0 in encoder:
        raise CheckpointError(weights[0], "lacks the matrix W_enc_0", _REMEDY)
    n, d_in = encoder
    # W_enc_i [n, d_in]; the file of each layer also holds its biases
    width = shapes.get("b_dec_0", (d_in,))
    content = of_several_sites(
        "cross_layer",
        n_layers,
        d_in,
        n * n_layers,
        partial(_tensors, weights),
        jumps="threshold_0" in shapes,
        about={
            "hook": hooks_of(range(n_layers), config.feature_input_hook),
            "hook_out": hooks_of(range(n_layers), config.feature_output_hook),
            "model": config.model_name,
            "provenance": {"config": document},
        },
        d_out=width[0] if len(width) == 1 and width[0] else d_in,
    )
    return {None: content}


def _tensors(weights: list[Path]) -> dict[str, Tensor]:
    """The tensors of all files; the files hold encoders as [n, d_in]."""
    found: dict[str, Tensor] = {}
    for path in weights:
        found |= read_safetensors(path)
    return {
        name: tensor.T if name.startswith("W_enc_") and tensor.ndim == 2 else tensor
        for name, tensor in found.items()
    }


FORMAT = foreign("circuit_tracer_clt", "circuit-tracer", _find, _interpret, _files)
