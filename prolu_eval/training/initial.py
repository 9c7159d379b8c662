"""The start of training: the activations' units, their centre, and the first weights."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from prolu_eval.saes import SparseAutoencoder
from prolu_eval.saes.jumprelu import JumpRelu
from prolu_eval.training.config import Shared

_MEDIAN_STEPS = 50


class Statistics(NamedTuple):
    """The first activations' factor into training units, and their mean and centre in these units.

    ``mean`` and ``centre`` are [d_in]; decoder biases start as ``centre``.
    """

    scale: float
    mean: Tensor
    centre: Tensor


def measure_statistics(x: Tensor, shared: Shared) -> Statistics:
    """Statistics of a sample of activations that are normalised already. [n, d_in]"""
    scale = 1.0
    if shared.normalisation == "mean_norm":
        # Activations are scaled to mean norm sqrt(d_in), so that the same coefficients suit
        # different models and hook points.
        scale = float(x.shape[1] ** 0.5 / x.norm(dim=1).mean())
    mean = scale * x.mean(0)
    if shared.b_dec_init == "zero":
        centre = torch.zeros_like(mean)
    elif shared.b_dec_init == "geometric_median":
        centre = geometric_median(scale * x)
    else:
        centre = mean
    return Statistics(scale, mean, centre)


def geometric_median(x: Tensor) -> Tensor:
    """The point with the smallest sum of distances to rows (Weiszfeld's method). [n, d] -> [d]"""
    median = x.mean(0)
    for _ in range(_MEDIAN_STEPS):
        weights = 1 / (x - median).norm(dim=1).clamp(min=1e-8)
        median = weights @ x / weights.sum()
    return median


@torch.no_grad()
def initialise(
    sae: SparseAutoencoder,
    seed: int,
    statistics: Statistics,
    b_enc_init: float | Literal["uniform"] = 0.0,
) -> None:
    """Give an autoencoder its first weights.

    Decoder rows are random unit vectors, and the encoder is their transpose. JumpReLU's thresholds
    are one bandwidth; if they were smaller, the window of its pseudo-derivative would reach below
    zero. Encoder biases are ``b_enc_init``, in training units; if that is ``uniform``, they are
    drawn within 1/sqrt(d_in) of zero, as in ``torch.nn.Linear``.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sae.W_dec.shape, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    sae.W_dec.copy_(rows)
    if "W_enc" in dict(sae.named_parameters()):
        sae.W_enc.copy_(rows.T)
    sae.b_dec.copy_(statistics.centre.cpu())
    if isinstance(b_enc := dict(sae.named_parameters()).get("b_enc"), torch.Tensor):
        if b_enc_init == "uniform":
            bound = sae.W_dec.shape[1] ** -0.5
            b_enc.copy_(bound * (2 * torch.rand(b_enc.shape, generator=generator) - 1))
        else:
            b_enc.fill_(b_enc_init)
    if isinstance(sae, JumpRelu):
        sae.threshold.fill_(sae.options.bandwidth)
