"""Assertions that the tests of all formats share."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prolu_eval.checkpoints import discover, load_sae
from prolu_eval.errors import CheckpointError
from prolu_eval.runs import Broken, Run
from tests.helpers.foreign_files import inputs


def check(path: Path, codes: Tensor, x_hat: Tensor) -> None:
    """Assert that a checkpoint gives these codes and reconstructions of :func:`inputs`."""
    sae, x = load_sae(path), inputs()
    assert 0 < (codes != 0).float().mean() < 0.9, "some features fire, not all"
    torch.testing.assert_close(sae.encode(x), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x), x_hat, rtol=1e-5, atol=1e-5)


def run_at(folder: Path) -> Run:
    """The only checkpoint at a path, which can be described."""
    (run,) = discover(folder)
    assert isinstance(run, Run), run
    return run


def refusal(folder: Path) -> str:
    """Why the only checkpoint of a folder is refused; loading it must give the same reason."""
    (broken,) = discover(folder)
    if isinstance(broken, Broken):
        with pytest.raises(CheckpointError, match=re.escape(broken.error)):
            load_sae(folder)
        return broken.error
    with pytest.raises(CheckpointError) as raised:
        load_sae(folder)
    return str(raised.value)


def kept(h: Tensor, indices: Tensor) -> Tensor:
    """``h`` where it is among the indices of its token, else 0."""
    return torch.zeros_like(h).scatter(-1, indices, h.gather(-1, indices))
