"""JumpReLU with a learned threshold: Rajamanoharan et al., arXiv 2407.14435."""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prolu_eval.activations import Thresholding, gate
from prolu_eval.saes.base import SparseAutoencoder, VariantOptions


class _JumpRelu(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return gate(z, z - threshold.clamp(min=0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, threshold, ctx.bandwidth = inputs
        ctx.save_for_backward(z, threshold)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        z, threshold = ctx.saved_tensors
        near = _near(z, threshold, ctx.bandwidth)
        return (
            gate(grad, z - threshold.clamp(min=0)),
            (-grad * near * threshold).sum_to_size(threshold.shape),
            None,
        )


class _Step(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return (z > threshold).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, threshold, ctx.bandwidth = inputs
        ctx.save_for_backward(z, threshold)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        z, threshold = ctx.saved_tensors
        near = _near(z, threshold, ctx.bandwidth)
        return None, (-grad * near).sum_to_size(threshold.shape), None


def _near(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((z - threshold).abs() < bandwidth / 2).to(z.dtype) / bandwidth


def jumprelu(z: Tensor, threshold: Tensor, bandwidth: float = 1e-3) -> Tensor:
    """``z`` where it exceeds both the threshold and 0, else 0, with a gradient for the threshold.

    The gradient for z is exact; that for the threshold is the pseudo-derivative of arXiv
    2407.14435, equation 11: ``-(threshold / bandwidth) [abs(z - threshold) < bandwidth / 2]``.

    Args:
        z: the pre-activations, including the bias. [..., d_sae]
        threshold: one per feature, or one for all. [d_sae] or []
        bandwidth: the width of the rectangle, in the units of ``z``.

    Returns:
        Feature activations. [..., d_sae]
    """
    result: Tensor = _JumpRelu.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return result


def step(z: Tensor, threshold: Tensor, bandwidth: float = 1e-3) -> Tensor:
    """1 where ``z`` exceeds the threshold, else 0; its sum over features is JumpReLU's L0 penalty.

    No gradient flows to z. The gradient for the threshold is the pseudo-derivative of arXiv
    2407.14435, equation 12: ``-(1 / bandwidth) [abs(z - threshold) < bandwidth / 2]``. The shapes
    are those of :func:`jumprelu`.
    """
    result: Tensor = _Step.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return result


class JumpReluOptions(VariantOptions):
    """The width of the threshold's pseudo-derivative in training; it does not change codes."""

    bandwidth: float = Field(1e-3, gt=0)


class JumpRelu(SparseAutoencoder):
    """With z = m + b_enc: a = z where z > threshold and z > 0, else 0."""

    variant = "jumprelu"
    feature_tensors = ("b_enc", "threshold")
    Options: ClassVar[type[VariantOptions]] = JumpReluOptions

    options: JumpReluOptions
    threshold: Tensor

    def activate(self, m: Tensor) -> Tensor:
        return jumprelu(m + self.b_enc, self.threshold, self.options.bandwidth)

    def thresholding(self) -> Thresholding:
        return Thresholding(shift=self.b_enc, bound=self.threshold.clamp(min=0))

    def fires(self, m: Tensor) -> Tensor:
        """1 where a feature is active, else 0, differentiable in the threshold. [..., d_sae]"""
        return step(m + self.b_enc, self.threshold, self.options.bandwidth)

    def gradient_threshold(self) -> Tensor:
        return self.threshold - self.options.bandwidth / 2 - self.b_enc

    def effective_threshold(self) -> Tensor:
        return self.threshold.clamp(min=0) - self.b_enc
