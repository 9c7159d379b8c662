"""ProLU for negative biases and ReLU for the others, a proposal in the write-up's comments."""

import torch
from torch import Tensor

from prolu_eval.activations import Thresholding
from prolu_eval.saes.prolu import Prolu


class ProluReluHybrid(Prolu):
    """a = ProLU(m, b) where b < 0, ReLU(m + b) where b >= 0."""

    variant = "prolu_relu_hybrid"

    def activate(self, m: Tensor) -> Tensor:
        return torch.where(self.b_enc < 0, super().activate(m), torch.relu(m + self.b_enc))

    def thresholding(self) -> Thresholding:
        return Thresholding(shift=self.b_enc.clamp(min=0), bound=(-self.b_enc).clamp(min=0))

    def effective_threshold(self) -> Tensor:
        return -self.b_enc

    def gradient_threshold(self) -> Tensor:
        return torch.where(self.b_enc < 0, super().gradient_threshold(), -self.b_enc)
