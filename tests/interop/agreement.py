"""Helpers of the interoperability tests: sizes, random weights, and assertions of equality."""

import torch
from torch import Tensor, nn

from prolu_eval.saes import SparseAutoencoder

D_IN, D_SAE = 16, 40
TOLERANCE = 1e-5


def inputs(n: int = 64, d_in: int = D_IN) -> Tensor:
    """Activations with a mean that is not zero and a scale that is not one. [n, d_in]"""
    return 1.5 * torch.randn(n, d_in, generator=torch.Generator().manual_seed(9)) + 0.4


@torch.no_grad()
def randomise(module: nn.Module, *, unit_rows: bool = False) -> None:
    """Fill a library's module with random biases, thresholds and scales, and uneven decoders."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        spread = 0.3 if tensor.ndim < 2 else 0.5
        tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
        if name == "log_threshold":
            tensor.sub_(0.7)
        elif "threshold" in name:
            tensor.copy_(0.3 + tensor.abs())
        if unit_rows and tensor.ndim == 2:
            tensor.div_(tensor.norm(dim=1, keepdim=True))


def assert_same(sae: SparseAutoencoder, x: Tensor, codes: Tensor, x_hat: Tensor) -> None:
    """Assert that all codes and reconstructions agree within the tolerance."""
    assert 0 < (codes != 0).float().mean() < 0.9, "some features fire, not all"
    assert (sae.encode(x) - codes).abs().max() < TOLERANCE
    assert (sae(x) - x_hat).abs().max() < TOLERANCE
