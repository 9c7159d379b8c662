"""Gemma Scope 2's cross-layer transcoders and weakly causal crosscoders: one file per layer.

``params_layer_{i}.safetensors`` holds the encoder of one layer, ``w_enc`` [d, n], and the decoder
of its features for every layer, ``w_dec`` [n, n_layers, d], which is zero for earlier layers.
Cross-layer transcoders are in folders ``clt`` and read every block. Crosscoders are in folders
``crosscoder`` and read the blocks that the folder's name lists, as in
``layer_7_13_17_22_width_262k_l0_medium``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign
from prolu_eval.checkpoints.gemma_scope import about, model_of, model_of_path
from prolu_eval.checkpoints.reading import (
    read_json,
    read_safetensors,
    safetensors_shapes,
    validate,
)
from prolu_eval.checkpoints.several_sites import of_several_sites
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import hooks_of

_FILE = re.compile(r"params_layer_(\d{1,4})\.safetensors")
_CONFIG = "config.json"
_LAYERS = re.compile(r"layer_(\d+(?:_\d+)*)(?:_width|$)")
_REMEDY = "download the folder again"
_OF_LAYER = {"w_enc": "W_enc", "b_enc": "b_enc", "threshold": "threshold", "b_dec": "b_dec",
             "affine_skip_connection": "W_skip"}  # fmt: skip
# The decoder for earlier layers is rounding error if it is below this share of the whole decoder.
_NOTHING = 1e-3


class _Config(BaseModel):
    model_name: str | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if any(_FILE.fullmatch(name) for name in names):
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    found = [_FILE.fullmatch(path.name) for path in folder.iterdir()]
    n_layers = max((int(match[1]) for match in found if match), default=0) + 1
    config = folder / _CONFIG
    weights = [folder / f"params_layer_{i}.safetensors" for i in range(n_layers)]
    return (*((config,) if config.is_file() else ()), *weights)


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    files = _files(folder)
    weights = [path for path in files if path.name != _CONFIG]
    document = read_json(folder / _CONFIG) if files[0].name == _CONFIG else {}
    config = validate(_Config, document, folder / _CONFIG)
    shapes = safetensors_shapes(weights[0])
    encoder, decoder = shapes.get("w_enc", ()), shapes.get("w_dec", ())
    if len(encoder) != 2 or len(decoder) != 3 or 0 in (*encoder, *decoder):
        raise CheckpointError(weights[0], "lacks w_enc [d, n] and w_dec [n, layers, d]", _REMEDY)
    if decoder[1] != len(weights):
        reason = f"writes to {decoder[1]} layers, but there are files of {len(weights)}"
        raise CheckpointError(weights[0], reason, _REMEDY)
    (d_in, n), n_layers = encoder, len(weights)
    hooks, transcodes = _hooks(folder, n_layers)
    content = of_several_sites(
        "cross_layer",
        n_layers,
        d_in,
        n * n_layers,
        partial(_tensors, weights),
        jumps="threshold" in shapes,
        about=about(hooks, model_of(config.model_name) or model_of_path(folder), document),
        d_out=decoder[2] if transcodes else None,
        skip=transcodes and "affine_skip_connection" in shapes,
    )
    return {None: content}


def _hooks(folder: Path, n_layers: int) -> tuple[dict[str, str | None], bool]:
    """The hook points, and whether it is a transcoder, from the names of the folders."""
    place = folder.absolute()
    named = _LAYERS.match(place.name)
    if named is None and not place.parent.name.startswith("crosscoder"):
        blocks = range(n_layers)
        written = hooks_of(blocks, "hook_mlp_out")
        return {"hook": hooks_of(blocks, "ln2.hook_out"), "hook_out": written}, True
    layers = [int(layer) for layer in named[1].split("_")] if named else []
    known = len(layers) == n_layers and layers == sorted(set(layers))
    return {"hook": hooks_of(layers, "hook_resid_post") if known else None}, False


def _tensors(weights: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of all files; decoders start at their own layer."""
    found: dict[str, Tensor] = {}
    for i, path in enumerate(weights):
        for name, tensor in read_safetensors(path).items():
            if name == "w_dec" and tensor.ndim == 3:
                found[f"W_dec_{i}"] = _from_layer(tensor, i, path)
            else:
                found[f"{_OF_LAYER.get(name, name)}_{i}"] = tensor
    return found


def _from_layer(decoder: Tensor, layer: int, path: Path) -> Tensor:
    """A layer's decoder for itself and later layers. [n, layers, d] -> [n, layers - layer, d]

    Raises:
        CheckpointError: if features write to earlier layers, whose outputs are computed before
            them.
    """
    if layer and decoder.is_floating_point():
        earlier = decoder[:, :layer].float().norm()
        if earlier > _NOTHING * decoder.float().norm():
            raise CheckpointError(path, "writes to layers before the one that it reads", _REMEDY)
    return decoder[:, layer:]


FORMAT = foreign("gemma_scope_2_layers", "Gemma Scope 2", _find, _interpret, _files)
