"""The standard sparse autoencoder."""

from typing import ClassVar, cast

from pydantic import Field
from torch import Tensor

from prolu_eval.activations import Estimator, Gradient, Thresholding, relu
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class ReluOptions(VariantOptions):
    """The gradient of training, ReLU's own or a synthetic one; it changes no forward."""

    gradient: Gradient = "relu"
    estimator: Estimator = "thresh"
    bandwidth: float = Field(1.0, gt=0, allow_inf_nan=False)


class Relu(SparseAutoencoder):
    """a = ReLU(m + b_enc)."""

    variant = "relu"
    Options: ClassVar[type[VariantOptions]] = ReluOptions

    @classmethod
    def label_of(cls, options: VariantOptions) -> str:
        chosen = cast(ReluOptions, options)
        if chosen.gradient == "relu":
            return cls.variant
        estimator = "" if chosen.estimator == "thresh" else f"-{chosen.estimator}"
        return f"{cls.variant}/{chosen.gradient}{estimator}"

    def activate(self, m: Tensor) -> Tensor:
        options = cast(ReluOptions, self.options)
        return relu(
            m,
            self.b_enc,
            options.gradient,
            estimator=options.estimator,
            bandwidth=options.bandwidth,
        )

    def thresholding(self) -> Thresholding:
        return Thresholding(shift=self.b_enc)

    def effective_threshold(self) -> Tensor:
        return -self.b_enc
