"""The write-up's autoencoder: Proportional ReLU with a synthetic gradient."""

from typing import ClassVar

from torch import Tensor

from prolu_eval.activations import REACH, Gradient, Thresholding, prolu
from prolu_eval.saes.base import VariantOptions
from prolu_eval.saes.synthetic import SyntheticGradientAutoencoder, SyntheticGradientOptions


class ProluOptions(SyntheticGradientOptions):
    """The synthetic gradient for training; the default is the straight-through one."""

    gradient: Gradient = "ste"


class Prolu(SyntheticGradientAutoencoder):
    """a = m where m + b_enc > 0 and m > 0, else 0."""

    variant = "prolu"
    Options: ClassVar[type[VariantOptions]] = ProluOptions
    activation = staticmethod(prolu)

    def thresholding(self) -> Thresholding:
        return Thresholding(bound=(-self.b_enc).clamp(min=0))

    def effective_threshold(self) -> Tensor:
        return (-self.b_enc).clamp(min=0)

    def gradient_threshold(self) -> Tensor:
        chosen = self.options
        if chosen.gradient == "relu":
            return self.effective_threshold()
        return (-self.b_enc - REACH[chosen.estimator] * chosen.bandwidth).clamp(min=0)
