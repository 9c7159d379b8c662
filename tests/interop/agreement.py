"""What the interoperability tests share: sizes, random weights, and what counts as the same."""

import torch
from torch import Tensor, nn

from prolu_eval.saes import SparseAutoencoder

D_IN, D_SAE = 16, 40
TOLERANCE = 1e-5


def inputs(n: int = 64, d_in: int = D_IN) -> Tensor:
    """Activations whose mean and scale are not those of noise. [n, d_in]"""
    return 1.5 * torch.randn(n, d_in, generator=torch.Generator().manual_seed(9)) + 0.4


@torch.no_grad()
def randomise(module: nn.Module, *, unit_rows: bool = False) -> None:
    """Fill a library's own module: biases, thresholds and scales that matter, uneven decoders."""
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
    """Codes and reconstructions differ by less than the tolerance, anywhere."""
    assert 0 < (codes != 0).float().mean() < 0.9, "some features fire, not all"
    assert (sae.encode(x) - codes).abs().max() < TOLERANCE
    assert (sae(x) - x_hat).abs().max() < TOLERANCE
