"""Qwen Scope: ``layer{n}.sae.pt`` with one TopK autoencoder; k is in the repository's name."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.repositories import named
from prolu_eval.checkpoints.torch_files import read_torch
from prolu_eval.errors import CheckpointError

_FILE = re.compile(r"layer(\d+)\.sae\.pt")
_REPOSITORY = r"SAE-Res-(?P<model>Qwen[\w.-]+?)-W\d+K-L0_(?P<k>\d+)"


def _find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    yield from (folder / name for name in sorted(names) if _FILE.fullmatch(name))


def _interpret(path: Path) -> Mapping[str | None, Content]:
    repository = named(path.parent, _REPOSITORY)
    if repository is None:
        raise CheckpointError(
            path,
            "is a TopK autoencoder whose k is only in the name of its repository",
            "keep it in a folder of that name, such as SAE-Res-Qwen3-1.7B-Base-W32K-L0_50",
        )
    state = read_torch(path)
    d_in, d_sae = size(state, "W_dec", path)
    size(state, "W_enc", path)
    (layer,) = re.findall(r"\d+", path.name)
    content = Content(
        "topk",
        d_in,
        d_sae,
        lambda: _tensors(state),
        options={"k": int(repository["k"])},
        apply_b_dec_to_input=False,
        about={
            "hook": f"blocks.{int(layer)}.hook_resid_post",
            "model": f"Qwen/{repository['model']}",
            "context_length": 1024,
            "weight_processing": "none",
        },
    )
    return {None: content}


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Both matrices are stored transposed."""
    found = {n: t for n, t in state.items() if isinstance(t, Tensor)}
    return {n: t.t() if n in ("W_enc", "W_dec") else t for n, t in found.items()}


FORMAT = foreign("qwen_scope", "Qwen Scope", _find, _interpret, lambda path: (path,))
