"""EleutherAI sparsify: ``cfg.json`` and ``sae.safetensors``; the run's ``config.json`` above."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, Field
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.hook_names import ASKED_FOR, DOUBTFUL, of_module
from prolu_eval.checkpoints.reading import read_json, read_safetensors, validate
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import WEIGHTS_FILE

_CONFIG = "cfg.json"
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


class _Config(BaseModel):
    d_in: int = Field(gt=0)
    k: int = Field(gt=0)
    activation: str = "topk"
    signed: bool = False
    transcode: bool = False
    skip_connection: bool = False


class _RunConfig(BaseModel):
    k_decay_steps: int = 0
    model: str | None = None
    dataset: str | None = None
    ctx_len: int | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _CONFIG in names and WEIGHTS_FILE in names:
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    run_level = _hook_folder(folder).parent / "config.json"
    above = (run_level,) if run_level.is_file() else ()
    return (*above, folder / _CONFIG, folder / WEIGHTS_FILE)


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    *above, path, weights_path = _files(folder)
    document = read_json(path)
    config = validate(_Config, document, path)
    weights = read_safetensors(weights_path)
    if config.transcode or config.skip_connection or "W_skip" in weights:
        kind = "has a skip connection: its output is no function of its codes"
        if config.transcode:
            kind = "is a transcoder: it reads a module's input and writes its output"
        raise CheckpointError(path, kind, "evaluate plain autoencoders")
    d_sae, d_in = size(weights, "W_dec", weights_path)
    if d_in != config.d_in:
        raise CheckpointError(
            path, f"says d_in {config.d_in}, the weights {d_in}", "restore the config of this run"
        )
    variant = _variant(config, path)

    def tensors() -> Mapping[str, Tensor]:
        renamed = {_NAMES.get(name, name): tensor for name, tensor in weights.items()}
        if "W_enc" in renamed and renamed["W_enc"].ndim == 2:
            renamed["W_enc"] = renamed["W_enc"].t()
        return renamed

    hook, problems = _hook(folder)
    run_document = read_json(above[0]) if above else None
    run = validate(_RunConfig, run_document or {}, above[0] if above else path)
    if run.k_decay_steps > 0:
        problems += (
            f"its k, {config.k}, was lowered over the first {run.k_decay_steps} steps of training "
            "and is still larger than the run's where it was saved before",
        )
    content = Content(
        variant,
        d_in,
        d_sae,
        tensors,
        options={"k": config.k},
        problems=problems,
        about={
            "hook": hook,
            "model": run.model,
            "dataset": run.dataset,
            "context_length": run.ctx_len,
            "seed": int(folder.name.removeprefix("seed")) if _is_seed(folder) else None,
            "weight_processing": "none",
            "provenance": {"config": document, "run_config": run_document},
        },
    )
    return {None: content}


def _variant(config: _Config, path: Path) -> str:
    if config.activation == "groupmax":
        return "groupmax"
    if config.activation != "topk":
        raise CheckpointError(
            path, f"unknown activation {config.activation!r}", "known are topk and groupmax"
        )
    return "abstopk" if config.signed else "topk"


def _is_seed(folder: Path) -> bool:
    return re.fullmatch(r"seed\d+", folder.name) is not None


def _hook_folder(folder: Path) -> Path:
    return folder.parent if _is_seed(folder) else folder


def _hook(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    name = _hook_folder(folder).name
    hook = of_module(name)
    if hook is None:
        return None, (f"the hook point of {name!r} is unknown: {ASKED_FOR}",)
    return hook, (DOUBTFUL,) if hook.endswith(("mlp_out", "attn_out")) else ()


FORMAT = foreign("sparsify", "eai-sparsify", _find, _interpret, _files)
