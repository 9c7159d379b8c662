"""The bounded autoencoder of SAELens before version 6."""

import torch
from torch import Tensor

from prolu_eval.saes.base import SparseAutoencoder


class TanhRelu(SparseAutoencoder):
    """a = tanh(ReLU(m + b_enc)), so that no code exceeds 1."""

    variant = "tanh_relu"

    def activate(self, m: Tensor) -> Tensor:
        return torch.tanh(torch.relu(m + self.b_enc))

    def effective_threshold(self) -> Tensor:
        return -self.b_enc
