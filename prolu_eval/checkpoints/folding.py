"""Folding units of training into weights: constant factors, whitening and decoder norms."""

from typing import NamedTuple

import torch
from torch import Tensor


class Whitening(NamedTuple):
    """z = (x - mean) whiten, x = z unwhiten + mean. [d_in], [d_in, d_in] twice"""

    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor


def fold_decoder_norms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with decoder rows of norm one; each code is multiplied by its row's former norm."""
    norms = weights["W_dec"].norm(dim=1)
    return weights | {
        "W_dec": weights["W_dec"] / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None],
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
    }


def fold_scale(
    weights: dict[str, Tensor], scale: float, *, keep_rows: bool = False
) -> dict[str, Tensor]:
    """Turn weights for ``scale * x`` into weights for ``x``.

    Codes and all parameters that act on them are unchanged, and the decoder's rows are divided by
    ``scale``. With ``keep_rows``, the rows keep their norm, and codes are in the units of x.
    """
    factors = {"W_enc": scale, "W_dec": 1 / scale, "b_dec": 1 / scale}
    if keep_rows:
        factors = dict.fromkeys(("b_enc", "threshold", "b_dec"), 1 / scale)
    return {name: tensor * factors.get(name, 1.0) for name, tensor in weights.items()}


def fold_whitening(
    weights: dict[str, Tensor], whitening: Whitening, bias: str, subtracts: bool
) -> dict[str, Tensor]:
    """Turn weights for whitened activations into weights for x, in float64; codes are unchanged.

    Args:
        weights: the weights by name; gate and magnitude of a gated autoencoder share one encoder.
        whitening: the whitening of activations in training.
        bias: the name of the bias that is added to the encoder's product and absorbs the mean.
        subtracts: whether the decoder bias is subtracted before encoding.
    """
    mean, whiten, unwhiten = whitening
    wide = {name: tensor.double() for name, tensor in weights.items()}
    shift = mean @ whiten + (wide["b_dec"] if subtracts else 0)
    encoder = whiten @ wide["W_enc"]
    b_dec = wide["b_dec"] @ unwhiten + mean
    offset = (b_dec @ encoder if subtracts else 0) - shift @ wide["W_enc"]
    folded = {"W_enc": encoder, "W_dec": wide["W_dec"] @ unwhiten, "b_dec": b_dec}
    folded[bias] = wide[bias] + offset
    if bias == "b_gate":
        folded["b_mag"] = wide["b_mag"] + offset * wide["r_mag"].exp()
    return {name: folded.get(name, tensor).to(tensor.dtype) for name, tensor in weights.items()}
