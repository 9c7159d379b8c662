"""A format in one file: Goodfire's, a state dict of two linear layers and no configuration."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from prolu_eval.checkpoints.base import Content, foreign, size
from prolu_eval.checkpoints.torch_files import read_torch

NAMES = {
    "encoder_linear.weight": "W_enc",
    "encoder_linear.bias": "b_enc",
    "decoder_linear.weight": "W_dec",
    "decoder_linear.bias": "b_dec",
}


def find(folder: Path, names: frozenset[str]) -> Iterable[Path]:
    """The checkpoints in a folder, by the names of its files."""
    return (folder / name for name in sorted(names) if name.endswith(".pth"))


def interpret(path: Path) -> Mapping[str | None, Content]:
    """What a file says, in prolu-eval's terms. It holds one autoencoder, which has no name."""
    state = read_torch(path)
    d_sae, d_in = size(state, "encoder_linear.weight", path)

    def tensors() -> dict[str, Tensor]:
        renamed = {NAMES.get(name, name): tensor for name, tensor in state.items()}
        return {n: t.t() if n in ("W_enc", "W_dec") else t for n, t in renamed.items()}

    return {None: Content("relu", d_in, d_sae, tensors, apply_b_dec_to_input=False)}


FORMAT = foreign("goodfire", "Goodfire", find, interpret, lambda path: (path,))
