"""OpenAI's sparse_autoencoder: one ``.pt`` per layer, a state dict without any config."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.torch_files import mentions, read_torch
from prolu_eval.errors import CheckpointError

_SIGNATURE = {"pre_bias", "latent_bias", "encoder.weight"}
_NAMES = {"pre_bias": "b_dec", "latent_bias": "b_enc"}
_HOOKS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    certain = folder.name == "autoencoders"
    for name in sorted(names):
        if name.endswith(".pt") and (certain or mentions(folder / name, _SIGNATURE)):
            yield folder / name


def _interpret(path: Path) -> Mapping[str | None, Content]:
    state = read_torch(path)
    if missing := _SIGNATURE - state.keys():
        raise CheckpointError(
            path, f"lacks {min(missing)}", "an OpenAI checkpoint has pre_bias and latent_bias"
        )
    d_sae, d_in = size(state, "encoder.weight", path)
    variant, options = _activation(state, path)
    content = Content(
        variant,
        d_in,
        d_sae,
        lambda: _tensors(state, path),
        options=options,
        normalisation="layer_norm" if variant == "topk" else "none",
        about={"hook": _hook(path), "model": "gpt2", "weight_processing": "none"},
    )
    return {None: content}


def _activation(state: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    name, settings = state.get("activation", "ReLU"), state.get("activation_state_dict", {})
    if name == "ReLU":
        return "relu", {}
    if name != "TopK" or not isinstance(settings, dict):
        raise CheckpointError(
            path, f"its activation is {name!s:.40}", "evaluate autoencoders with ReLU or TopK"
        )
    k = settings.get("k", state.get("activation.k"))
    after = settings.get("postact_fn", state.get("activation.postact_fn", "ReLU"))
    k = k.item() if isinstance(k, Tensor) and k.numel() == 1 else k
    k = int(k) if isinstance(k, float) and k.is_integer() else k
    if not isinstance(k, int) or k < 1 or after not in ("ReLU", "Identity"):
        raise CheckpointError(path, f"is a TopK with k {k!r} and {after!r}", "restore the file")
    return "topk", {"k": k, "rectify": after == "ReLU"}


def _tensors(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    tied = "decoder.linear.weight" in state
    decoder = "decoder.linear.weight" if tied else "decoder.weight"
    size(state, decoder, path)
    return {
        "W_enc": state["encoder.weight"].t(),
        "W_dec": state[decoder] if tied else state[decoder].t(),
        **{new: _vector(state, old, path) for old, new in _NAMES.items()},
    }


def _vector(state: Mapping[str, Any], name: str, path: Path) -> Tensor:
    tensor = state[name]
    if not isinstance(tensor, Tensor):
        raise CheckpointError(path, f"{name} is no tensor", "restore the file")
    return tensor


def _hook(path: Path) -> str | None:
    location = re.sub(r"_v\d+(_\w+)?$", "", path.parent.parent.name)
    if location in _HOOKS and path.stem.isdigit():
        return f"blocks.{int(path.stem)}.{_HOOKS[location]}"
    return None


FORMAT = foreign("openai", "sparse_autoencoder", _find, _interpret, lambda path: (path,))
