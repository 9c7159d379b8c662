"""The standard sparse autoencoder."""

import torch
from torch import Tensor

from prolu_eval.activations import Thresholding
from prolu_eval.saes.base import SparseAutoencoder


class Relu(SparseAutoencoder):
    """a = ReLU(m + b_enc)."""

    variant = "relu"

    def activate(self, m: Tensor) -> Tensor:
        return torch.relu(m + self.b_enc)

    def thresholding(self) -> Thresholding:
        return Thresholding(shift=self.b_enc)

    def effective_threshold(self) -> Tensor:
        return -self.b_enc
