"""Cross-layer transcoders: features read at one block are written to every later MLP's output.

They are those of Anthropic's circuit tracing (transformer-circuits.pub/2025/attribution-graphs). If
the same activations are read and written, the transcoder is a weakly causal crosscoder, as in
Gemma Scope 2.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from prolu_eval.activations import gate
from prolu_eval.saes.base import Normalised, SparseAutoencoder, VariantOptions


class CrossLayerOptions(VariantOptions):
    """How many blocks are read and written, and the activation function."""

    n_layers: int = Field(1, gt=0, le=1024)
    activation: Literal["relu", "jumprelu"] = "relu"

    def check(self, d_sae: int) -> None:
        if d_sae % self.n_layers:
            raise ValueError(f"{d_sae} features are not divisible by {self.n_layers} layers")


class CrossLayerTranscoder(SparseAutoencoder):
    """y_hat_j = sum over i <= j of a_i W_dec_i[:, j - i] + b_dec_j (+ x_j W_skip_j).

    a_i = activate(x_i W_enc_i + b_enc_i), where activate is ReLU, or JumpReLU with a threshold per
    feature. Activations are stacked by layer: x [..., n_layers, d_in] and y_hat
    [..., n_layers, d_out]. Codes [..., d_sae] are those of all layers, one layer after another.
    Without d_out it reconstructs its input, as a weakly causal crosscoder.

    Parameters, for each layer i: ``W_enc_i`` [d_in, n], ``b_enc_i`` [n], with jumprelu
    ``threshold_i`` [n], ``W_dec_i`` [n, n_layers - i, d_out], ``b_dec_i`` [d_out] and, with a skip
    connection, ``W_skip_i`` [d_in, d_out], where n = d_sae / n_layers.
    """

    variant = "cross_layer"
    feature_tensors = ()
    Options: ClassVar[type[VariantOptions]] = CrossLayerOptions

    options: CrossLayerOptions

    @property
    def n_sites(self) -> int:
        return self.options.n_layers

    def shapes(self) -> dict[str, tuple[int, ...]]:
        options = self.options
        if self.apply_b_dec_to_input or self.normalisation != "none":
            raise ValueError("a cross-layer transcoder does not normalise its input")
        if self.skip and not self.transcodes:
            raise ValueError("only a transcoder has a skip connection: give its d_out")
        n = self.d_sae // options.n_layers
        found: dict[str, tuple[int, ...]] = {}
        for i in range(options.n_layers):
            found |= {f"W_enc_{i}": (self.d_in, n), f"b_enc_{i}": (n,)}
            if options.activation == "jumprelu":
                found[f"threshold_{i}"] = (n,)
            found |= {f"W_dec_{i}": (n, options.n_layers - i, self.d_out)}
            found[f"b_dec_{i}"] = (self.d_out,)
            if self.skip:
                found[f"W_skip_{i}"] = (self.d_in, self.d_out)
        return found

    def encode_layer(self, layer: int, x: Tensor) -> Tensor:
        """Codes of the features that one layer reads. [..., d_in] -> [..., n]"""
        z = x @ self._of("W_enc", layer) + self._of("b_enc", layer)
        if self.options.activation == "relu":
            return torch.relu(z)
        return gate(z, z - self._of("threshold", layer))

    def written(self, layer: int, codes: Tensor) -> Tensor:
        """What one layer's codes add to the outputs of this and all later layers.

        [..., n] -> [..., n_layers - layer, d_out]
        """
        decoder = self._of("W_dec", layer)
        flat: Tensor = codes @ decoder.flatten(1)
        return flat.reshape(*codes.shape[:-1], *decoder.shape[1:])

    def constant(self, layer: int, x: Tensor) -> Tensor:
        """The part of a layer's output that is independent of codes. [..., d_in] -> [..., d_out]"""
        bias = self._of("b_dec", layer)
        if self.skip:
            return x @ self._of("W_skip", layer) + bias
        return bias.expand(*x.shape[:-1], -1)

    def encode(self, x: Tensor) -> Tensor:
        """Codes of all layers, one layer after another. [..., n_layers, d_in] -> [..., d_sae]"""
        layers = [self.encode_layer(i, x[..., i, :]) for i in range(self.n_sites)]
        return torch.cat(layers, -1)

    def decode_normalised(self, codes: Tensor) -> Tensor:
        """The output without skip connections. [..., d_sae] -> [..., n_layers, d_out]"""
        n = self.n_sites
        biases = torch.stack([self._of("b_dec", i) for i in range(n)])
        y_hat = biases.expand(*codes.shape[:-1], *biases.shape).clone()
        for i, of_layer in enumerate(codes.chunk(n, -1)):
            y_hat[..., i:, :] += self.written(i, of_layer)
        return y_hat

    def complete(self, decoded: Tensor, normalised: Normalised, x: Tensor) -> Tensor:
        if not self.skip:
            return decoded
        skips = [x[..., i, :] @ self._of("W_skip", i) for i in range(self.n_sites)]
        return decoded + torch.stack(skips, -2)

    def pre_activation(self, z: Tensor) -> Tensor:
        """The codes themselves. [..., n_layers, d_in] -> [..., d_sae]"""
        return self.encode(z)

    def activate(self, m: Tensor) -> Tensor:
        return m

    def decoder_norms(self, layer: int) -> Tensor:
        """The norm of each of a layer's features' decoder rows, over all layers together. [n]"""
        norms: Tensor = self._of("W_dec", layer).float().flatten(1).norm(dim=1)
        return norms

    def encoder_bias(self) -> Tensor:
        """The encoder biases of all layers. [d_sae]"""
        return torch.cat([self._of("b_enc", i) for i in range(self.n_sites)])

    def effective_threshold(self) -> Tensor:
        """The threshold on the pre-activation without its bias, layer after layer. [d_sae]"""
        bias = self.encoder_bias()
        if self.options.activation == "relu":
            return -bias
        return torch.cat([self._of("threshold", i) for i in range(self.n_sites)]) - bias

    @property
    def label(self) -> str:
        activation = self.options.activation
        if not self.transcodes:
            return f"{activation}-causal-crosscoder"
        return f"{activation}-cross-layer{'-skip' if self.skip else ''}-transcoder"

    def _of(self, name: str, layer: int) -> Tensor:
        return self.get_parameter(f"{name}_{layer}")
