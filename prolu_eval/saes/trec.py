"""Thresholded autoencoders with a fixed threshold: Konda, Memisevic, Krueger, arXiv 1402.3337."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from prolu_eval.activations import Thresholding, gate
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class TrecOptions(VariantOptions):
    """The threshold, one for all features and never trained, and whether weights are tied."""

    theta: float = Field(1.0, ge=0, allow_inf_nan=False)
    tied: bool = False

    @property
    def label_suffix(self) -> str:
        return f"{'-tied' if self.tied else ''}/{self.theta:g}"


class Trec(SparseAutoencoder):
    """a = m where m > theta, else 0; no encoder bias. Tied weights have no ``W_enc``."""

    variant = "trec"
    feature_tensors = ()
    Options: ClassVar[type[VariantOptions]] = TrecOptions

    options: TrecOptions

    @classmethod
    def tensor_shapes(
        cls, d_in: int, d_sae: int, options: VariantOptions
    ) -> dict[str, tuple[int, ...]]:
        shapes = super().tensor_shapes(d_in, d_sae, options)
        if isinstance(options, TrecOptions) and options.tied:
            del shapes["W_enc"]
        return shapes

    @property
    def theta(self) -> float:
        """The fixed threshold, in the units of the pre-activation."""
        return self.options.theta

    def activate(self, m: Tensor) -> Tensor:
        return gate(m, m - self.theta)

    def thresholding(self) -> Thresholding:
        return Thresholding(bound=self.effective_threshold())

    def effective_threshold(self) -> Tensor:
        return self.W_dec.new_full((self.d_sae,), self.theta)

    def encoder_bias(self) -> None:
        return None


class Tlin(Trec):
    """a = m where abs(m) > theta, else 0: features are active with either sign."""

    variant = "tlin"

    def activate(self, m: Tensor) -> Tensor:
        return gate(m, m.abs() - self.theta)

    def thresholding(self) -> Thresholding:
        return super().thresholding()._replace(both_signs=True)
