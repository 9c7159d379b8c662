"""Gated autoencoders with tied encoders: Rajamanoharan et al., arXiv 2404.16014."""

import torch
from torch import Tensor

from prolu_eval.activations import Thresholding, gate
from prolu_eval.saes.base import SparseAutoencoder


class Gated(SparseAutoencoder):
    """a = ReLU(m exp(r_mag) + b_mag) where m + b_gate > 0, else 0."""

    variant = "gated"
    feature_tensors = ("b_gate", "b_mag", "r_mag")

    b_gate: Tensor
    b_mag: Tensor
    r_mag: Tensor

    def activate(self, m: Tensor) -> Tensor:
        magnitude = torch.relu(m * self.r_mag.exp() + self.b_mag)
        return gate(magnitude, m + self.b_gate)

    def thresholding(self) -> Thresholding:
        return Thresholding(scale=self.r_mag.exp(), shift=self.b_mag, gate=-self.b_gate)

    def gate_activation(self, m: Tensor) -> Tensor:
        """ReLU(m + b_gate), on which the paper's sparsity and auxiliary losses act. [..., d_sae]"""
        return torch.relu(m + self.b_gate)

    def effective_threshold(self) -> Tensor:
        return torch.maximum(-self.b_gate, -self.b_mag * (-self.r_mag).exp())

    def gradient_threshold(self) -> Tensor:
        return -self.b_gate

    def encoder_bias(self) -> Tensor:
        """b_gate, which decides which features fire. [d_sae]"""
        return self.b_gate
