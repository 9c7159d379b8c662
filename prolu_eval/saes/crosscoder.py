"""Crosscoders: features are read from several sites together, and written to each of them.

They are Anthropic's crosscoders (transformer-circuits.pub/2024/crosscoders). If each feature reads
one site only, see :class:`~prolu_eval.saes.cross_layer.CrossLayerTranscoder`.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from prolu_eval.activations import gate
from prolu_eval.saes.base import Normalised, SparseAutoencoder, VariantOptions


class CrosscoderOptions(VariantOptions):
    """How many sites are read and written, and the activation function."""

    n_layers: int = Field(1, gt=0, le=1024)
    activation: Literal["relu", "jumprelu"] = "relu"


class Crosscoder(SparseAutoencoder):
    """x_hat_j = a W_dec_j + b_dec_j, where a = activate(sum over i of x_i W_enc_i + b_enc).

    ``activate`` is ReLU, or JumpReLU with a threshold per feature. Activations are stacked by site:
    x and x_hat are [..., n_layers, d_in]. All sites share the codes [..., d_sae].

    Parameters: ``W_enc_i`` [d_in, d_sae], ``W_dec_i`` [d_sae, d_in] and ``b_dec_i`` [d_in] for each
    site i, ``b_enc`` [d_sae] and, with jumprelu, ``threshold`` [d_sae].
    """

    variant = "crosscoder"
    feature_tensors = ()
    Options: ClassVar[type[VariantOptions]] = CrosscoderOptions

    options: CrosscoderOptions

    threshold: Tensor

    @property
    def n_sites(self) -> int:
        return self.options.n_layers

    @property
    def _jumps(self) -> bool:
        return self.options.activation == "jumprelu"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        if self.transcodes or self.apply_b_dec_to_input or self.normalisation != "none":
            raise ValueError("a crosscoder has no d_out, and does not normalise its input")
        found: dict[str, tuple[int, ...]] = {"b_enc": (self.d_sae,)}
        if self._jumps:
            found["threshold"] = (self.d_sae,)
        for i in range(self.n_sites):
            found[f"W_enc_{i}"] = (self.d_in, self.d_sae)
            found[f"W_dec_{i}"] = (self.d_sae, self.d_in)
            found[f"b_dec_{i}"] = (self.d_in,)
        return found

    def encode(self, x: Tensor) -> Tensor:
        """Codes of all sites together. [..., n_layers, d_in] -> [..., d_sae]"""
        z = self.b_enc
        for i in range(self.n_sites):
            z = z + x[..., i, :] @ self.get_parameter(f"W_enc_{i}")
        return gate(z, z - self.threshold) if self._jumps else torch.relu(z)

    def decode_normalised(self, codes: Tensor) -> Tensor:
        """The reconstruction at every site. [..., d_sae] -> [..., n_layers, d_in]"""
        sites = [
            codes @ self.get_parameter(f"W_dec_{i}") + self.get_parameter(f"b_dec_{i}")
            for i in range(self.n_sites)
        ]
        return torch.stack(sites, -2)

    def complete(self, decoded: Tensor, normalised: Normalised, x: Tensor) -> Tensor:
        return decoded

    def pre_activation(self, z: Tensor) -> Tensor:
        """The codes themselves. [..., n_layers, d_in] -> [..., d_sae]"""
        return self.encode(z)

    def activate(self, m: Tensor) -> Tensor:
        return m

    def decoder_norms(self) -> Tensor:
        """The norm of each feature's decoder rows, over all sites together. [d_sae]"""
        squares = [
            self.get_parameter(f"W_dec_{i}").float().square().sum(1) for i in range(self.n_sites)
        ]
        return torch.stack(squares).sum(0).sqrt()

    def effective_threshold(self) -> Tensor:
        """The threshold on the pre-activation without its bias. [d_sae]"""
        return self.threshold - self.b_enc if self._jumps else -self.b_enc

    @property
    def label(self) -> str:
        return f"{self.options.activation}-crosscoder"
