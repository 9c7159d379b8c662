"""EleutherAI sparsify: ``cfg.json`` and ``sae.safetensors``; the run's ``config.json`` above."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import WEIGHTS_FILE

_CONFIG = "cfg.json"
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_MODULES = {
    r"(layers|h|blocks)\.(\d+)": "blocks.{}.hook_resid_post",
    r"(layers|h|blocks)\.(\d+)\.mlp": "blocks.{}.hook_mlp_out",
    r"(layers|h|blocks)\.(\d+)\.(attn|self_attn|attention)": "blocks.{}.hook_attn_out",
    r"(embed_tokens|wte|embed_in)()": "hook_embed",
}


class _Config(BaseModel):
    d_in: int = Field(gt=0)
    k: int = Field(gt=0)
    activation: str = "topk"
    signed: bool = False
    transcode: bool = False
    skip_connection: bool = False


class _RunConfig(BaseModel):
    model: str | None = None
    dataset: str | None = None
    ctx_len: int | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _CONFIG in names and WEIGHTS_FILE in names:
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    return folder / _CONFIG, folder / WEIGHTS_FILE


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    path, weights_path = _files(folder)
    document = read_json(path)
    config = validate(_Config, document, path)
    weights = read_safetensors(weights_path)
    if config.transcode or config.skip_connection or "W_skip" in weights:
        kind = "is a transcoder" if config.transcode else "has a skip connection"
        raise CheckpointError(
            path, f"{kind}: its output is no function of its codes", "evaluate plain autoencoders"
        )
    d_sae, d_in = size(weights, "W_dec", weights_path)
    if d_in != config.d_in:
        raise CheckpointError(
            path, f"says d_in {config.d_in}, the weights {d_in}", "restore the config of this run"
        )
    variant = _variant(config, d_sae, path)

    def tensors() -> Mapping[str, Tensor]:
        renamed = {_NAMES.get(name, name): tensor for name, tensor in weights.items()}
        if "W_enc" in renamed and renamed["W_enc"].ndim == 2:
            renamed["W_enc"] = renamed["W_enc"].t()
        return renamed

    hook, hook_problems = _hook(folder)
    content = Content(
        variant,
        d_in,
        d_sae,
        tensors,
        {"k": config.k},
        problems=hook_problems,
        about={"hook": hook, **_run_level(folder, document)},
    )
    return {None: content}


def _variant(config: _Config, d_sae: int, path: Path) -> str:
    if config.activation == "groupmax":
        if d_sae % config.k:
            raise CheckpointError(
                path, f"{config.k} groups do not divide {d_sae} features", "correct k"
            )
        return "groupmax"
    if config.activation != "topk":
        raise CheckpointError(
            path, f"unknown activation {config.activation!r}", "known are topk and groupmax"
        )
    return "abstopk" if config.signed else "topk"


def _hook_folder(folder: Path) -> Path:
    return folder.parent if re.fullmatch(r"seed\d+", folder.name) else folder


def _hook(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    name = _hook_folder(folder).name
    for pattern, hook in _MODULES.items():
        if match := re.fullmatch(rf"(?:.*\.)?{pattern}", name):
            doubtful = (
                "on models with norms after a block's parts (Gemma 2 and 3) sparsify reads before "
                "that norm, the hook point after it",
            )
            return hook.format(match[2]), doubtful if hook.endswith(("mlp_out", "attn_out")) else ()
    return None, (f"the hook point of {name!r} is unknown: give it with --hook",)


def _run_level(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    seed = re.fullmatch(r"seed(\d+)", folder.name)
    about: dict[str, Any] = {
        "seed": int(seed[1]) if seed else None,
        "weight_processing": "none",
    }
    path = _hook_folder(folder).parent / "config.json"
    if not path.is_file():
        return about | {"provenance": {"config": document}}
    run_document = read_json(path)
    run = validate(_RunConfig, run_document, path)
    about |= {"model": run.model, "dataset": run.dataset, "context_length": run.ctx_len}
    return about | {"provenance": {"config": document, "run_config": run_document}}


FORMAT = foreign("sparsify", "eai-sparsify", _find, _interpret, _files)
