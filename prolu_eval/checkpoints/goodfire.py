"""Autoencoders of Goodfire and qresearch: one state dict of two linear layers.

Both are ReLU autoencoders that do not subtract the decoder bias. Files are named after model and
layer, ``MODEL-SAE-lN.pt`` or ``.pth``. Their layers are called ``encoder_linear`` and
``decoder_linear`` (Goodfire), or ``encoder`` and ``decoder`` (qresearch).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from prolu_eval.checkpoints.base import Content, Format, foreign, size
from prolu_eval.checkpoints.torch_files import mentions, read_torch

_FILE = re.compile(r"(?P<model>[\w.-]+)-SAE-l(?P<layer>\d+)\.pth?")
_OWNERS = {"Llama-": "meta-llama", "DeepSeek-": "deepseek-ai"}
_PARTS = {"weight": "W", "bias": "b"}


def _linear(name: str, library: str, suffix: str, *, claims_unreadable: bool) -> Format:
    """The format of files in which the names of layers end with ``suffix``.

    With ``claims_unreadable``, it also finds files whose tensor names cannot be read, so that such
    a file is reported as damaged, by only one of the two formats.
    """
    names = {
        f"{layer}oder{suffix}.{part}": f"{short}_{layer}"
        for layer in ("enc", "dec")
        for part, short in _PARTS.items()
    }

    def find(folder: Path, files: frozenset[str]) -> Iterable[Path]:
        for file in sorted(files):
            path = folder / file
            if _FILE.fullmatch(file) and (
                mentions(path, names) or (claims_unreadable and not mentions(path, ()))
            ):
                yield path

    def interpret(path: Path) -> Mapping[str | None, Content]:
        state = {n: t for n, t in read_torch(path).items() if isinstance(t, Tensor)}
        weights = {names.get(n, n): t for n, t in state.items()}
        d_in, d_sae = size(weights, "W_dec", path)
        size(weights, "W_enc", path)
        content = Content(
            "relu",
            d_in,
            d_sae,
            lambda: weights | {n: weights[n].t() for n in ("W_enc", "W_dec")},
            apply_b_dec_to_input=False,
            about=_about(path),
        )
        return {None: content}

    return foreign(name, library, find, interpret, lambda path: (path,))


def _about(path: Path) -> dict[str, str | None]:
    match = _FILE.fullmatch(path.name)
    if match is None:
        return {"weight_processing": "none"}
    model = match["model"]
    owner = next((o for prefix, o in _OWNERS.items() if model.startswith(prefix)), None)
    return {
        "hook": f"blocks.{int(match['layer'])}.hook_resid_post",
        "model": model if owner is None else f"{owner}/{model}",
        "weight_processing": "none",
    }


GOODFIRE = _linear("goodfire", "Goodfire", "_linear", claims_unreadable=True)
QRESEARCH = _linear("qresearch", "qresearch", "", claims_unreadable=False)
