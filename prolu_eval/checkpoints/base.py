"""What a checkpoint format offers, and reading tensors safely."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prolu_eval.errors import CheckpointError
from prolu_eval.runs import Run
from prolu_eval.saes import SparseAutoencoder

TRUNCATED = "copy or download the file again"


@dataclass(frozen=True)
class Format:
    """A checkpoint format.

    ``find`` names the checkpoints that lie in a folder itself (not below it), by the names of its
    files: paths of the folder, or of a file in it. ``describe`` reads what it can without the
    weights. ``load`` builds the autoencoder. The latter two raise :class:`CheckpointError`.
    """

    name: str
    find: Callable[[Path, frozenset[str]], Iterable[Path]]
    describe: Callable[[Path], list[Run]]
    load: Callable[[Run], SparseAutoencoder]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: if the file is missing, truncated or otherwise damaged.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", TRUNCATED) from None
    return tensors


def fill(sae: SparseAutoencoder, tensors: Mapping[str, Tensor], path: Path) -> SparseAutoencoder:
    """Give an autoencoder its weights, in float32 unless they are wider, ready for evaluation.

    Raises:
        CheckpointError: naming the first tensor that is missing, unexpected, of the wrong shape,
            or not finite.
    """
    expected = sae.tensor_shapes(sae.d_in, sae.d_sae, sae.options)
    if missing := expected.keys() - tensors.keys():
        raise CheckpointError(
            path, f"lacks tensor {min(missing)}", f"a {sae.variant} run holds {', '.join(expected)}"
        )
    if unexpected := tensors.keys() - expected.keys():
        raise CheckpointError(
            path,
            f"has an unexpected tensor {min(unexpected)}",
            f"a {sae.variant} run holds {', '.join(expected)}",
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                path,
                f"{name} has shape {list(tensor.shape)}, not {list(shape)}",
                "make the config's d_in and d_sae agree with the weights",
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                path, f"{name} has NaN or infinite weights", "use an earlier checkpoint of this run"
            )
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        setattr(sae, name, torch.nn.Parameter(tensor.to(dtype), requires_grad=False))
    return sae.eval()
