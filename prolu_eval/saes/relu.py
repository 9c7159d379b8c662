"""The standard sparse autoencoder."""

from typing import ClassVar

from torch import Tensor

from prolu_eval.activations import Thresholding, relu
from prolu_eval.saes.base import VariantOptions
from prolu_eval.saes.synthetic import SyntheticGradientAutoencoder, SyntheticGradientOptions


class ReluOptions(SyntheticGradientOptions):
    """The gradient for training; the default is ReLU's exact one, which labels do not mention."""

    @property
    def label_suffix(self) -> str:
        return "" if self.gradient == "relu" else super().label_suffix


class Relu(SyntheticGradientAutoencoder):
    """a = ReLU(m + b_enc)."""

    variant = "relu"
    Options: ClassVar[type[VariantOptions]] = ReluOptions
    activation = staticmethod(relu)

    def thresholding(self) -> Thresholding:
        return Thresholding(shift=self.b_enc)

    def effective_threshold(self) -> Tensor:
        return -self.b_enc
