"""The base of autoencoders that can be trained with a synthetic gradient of their activation."""

from typing import ClassVar, Protocol

from pydantic import Field
from torch import Tensor

from prolu_eval.activations import Estimator, Gradient
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class SyntheticGradientOptions(VariantOptions):
    """The gradient for training, exact or synthetic; it does not change codes."""

    gradient: Gradient = "relu"
    estimator: Estimator = "thresh"
    bandwidth: float = Field(1.0, gt=0, allow_inf_nan=False)

    @property
    def label_suffix(self) -> str:
        return f"/{self.gradient}" + ("" if self.estimator == "thresh" else f"-{self.estimator}")


class Activation(Protocol):
    """An activation function of pre-activation and bias (:mod:`prolu_eval.activations`)."""

    def __call__(
        self, m: Tensor, b: Tensor, gradient: Gradient, *, estimator: Estimator, bandwidth: float
    ) -> Tensor: ...


class SyntheticGradientAutoencoder(SparseAutoencoder):
    """a = activation(m, b_enc), trained with the gradient that its options name."""

    activation: ClassVar[Activation]
    options: SyntheticGradientOptions

    def activate(self, m: Tensor) -> Tensor:
        chosen = self.options
        return self.activation(
            m,
            self.b_enc,
            chosen.gradient,
            estimator=chosen.estimator,
            bandwidth=chosen.bandwidth,
        )
