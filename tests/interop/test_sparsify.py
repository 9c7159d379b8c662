"""EleutherAI's sparsify writes, prolu-eval reads, and both compute the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sparsify import SparseCoder, SparseCoderConfig

from prolu_eval.checkpoints import load_sae
from prolu_eval.cli import main
from tests.interop.agreement import D_IN, D_SAE, assert_same, inputs, randomise

CASES: list[dict[str, Any]] = [
    {"activation": activation, "k": 5, "normalize_decoder": normalise, **size}
    for activation in ("topk", "groupmax")
    for normalise in (True, False)
    for size in ({"num_latents": D_SAE}, {"num_latents": 0, "expansion_factor": 5})
]


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_coders(tmp_path: Path, settings: dict[str, Any], dtype: torch.dtype) -> None:
    coder = SparseCoder(D_IN, SparseCoderConfig(**settings), dtype=dtype)
    randomise(coder)
    folder = tmp_path / "layers.1"
    coder.save_to_disk(folder)
    theirs, x = SparseCoder.load_from_disk(folder), inputs().to(dtype)
    top_acts, top_indices, pre_acts = theirs.encode(x)
    codes = torch.zeros_like(pre_acts).scatter(-1, top_indices, top_acts)
    assert_same(load_sae(folder), x, codes, theirs(x).sae_out)
    code = main(["convert", str(folder), str(tmp_path / "to"), "--to", "saelens"])
    if settings["activation"] == "groupmax":
        assert code == 2, "SAELens has nothing that computes the same"
        return
    assert code == 0
    converted = SAE.load_from_disk(tmp_path / "to")
    assert_same(load_sae(folder), x, converted.encode(x), converted(x))


@pytest.mark.parametrize("transcode", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_transcoders(tmp_path: Path, transcode: bool, skip: bool) -> None:
    settings: dict[str, Any] = {"transcode": transcode, "skip_connection": skip}
    coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=5, **settings))
    randomise(coder)
    folder = tmp_path / "layers.1.mlp"
    coder.save_to_disk(folder)
    theirs, x = SparseCoder.load_from_disk(folder), inputs()
    top_acts, top_indices, pre_acts = theirs.encode(x)
    codes = torch.zeros_like(pre_acts).scatter(-1, top_indices, top_acts)
    assert_same(load_sae(folder), x, codes, theirs(x).sae_out)
