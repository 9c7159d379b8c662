"""Units folded into weights: constant factors, whitening and decoder norms of training."""

from typing import NamedTuple

import torch
from torch import Tensor


class Whitening(NamedTuple):
    """z = (x - mean) into, x = z back + mean. [d_in], [d_in, d_in] twice"""

    mean: Tensor
    into: Tensor
    back: Tensor


def fold_decoder_norms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose codes are those of unit decoder rows: each grows by its row's norm."""
    norms = weights["W_dec"].norm(dim=1)
    return weights | {
        "W_dec": weights["W_dec"] / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None],
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
    }


def fold_scale(
    weights: dict[str, Tensor], scale: float, *, tied: bool = False
) -> dict[str, Tensor]:
    """Weights for ``scale * x`` as weights for ``x``; codes, biases and thresholds stay.

    Tied weights, which must keep their decoder rows, are given codes in the units of x instead.
    """
    factors = {"b_dec": 1 / scale}
    if not tied:
        factors |= {"W_enc": scale, "W_dec": 1 / scale}
    scaled = {name: weights[name] * factor for name, factor in factors.items() if name in weights}
    return weights | scaled


def fold_whitening(
    weights: dict[str, Tensor], whitening: Whitening, bias: str, subtracts: bool
) -> dict[str, Tensor]:
    """Weights for whitened activations as weights for x; codes and thresholds stay.

    Args:
        weights: by name; those of a gated autoencoder share one encoder.
        whitening: what training did to its activations.
        bias: the bias that is added to the encoder's product: what it must absorb.
        subtracts: whether the decoder bias is subtracted before encoding.
    """
    mean, into, back = whitening
    shift = mean @ into + (weights["b_dec"] if subtracts else 0)
    encoder = into @ weights["W_enc"]
    b_dec = weights["b_dec"] @ back + mean
    offset = (b_dec @ encoder if subtracts else 0) - shift @ weights["W_enc"]
    folded = {
        "W_enc": encoder,
        "W_dec": weights["W_dec"] @ back,
        "b_dec": b_dec,
        bias: weights[bias] + offset,
    }
    if bias == "b_gate":
        folded["b_mag"] = weights["b_mag"] + offset * weights["r_mag"].exp()
    return weights | folded
