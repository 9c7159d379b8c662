"""Activations kept on disk, so that later sweeps on the same text need no language model."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from prolu_eval.errors import ResultsError
from prolu_eval.json_text import canonical
from prolu_eval.lm import ActivationSource
from prolu_eval.tokens import TokenRows
from prolu_eval.training.stream import Filling, RowActivations, from_model

_ROWS_AT_ONCE = 32


def cached(
    model: ActivationSource,
    hook: str,
    tokens: TokenRows,
    folder: Path,
    precision: Literal["float32", "tf32", "mixed"] = "float32",
    filling: Filling = lambda *_: None,
) -> RowActivations:
    """Activations of rows, read from a file that is written first if it is missing.

    The file holds the activations of all rows in float32. Its name is a fingerprint of the model,
    the hook, the tokens and the precision of the passes. ``filling`` is called after each pass that
    writes to it.

    Raises:
        ResultsError: if the folder cannot be written to, or the disk is full.
    """
    key = canonical([model.fingerprint, hook, tokens.fingerprint, precision])
    path = folder / f"activations-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if not path.exists():
        source = from_model(model, hook, tokens, mixed=precision == "mixed")
        _write(path, source, tokens, filling)
    stored = np.load(path, mmap_mode="r")
    ends = np.cumsum(tokens.counted.sum(1).numpy())
    starts = ends - tokens.counted.sum(1).numpy()

    def activations(rows: Tensor) -> Tensor:
        parts = [stored[starts[row] : ends[row]] for row in rows.tolist()]
        return torch.from_numpy(np.concatenate(parts)).to(model.device)

    return activations


def _write(path: Path, source: RowActivations, tokens: TokenRows, filling: Filling) -> None:
    """Write the activations of all rows, to a temporary file until they are complete."""
    part = path.with_suffix(f".{os.getpid()}.part")
    width = source(torch.zeros(1, dtype=torch.int64)).shape[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shape = (int(tokens.counted.sum()), width)
            stored = np.lib.format.open_memmap(part, "w+", np.float32, shape)
            start = 0
            for rows in torch.arange(len(tokens)).split(_ROWS_AT_ONCE):
                found = source(rows).cpu().numpy()
                stored[start : start + len(found)] = found
                start += len(found)
                filling(start, len(stored))
            stored.flush()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ResultsError(
            path, f"cannot be written ({error.strerror})", "name a writable folder with free space"
        ) from error
