"""Where training starts: the units of the activations, their centre, and the first weights."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from prolu_eval.saes import SparseAutoencoder
from prolu_eval.saes.jumprelu import JumpRelu
from prolu_eval.training.config import Shared

_MEDIAN_STEPS = 50


class Statistics(NamedTuple):
    """Of the first activations: the factor into training units, and in those units the centre.

    ``mean`` and ``centre`` are [d_in]; ``centre`` is what decoder biases start as.
    """

    scale: float
    mean: Tensor
    centre: Tensor


def measure_statistics(x: Tensor, shared: Shared) -> Statistics:
    """Statistics of a sample of activations, normalised already. [n, d_in]"""
    scale = 1.0
    if shared.normalisation == "mean_norm":
        # Activations get mean norm sqrt(d_in), so that coefficients carry over between models and
        # hook points.
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
    """The point of least summed distance to rows, by Weiszfeld's iteration. [n, d] -> [d]"""
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

    Random unit decoder rows, their transpose as encoder; JumpReLU's thresholds are one bandwidth,
    as otherwise its pseudo-derivative would begin below zero. Encoder biases are ``b_enc_init``, in
    training units, or if that is ``uniform`` drawn within 1/sqrt(d_in) of zero, as
    ``torch.nn.Linear`` begins.
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
