"""A variant in one file: the squared ReLU."""

import torch
from torch import Tensor

from prolu_eval.saes.base import SparseAutoencoder


class SquaredRelu(SparseAutoencoder):
    """a = ReLU(m + b_enc) squared."""

    variant = "squared_relu"

    def activate(self, m: Tensor) -> Tensor:
        return torch.relu(m + self.b_enc).square()

    def effective_threshold(self) -> Tensor:
        return -self.b_enc
