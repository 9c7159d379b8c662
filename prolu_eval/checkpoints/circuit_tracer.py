"""circuit-tracer's transcoders, one file ``layer_{i}.safetensors`` per layer, and a config.

The ``config.yaml`` of the set names the model and the hook points, which are the same in every
block. Some sets of Qwen 3 have only a ``wandb-config.yaml``; their repository's name tells the
model.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.reading import read_safetensors, read_yaml, validate
from prolu_eval.checkpoints.repositories import named
from prolu_eval.errors import CheckpointError

_FILE = re.compile(r"layer_(\d+)\.safetensors")
_CONFIG, _KIND = "config.yaml", "transcoder_set"
# The second name is a misspelling that some repositories have.
_TRAINING = ("wandb-config.yaml", "wanb-config.yaml")
_NAMES = {"activation_function.threshold": "threshold"}
_MATRICES = ("W_enc", "W_skip")  # stored [d_sae, d_in] and [d_out, d_in]


class _Config(BaseModel):
    model_name: str | None = None
    model_kind: str = _KIND
    feature_input_hook: str = "mlp.hook_in"
    feature_output_hook: str = "hook_mlp_out"


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if names.intersection((_CONFIG, *_TRAINING)):
        yield from (folder / name for name in sorted(names) if _FILE.fullmatch(name))


def _files(path: Path) -> tuple[Path, ...]:
    config = path.parent / _CONFIG
    return (config, path) if config.is_file() else (path,)


def _interpret(path: Path) -> Mapping[str | None, Content]:
    *configs, _ = _files(path)
    document = read_yaml(configs[0]) if configs else {}
    config = validate(_Config, document, path.parent / _CONFIG)
    if config.model_kind != _KIND:
        raise CheckpointError(
            path, f"is of kind {config.model_kind!r}", f"evaluate those of kind {_KIND!r}"
        )
    weights = {_NAMES.get(n, n): t for n, t in read_safetensors(path).items()}
    d_sae, d_out = size(weights, "W_dec", path)
    _, d_in = size(weights, "W_enc", path)
    (layer,) = re.findall(r"\d+", path.name)
    content = Content(
        "jumprelu" if "threshold" in weights else "relu",
        d_in,
        d_sae,
        lambda: _turned(weights),
        apply_b_dec_to_input=False,
        d_out=d_out,
        skip="W_skip" in weights,
        about=_about(config, int(layer), path, document),
    )
    return {None: content}


def _turned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.t() if n in _MATRICES and t.ndim == 2 else t for n, t in weights.items()}


def _about(config: _Config, layer: int, path: Path, document: dict[str, Any]) -> dict[str, Any]:
    model = config.model_name
    if model is None and (match := named(path.parent, r"qwen3-(\d+(?:\.\d+)?)b")):
        model = f"Qwen/Qwen3-{match[1]}B"
    return {
        "hook": f"blocks.{layer}.{config.feature_input_hook}",
        "hook_out": f"blocks.{layer}.{config.feature_output_hook}",
        "model": model,
        "weight_processing": "none",
        "provenance": {"config": document},
    }


FORMAT = foreign("circuit_tracer", "circuit-tracer", _find, _interpret, _files)
