"""Gemma Scope: ``params.npz`` (Gemma 2), ``params.safetensors`` and ``config.json`` (Gemma 3)."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.reading import (
    npz_shapes,
    read_json,
    read_npz,
    read_safetensors,
    validate,
)
from prolu_eval.checkpoints.repositories import named
from prolu_eval.errors import CheckpointError

_NPZ, _SAFETENSORS = "params.npz", "params.safetensors"
# The skip connection is [d_in, d_out], as in this package.
_NAMES = {"w_enc": "W_enc", "w_dec": "W_dec", "affine_skip_connection": "W_skip"}
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_HOOKS = {
    r"output": "hook_resid_post",
    r"post_feedforward_layernorm\.output": "hook_mlp_out",
    r"self_attn\.o_proj\.input": "attn.hook_z",
}
_REPOSITORY = re.compile(
    r"gemma-scope-(?P<size>\d+b)-(?P<tuned>pt|it)-(?P<site>res|mlp|att|transcoders)(?![a-z])"
)
_PATH_HOOKS = {
    "resid_post": "hook_resid_post",
    "attn_out": "attn.hook_z",
    "mlp_out": "hook_mlp_out",
}
_OF_LAYERS = "is one file, but a cross-layer transcoder consists of several"
_ONE_HOOK = "evaluate it in a folder with the name of its repository"


class _Config(BaseModel):
    architecture: str = "jump_relu"
    model_name: str | None = None
    hf_hook_point_in: str | None = None
    hf_hook_point_out: str | None = None


def _find_first(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _NPZ in names:
        yield folder


def _find_second(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _SAFETENSORS in names:
        yield folder


def _first(folder: Path) -> Mapping[str | None, Content]:
    path = folder / _NPZ
    repository, parts = _repository(folder)
    transcodes = "transcoder" in repository
    shapes = {_NAMES.get(name, name): shape for name, shape in npz_shapes(path).items()}
    d_sae, d_in, d_out = _sizes(shapes, path, transcodes=transcodes)

    def scaled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights for embeddings after Gemma's factor sqrt(d_in); b_dec is kept, as in SAELens."""
        return weights | {
            "W_enc": weights["W_enc"] / d_in**0.5,
            "W_dec": weights["W_dec"] * d_in**0.5,
        }

    content = Content(
        "jumprelu",
        d_in,
        d_sae,
        lambda: {_NAMES.get(name, name): array for name, array in read_npz(path).items()},
        scaled if "embedding" in parts else dict,
        apply_b_dec_to_input=False,
        about=about(_path_hooks(repository, parts), _path_model(repository)),
        d_out=d_out,
    )
    return {None: content}


def _sizes(
    shapes: Mapping[str, tuple[int, ...]], path: Path, *, transcodes: bool
) -> tuple[int, int, int | None]:
    """The number of features, the width of the input, and for a transcoder that of the output.

    Raises:
        CheckpointError: if a matrix is missing, or the matrices do not fit together.
    """
    shape, encoder = shapes.get("W_dec", ()), shapes.get("W_enc", ())
    if len(shape) != 2 or len(encoder) != 2 or 0 in shape:
        raise CheckpointError(path, "lacks the matrices W_enc and W_dec", "download it again")
    if transcodes and shape[0] == encoder[1]:
        return shape[0], encoder[0], shape[1]
    if shape != encoder[::-1]:
        raise CheckpointError(
            path, f"writes {shape[1]} numbers but reads {encoder[0]}: a transcoder", _ONE_HOOK
        )
    return shape[0], shape[1], None


