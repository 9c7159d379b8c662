"""EleutherAI sparsify: ``cfg.json`` and ``sae.safetensors``; the run's ``config.json`` above."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, Field
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.hook_names import ASKED_FOR, DOUBTFUL, of_module, of_ports
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
    skip = "W_skip" in weights
    if config.skip_connection != skip:
        held = "holds a skip connection" if skip else "holds no skip connection"
        raise CheckpointError(
            weights_path, f"{held}, its config says otherwise", "restore the config of this run"
        )
    transcodes = config.transcode or skip
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
        if "W_skip" in renamed and renamed["W_skip"].ndim == 2:
            renamed["W_skip"] = renamed["W_skip"].t()
        return renamed

    hooks, problems = _hooks(folder, config)
    run_document = read_json(above[0]) if above else None
    run = validate(_RunConfig, run_document or {}, above[0] if above else path)
    if config.transcode and "activation" not in document:
        problems += (
            "its version of sparsify may have subtracted b_dec from a transcoder's input, as those "
            "before February 2025 did: here nothing is subtracted",
        )
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
        d_out=d_in if transcodes else None,
        skip=skip,
        apply_b_dec_to_input=not config.transcode,
        problems=problems,
        about={
            **hooks,
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


def _hooks(folder: Path, config: _Config) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """The hook points that a folder's name refers to, and doubts about them.

    A transcoder reads a module's input and predicts its output. An autoencoder with a skip
    connection that is no transcoder reads the module's output, which it also has to predict.
    """
    name = _hook_folder(folder).name
    if config.transcode or config.skip_connection:
        entering, leaving = of_ports(name)
        return {"hook": entering if config.transcode else leaving, "hook_out": leaving}, ()
    hook = of_module(name)
    if hook is None:
        return {"hook": None}, (f"the hook point of {name!r} is unknown: {ASKED_FOR}",)
    return {"hook": hook}, (DOUBTFUL,) if hook.endswith(("mlp_out", "attn_out")) else ()


FORMAT = foreign("sparsify", "eai-sparsify", _find, _interpret, _files)
