"""Sparsity penalties by name: functions of feature activations, summed over features."""

from collections.abc import Callable

from torch import Tensor

# Bounds the gradient of the square root at zero to 50. Activations are trained at mean norm
# sqrt(d_in), so that codes are of order one.
_SQRT_EPSILON = 1e-4


def l1(codes: Tensor) -> Tensor:
    """Sum of |a_i|. [..., d_sae] -> [...]"""
    return codes.abs().sum(-1)


def sqrt_l1(codes: Tensor) -> Tensor:
    """Sum of sqrt(|a_i| + eps) - sqrt(eps), eps = 1e-4. [..., d_sae] -> [...]

    The square root of the write-up, P(a) = ||a||_{1/2}^{1/2}, with a finite gradient at zero.
    """
    root: float = _SQRT_EPSILON**0.5
    return ((codes.abs() + _SQRT_EPSILON).sqrt() - root).sum(-1)


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"l1": l1, "sqrt_l1": sqrt_l1}