def _repository(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The name of the repository that holds a folder, and the folders between the two.

    The repository is the nearest folder above that has the name of one of Gemma Scope's
    repositories, plain or in the form of the hub's cache; else the folder that holds
    ``layer_20/width_16k/average_l0_71``. Folders further above are not considered.
    """
    parts = folder.absolute().parts
    for index in range(len(parts) - 1, -1, -1):
        if _REPOSITORY.search(parts[index]):
            return parts[index], parts[index + 1 :]
    return parts[-4] if len(parts) > 3 else "", parts[-3:]


def _path_hooks(repository: str, parts: tuple[str, ...]) -> dict[str, str | None]:
    """The site that it reads and, of a transcoder, the site that it predicts.

    A transcoder predicts the MLP's output after the norm that follows the MLP.
    """
    if "embedding" in parts:
        return {"hook": "hook_embed"}
    layer = next((m[1] for p in parts if (m := re.fullmatch(r"layer_(\d+)", p))), None)
    site = _REPOSITORY.search(repository)
    if layer is None or site is None:
        return {"hook": None}
    if site["site"] == "transcoders":
        block = f"blocks.{layer}."
        return {"hook": f"{block}ln2.hook_normalized", "hook_out": f"{block}hook_mlp_out"}
    return {"hook": f"blocks.{layer}.{_SITES[site['site']]}"}


def _path_model(repository: str) -> str | None:
    match = _REPOSITORY.search(repository)
    if match is None:
        return None
    return f"google/gemma-2-{match['size']}{'-it' if match['tuned'] == 'it' else ''}"


def _second_files(folder: Path) -> tuple[Path, ...]:
    config = folder / "config.json"
    return (*((config,) if config.is_file() else ()), folder / _SAFETENSORS)


def _second(folder: Path) -> Mapping[str | None, Content]:
    path, config_path = folder / _SAFETENSORS, folder / "config.json"
    document = read_json(config_path) if config_path.is_file() else {}
    config = validate(_Config, document, config_path)
    if config.architecture not in ("jump_relu", "jumprelu"):
        raise CheckpointError(
            config_path, f"unknown architecture {config.architecture!r}", "known is jump_relu"
        )
    arrays = {_NAMES.get(name, name): array for name, array in read_safetensors(path).items()}
    place = folder.absolute().parent.name
    if place.startswith("clt"):
        raise CheckpointError(path, _OF_LAYERS, "download its files params_layer_0 and so on")
    elsewhere = config.hf_hook_point_out not in (None, config.hf_hook_point_in)
    skip = "W_skip" in arrays
    transcodes = place.startswith("transcoder") or elsewhere or skip
    size(arrays, "W_dec", path)
    d_sae, d_in, d_out = _sizes(
        {name: tuple(array.shape) for name, array in arrays.items()}, path, transcodes=transcodes
    )
    hooks = {"hook": _configured_hook(config.hf_hook_point_in) or _second_path_hook(folder)}
    if transcodes:
        hooks = _second_transcoder_hooks(config, folder)
    content = Content(
        "jumprelu",
        d_in,
        d_sae,
        lambda: arrays,
        apply_b_dec_to_input=False,
        about=about(hooks, model_of(config.model_name) or model_of_path(folder), document),
        d_out=d_out,
        skip=skip,
    )
    return {None: content}


def _second_transcoder_hooks(config: _Config, folder: Path) -> dict[str, str | None]:
    """The MLP's input after the norm before it, and its output after the norm that follows it."""
    read, written = config.hf_hook_point_in, config.hf_hook_point_out
    layer = re.match(r"layer_(\d+)_", folder.absolute().name)
    if layer is not None and (read is None or written is None):
        block = f"model.layers.{layer[1]}"
        read = read or f"{block}.pre_feedforward_layernorm.output"
        written = written or f"{block}.post_feedforward_layernorm.output"
    return {"hook": read, "hook_out": _configured_hook(written) or written}


def _configured_hook(point: str | None) -> str | None:
    for pattern, hook in _HOOKS.items():
        match = re.fullmatch(rf"(?:.*\.)?layers\.(\d+)\.{pattern}", point or "")
        if match:
            return f"blocks.{match[1]}.{hook}"
    return None


def _second_path_hook(folder: Path) -> str | None:
    """The hook point from the names of two folders: ``resid_post_all/layer_9_width_16k_l0_big``."""
    site = re.fullmatch(r"(resid_post|attn_out|mlp_out)(_all)?", folder.absolute().parent.name)
    layer = re.match(r"layer_(\d+)_", folder.absolute().name)
    return f"blocks.{layer[1]}.{_PATH_HOOKS[site[1]]}" if site and layer else None


def about(
    hooks: Mapping[str, str | None], model: str | None, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The :attr:`Content.about` of any dictionary of Gemma Scope.

    Args:
        hooks: the site that it reads and, for a transcoder, the site that it predicts.
        model: the model's name on the hub.
        config: the configuration beside it, empty if the file is missing; None if the release has
            no configurations.
    """
    told = {} if config is None else {"provenance": {"config": config}}
    return {
        **hooks, "model": model, "context_length": 1024, "weight_processing": "none", **told,
    }  # fmt: skip


def model_of(name: str | None) -> str | None:
    """The model's name on the hub; configurations omit the owner, and write v3 for 3."""
    if name is None:
        return None
    name = name.replace("-v3", "-3")
    if "270m" in name:  # only its pretrained model's name has no -pt
        name = name.removesuffix("-pt")
    return name if "/" in name else f"google/{name}"


def model_of_path(folder: Path) -> str | None:
    """The model from the repository's name, such as ``gemma-scope-2-1b-it``."""
    match = named(folder, r"gemma-scope-2-(\d+m|\d+b)-(pt|it)(?![a-z])")
    return None if match is None else model_of(f"gemma-3-{match[1]}-{match[2]}")


GEMMA_SCOPE = foreign("gemma_scope", "Gemma Scope", _find_first, _first, lambda f: (f / _NPZ,))
GEMMA_SCOPE_2 = foreign("gemma_scope_2", "Gemma Scope 2", _find_second, _second, _second_files)
