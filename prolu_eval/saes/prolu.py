"""The write-up's autoencoder: Proportional ReLU with a synthetic gradient."""

from typing import ClassVar, cast

from pydantic import Field
from torch import Tensor

from prolu_eval.activations import REACH, Estimator, Gradient, Thresholding, prolu
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class ProluOptions(VariantOptions):
    """The synthetic gradient of training; it changes no forward."""

    gradient: Gradient = "ste"
    estimator: Estimator = "thresh"
    bandwidth: float = Field(1.0, gt=0, allow_inf_nan=False)


class Prolu(SparseAutoencoder):
    """a = m where m + b_enc > 0 and m > 0, else 0."""

    variant = "prolu"
    Options: ClassVar[type[VariantOptions]] = ProluOptions

    @classmethod
    def label_of(cls, options: VariantOptions) -> str:
        chosen = cast(ProluOptions, options)
        estimator = "" if chosen.estimator == "thresh" else f"-{chosen.estimator}"
        return f"{cls.variant}/{chosen.gradient}{estimator}"

    def activate(self, m: Tensor) -> Tensor:
        options = cast(ProluOptions, self.options)
        return prolu(
            m,
            self.b_enc,
            options.gradient,
            estimator=options.estimator,
            bandwidth=options.bandwidth,
        )

    def thresholding(self) -> Thresholding:
        return Thresholding(bound=(-self.b_enc).clamp(min=0))

    def effective_threshold(self) -> Tensor:
        return (-self.b_enc).clamp(min=0)

    def gradient_threshold(self) -> Tensor:
        options = cast(ProluOptions, self.options)
        if options.gradient == "relu":
            return self.effective_threshold()
        return (-self.b_enc - REACH[options.estimator] * options.bandwidth).clamp(min=0)
