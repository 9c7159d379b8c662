"""One autoencoder over the activations of a batch: reconstructions, and every sum over its codes.

Codes are almost all zero, so they are read once, densely, to find the active ones; decoding and all
statistics then work on those alone.
"""

import numpy as np
import torch
from torch import Tensor

from prolu_eval.evaluation.features import FeatureSums
from prolu_eval.saes import SparseAutoencoder

# Codes computed at a time, so that they stay in cache on a CPU; a GPU takes a batch whole.
_CODES_AT_ONCE = 1 << 20
# Above this share of active codes a dense product decodes faster than gathering rows.
_SPARSE_BELOW = 0.1

COLUMNS = (
    "l0", "l1", "l1_raw", "sqrt_l1", "sqrt_l1_raw", "squared_error", "cosine_similarity",
    "norm_ratio", "x_hat_squared", "x_hat_dot_x",
)  # fmt: skip


class Autoencoding:
    """Accumulates the sums of one autoencoder over batches of activations.

    Attributes:
        sums: per-sequence sums by column. [n_sequences] float64 each, on the device
        features: per-feature sums.
    """

    def __init__(self, sae: SparseAutoencoder, n_sequences: int, device: torch.device) -> None:
        self.sae = sae.to(device)
        self._norms = sae.W_dec.norm(dim=1)
        zeros = torch.zeros(len(COLUMNS), n_sequences, dtype=torch.float64, device=device)
        self.sums: dict[str, Tensor] = dict(zip(COLUMNS, zeros, strict=True))
        self.features = FeatureSums(sae.d_sae, device)

    @torch.inference_mode()
    def reconstruct(self, x: Tensor, sequence: Tensor) -> Tensor:
        """Reconstruct activations and add up their statistics.

        Args:
            x: activations at counted positions, in the model's units. [N, d_in]
            sequence: index of the sequence that each belongs to, ascending. [N] int64

        Returns:
            x_hat, in the dtype of ``x``. [N, d_in]
        """
        size = len(x) if x.is_cuda else max(1, _CODES_AT_ONCE // self.sae.d_sae)
        parts = [
            self._chunk(part, of)
            for part, of in zip(x.split(size), sequence.split(size), strict=True)
        ]
        self.features.count_tokens(sequence)
        return torch.cat(parts)

    def _chunk(self, x: Tensor, sequence: Tensor) -> Tensor:
        sae = self.sae
        x_in = x.to(sae.W_enc.dtype)
        normalised = sae.normalise(x_in)
        codes = sae.activate(sae.pre_activation(normalised.z))
        token, feature = _active(codes)
        value = codes[token, feature]
        if len(value) < _SPARSE_BELOW * codes.numel():
            z_hat = sae.b_dec + _decode_active(token, feature, value, sae.W_dec, len(x))
        else:
            z_hat = sae.decode_normalised(codes)
        x_hat = normalised.restore(z_hat)
        self._add_codes(token, feature, value, sequence, normalised.scale)
        self._add_reconstruction(x_in, x_hat, sequence)
        return x_hat.to(x.dtype)

    def _add_codes(
        self, token: Tensor, feature: Tensor, value: Tensor, sequence: Tensor, scale: Tensor | None
    ) -> None:
        of = sequence[token]
        size = value.abs().double()
        weighted = size * self._norms[feature]
        if scale is not None:
            weighted = weighted * scale[token, 0]
        self._add("l0", torch.ones_like(size), of)
        self._add("l1_raw", size, of)
        self._add("l1", weighted, of)
        self._add("sqrt_l1_raw", size.sqrt(), of)
        self._add("sqrt_l1", weighted.sqrt(), of)
        self.features.add(feature, value, of)

    def _add_reconstruction(self, x: Tensor, x_hat: Tensor, sequence: Tensor) -> None:
        x_norm, x_hat_norm = x.norm(dim=1), x_hat.norm(dim=1)
        dot = (x * x_hat).sum(1)
        self._add("squared_error", (x - x_hat).square().sum(1), sequence)
        self._add("x_hat_squared", x_hat.square().sum(1), sequence)
        self._add("x_hat_dot_x", dot, sequence)
        self._add("cosine_similarity", _over(dot, x_norm * x_hat_norm), sequence)
        self._add("norm_ratio", _over(x_hat_norm, x_norm), sequence)

    def _add(self, column: str, values: Tensor, sequence: Tensor) -> None:
        self.sums[column].index_add_(0, sequence, values.double())


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0 (an activation or reconstruction of zero)."""
    return torch.where(denominator == 0, 0, numerator / denominator)


def _active(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Token and feature indices of the codes that are not zero, in order. [n_active] each"""
    fired = codes != 0
    if codes.is_cuda:
        token, feature = fired.nonzero(as_tuple=True)
        return token, feature
    flat = torch.from_numpy(np.flatnonzero(fired.numpy()))
    token = torch.div(flat, codes.shape[1], rounding_mode="floor")
    return token, flat - token * codes.shape[1]


def _decode_active(
    token: Tensor, feature: Tensor, value: Tensor, decoder: Tensor, n_tokens: int
) -> Tensor:
    """The sum of each token's decoder rows, weighted by its active codes. [n_tokens, d_in]"""
    counts = torch.bincount(token, minlength=n_tokens)
    return torch.nn.functional.embedding_bag(
        feature,
        decoder,
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=value.to(decoder.dtype),
    )
