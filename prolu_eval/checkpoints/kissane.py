"""Kissane's attention autoencoders, of all heads' z together: ``NAME.pt`` and ``NAME_cfg.json``."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.reading import read_json, validate
from prolu_eval.checkpoints.torch_files import read_torch
from prolu_eval.runs import Width

_CONFIG = "_cfg.json"


class _Config(BaseModel):
    act_size: Width
    dict_size: Width
    act_name: str
    model_name: str = "gpt2-small"
    l1_coeff: float | None = None
    lr: float | None = None
    seed: int | None = None


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    for name in sorted(names):
        if name.endswith(".pt") and name.removesuffix(".pt") + _CONFIG in names:
            yield folder / name


def _files(path: Path) -> tuple[Path, ...]:
    return path.with_name(path.name.removesuffix(".pt") + _CONFIG), path


def _interpret(path: Path) -> Mapping[str | None, Content]:
    config_path, _ = _files(path)
    document = read_json(config_path)
    config = validate(_Config, document, config_path)
    weights = {n: t for n, t in read_torch(path).items() if isinstance(t, Tensor)}
    size(weights, "W_dec", path)
    content = Content(
        "relu",
        config.act_size,
        config.dict_size,
        lambda: weights,
        about={
            "hook": config.act_name,
            "model": config.model_name,
            "dataset": "Skylion007/openwebtext",
            "context_length": 128,
            "weight_processing": "none",
            "coefficient": config.l1_coeff,
            "learning_rate": config.lr,
            "seed": config.seed,
            "provenance": {"config": document},
        },
    )
    return {None: content}


FORMAT = foreign("kissane", "attention-output-saes", _find, _interpret, _files)
