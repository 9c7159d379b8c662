"""Passes of autoencoders over random activations, which kernels and eager code compute alike."""

import pytest
import torch
from torch import Tensor

from prolu_eval import kernels
from prolu_eval.evaluation.autoencoding import Activations, Autoencoding
from prolu_eval.saes import Relu
from tests.helpers.random_saes import D_IN

CPU = torch.device("cpu")


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let eager code compute everything from here on."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(kernels, "suit_cpu", lambda *_: False)
    assert not kernels.suit(CPU, torch.float32)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))).to(dtype)


def given(lengths: list[int], dtype: torch.dtype = torch.float32) -> Activations:
    """Random activations of rows of these lengths."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    x = torch.randn(sum(lengths), D_IN, generator=torch.Generator().manual_seed(5)).to(dtype)
    fold = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return Activations(x, starts, fold)


def of_many_features(bias: float) -> Relu:
    """An autoencoder of 77 features with the same encoder bias."""
    sae = Relu(D_IN, 77).requires_grad_(False)
    for parameter in (sae.W_enc, sae.W_dec, sae.b_dec):
        parameter.data = random(*parameter.shape) / 10
    sae.b_enc.data.fill_(bias)
    return sae


def found(running: Autoencoding, activations: Activations) -> list[Tensor]:
    """The reconstructions of activations, and all sums after them."""
    x_hat, features = running.reconstruct(activations, 0), running.features
    return [x_hat, running.sums.values, features.fired, features.total, features.largest,
            features.tokens]  # fmt: skip


def assert_same(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
