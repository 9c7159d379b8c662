"""Temporal autoencoders (arXiv 2511.01836): ``conf.yaml`` and ``latest_ckpt.safetensors``."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from prolu_eval.checkpoints.base import Content, foreign
from prolu_eval.errors import CheckpointError

_CONFIG, _WEIGHTS = "conf.yaml", "latest_ckpt.safetensors"
REASON = "its codes depend on the tokens before, so it cannot be run token by token"
REMEDY = "leave it out, and evaluate autoencoders of single tokens"


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    if _CONFIG in names and _WEIGHTS in names:
        yield folder


def _files(folder: Path) -> tuple[Path, ...]:
    return folder / _CONFIG, folder / _WEIGHTS


def _interpret(folder: Path) -> Mapping[str | None, Content]:
    raise CheckpointError(folder / _CONFIG, f"is a temporal autoencoder: {REASON}", REMEDY)


FORMAT = foreign("temporal", "temporal-saes", _find, _interpret, _files)
