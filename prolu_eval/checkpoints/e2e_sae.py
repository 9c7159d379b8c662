"""Apollo's e2e_sae: ``samples_{N}.pt`` with several autoencoders, and ``final_config.yaml``."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor
from torch.nn.functional import normalize

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.reading import read_yaml, validate
from prolu_eval.checkpoints.torch_files import read_torch
from prolu_eval.errors import CheckpointError

_CONFIG = "final_config.yaml"
_KEY = re.compile(r"(.+)\.(encoder\.0\.weight|encoder\.0\.bias|decoder\.weight|decoder\.bias)")
_NAMES = {
    "encoder.0.weight": "W_enc",
    "encoder.0.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
}


class _Sparsity(BaseModel):
    coeff: float | None = None
    p_norm: float | None = None


class _Loss(BaseModel):
    sparsity: _Sparsity | None = None


class _Data(BaseModel):
    dataset_name: str | None = None
    n_ctx: int | None = None


class _Config(BaseModel):
    tlens_model_name: str | None = None
    tlens_model_path: str | None = None
    seed: int | None = None
    lr: float | None = None
    loss: _Loss | None = None
    train_data: _Data | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _CONFIG in names:
        yield from (folder / n for n in sorted(names) if re.fullmatch(r"samples_\d+\.pt", n))


def _files(path: Path) -> tuple[Path, ...]:
    return path.parent / _CONFIG, path


def _interpret(path: Path) -> Mapping[str | None, Content]:
    config_path = path.parent / _CONFIG
    document = read_yaml(config_path)
    about = _about(validate(_Config, document, config_path), document)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_torch(path).items():
        match = _KEY.fullmatch(str(key))
        if match is None or not isinstance(tensor, Tensor):
            raise CheckpointError(path, f"has an unexpected entry {key!r}", "restore the file")
        parts.setdefault(match[1], {})[_NAMES[match[2]]] = tensor
    if not parts:
        raise CheckpointError(path, "holds no autoencoder", "restore the file")
    return {
        position.replace("-", "."): _content(tensors, position, path, about)
        for position, tensors in parts.items()
    }


def _content(
    tensors: Mapping[str, Tensor], position: str, path: Path, about: Mapping[str, Any]
) -> Content:
    d_in, d_sae = size(tensors, "W_dec", path)
    size(tensors, "W_enc", path)

    def fold(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights | {"W_dec": normalize(weights["W_dec"], dim=1)}

    return Content(
        "relu",
        d_in,
        d_sae,
        lambda: {**tensors, "W_enc": tensors["W_enc"].t(), "W_dec": tensors["W_dec"].t()},
        fold,
        apply_b_dec_to_input=False,
        about={**about, "hook": position.replace("-", ".")},
    )


def _about(config: _Config, document: dict[str, Any]) -> dict[str, Any]:
    sparsity = config.loss.sparsity if config.loss else None
    data = config.train_data or _Data()
    return {
        "model": config.tlens_model_name or config.tlens_model_path,
        "dataset": data.dataset_name,
        "context_length": data.n_ctx,
        "coefficient": sparsity.coeff if sparsity else None,
        "learning_rate": config.lr,
        "seed": config.seed,
        "weight_processing": "processed",
        "provenance": {"config": document},
    }


FORMAT = foreign("e2e_sae", "e2e_sae", _find, _interpret, _files)
