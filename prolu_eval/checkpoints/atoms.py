"""Plain dictionaries: a matrix of atoms in a file, and an encoder of the user's choice.

A dictionary is a ``.npy`` or ``.safetensors`` file. In a ``.safetensors`` file it is the only
matrix, or the one called ``W_dec``, ``atoms`` or ``dictionary``; a vector ``b_dec`` or ``mean`` is
subtracted before encoding and added after decoding. Rows are atoms, and are scaled to norm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolu_eval.checkpoints.base import build, fill
from prolu_eval.checkpoints.reading import read_npy, read_safetensors
from prolu_eval.errors import CheckpointError, ProluEvalError, UsageError
from prolu_eval.run_names import name_below
from prolu_eval.runs import Broken, Run
from prolu_eval.saes import SparseAutoencoder

FORMAT = "atoms"
ENDINGS = (".npy", ".safetensors")
_MATRICES, _VECTORS = ("W_dec", "atoms", "dictionary"), ("b_dec", "mean")
_OPTION = "--encoder"
_KNOWN = "top-k=32, matching-pursuit, matching-pursuit=32, nnls or nnls=0.5 (a penalty)"


@dataclass(frozen=True)
class Encoder:
    """How codes of a dictionary are computed: a variant and its options."""

    text: str
    variant: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Encoder":
        """The encoder that ``--encoder`` names.

        Raises:
            UsageError: if it names no encoder.
        """
        name, _, value = text.partition("=")
        try:
            match name:
                case "top-k":
                    return cls(text, "topk", {"k": _count(value)})
                case "matching-pursuit" if not value:
                    return cls(text, "matching_pursuit", {})
                case "matching-pursuit":
                    found = {"max_iterations": _count(value), "stop_on_duplicate_support": False}
                    return cls(text, "matching_pursuit", found)
                case "nnls":
                    penalty = float(value or 0)
                    if 0 <= penalty < float("inf"):
                        return cls(text, "nnls", {"penalty": penalty})
        except ValueError:
            pass
        raise UsageError(_OPTION, f"{text!r} is no encoder", f"write {_KNOWN}")


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise ValueError(text)
    return count


def discover(path: Path, encoder: Encoder) -> list[Run | Broken]:
    """The dictionary at a file, or all dictionaries in or below a folder.

    Raises:
        CheckpointError: if there is no dictionary.
    """
    if not path.exists():
        raise CheckpointError(path, "does not exist", "name a file of atoms, or a folder of them")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in ENDINGS)
    if not files or files[0].suffix not in ENDINGS:
        raise CheckpointError(path, "holds no matrix of atoms", f"name {' or '.join(ENDINGS)}")
    return [_described(file, name_below(path, file), encoder) for file in files]


def _described(file: Path, name: str, encoder: Encoder) -> Run | Broken:
    try:
        atoms, _ = _read(file)
        sae = _empty(file, encoder, *atoms.shape)
    except ProluEvalError as error:
        return Broken(name, file, error)
    return Run(
        name=name,
        path=file,
        format=FORMAT,
        variant=encoder.variant,
        label=f"{encoder.text.partition('=')[0]} of atoms",
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        n_weights=sae.n_weights,
        files=(file,),
        options=sae.options.model_dump(mode="json"),
        besides=f"encoder {encoder.text}",
        provenance={"library": "plain dictionary", "encoder": encoder.text},
        loader=partial(_load, encoder),
    )


def _load(encoder: Encoder, run: Run) -> SparseAutoencoder:
    (file,) = run.files
    atoms, bias = _read(file)
    sae = _empty(file, encoder, *atoms.shape)
    tensors: dict[str, Tensor] = {"W_dec": atoms, "b_dec": bias}
    if encoder.variant == "topk":
        tensors |= {"W_enc": atoms.t(), "b_enc": torch.zeros(len(atoms), dtype=atoms.dtype)}
    return fill(sae, tensors, file, lambda weights: _unit(weights, file))


def _empty(file: Path, encoder: Encoder, d_sae: int, d_in: int) -> SparseAutoencoder:
    return build(
        encoder.variant, d_in, d_sae, encoder.options, file,
        apply_b_dec_to_input=True, normalisation="none",
    )  # fmt: skip


def _unit(weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    norms = weights["W_dec"].norm(dim=1)
    if bool((norms == 0).any()):
        raise CheckpointError(file, "has an atom of norm 0", "remove it")
    unit = weights | {"W_dec": weights["W_dec"] / norms[:, None]}
    return unit if "W_enc" not in weights else unit | {"W_enc": unit["W_dec"].t()}


def _read(file: Path) -> tuple[Tensor, Tensor]:
    """Atoms and bias, mapped from disk. [d_sae, d_in], [d_in]"""
    if file.suffix == ".npy":
        atoms, bias = read_npy(file), None
    else:
        tensors = read_safetensors(file)
        matrices = {n: t for n, t in tensors.items() if t.ndim == 2}
        chosen = [n for n in _MATRICES if n in matrices] or list(matrices)
        if len(chosen) != 1:
            reason = f"holds {len(matrices)} matrices" if matrices else "holds no matrix"
            raise CheckpointError(file, reason, f"name the matrix of atoms {_MATRICES[0]}")
        atoms = matrices[chosen[0]]
        bias = next((tensors[n] for n in _VECTORS if n in tensors), None)
    if atoms.ndim != 2 or 0 in atoms.shape or not atoms.is_floating_point():
        raise CheckpointError(
            file, f"is no matrix of atoms ({list(atoms.shape)}, {atoms.dtype})", "save [n, d_in]"
        )
    return atoms, torch.zeros(atoms.shape[1], dtype=atoms.dtype) if bias is None else bias
