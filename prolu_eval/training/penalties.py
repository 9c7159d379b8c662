"""Sparsity penalties by name: functions of |a_i|, to be summed over features."""

from collections.abc import Callable

import torch
from torch import Tensor

# Limits the gradient of the square root at zero to 50. Activations are scaled to mean norm
# sqrt(d_in) for training, so that codes are of order one.
_SQRT_EPSILON = 1e-4
# Steepness of the hyperbolic tangent: features count almost fully if they are well above 1 / 4.
_TANH_SCALE = 4.0


def l1(size: Tensor) -> Tensor:
    """|a_i| itself."""
    return size


def sqrt_l1(size: Tensor) -> Tensor:
    """sqrt(|a_i| + eps) - sqrt(eps), eps = 1e-4: the square root, smoothed at zero.

    The write-up's P(a) = ||a||_{1/2}^{1/2} has an infinite gradient at zero; here the gradient is
    at most 1 / (2 sqrt(eps)) = 50. Codes are in training units (activations of mean norm
    sqrt(d_in)), so eps is small compared with active codes: the penalty is smaller than the exact
    root, by less than sqrt(eps) = 0.01 per code. The metric ``sqrt_l1`` is the exact root.
    """
    root: float = _SQRT_EPSILON**0.5
    return (size + _SQRT_EPSILON).sqrt() - root


def tanh(size: Tensor) -> Tensor:
    """A smooth count of the active features: the hyperbolic tangent of 4 |a_i|.

    From Anthropic's Circuits Updates of January 2025, where |a_i| is multiplied by the norm of the
    decoder row, which is one here.
    """
    return torch.tanh(_TANH_SCALE * size)


# Each is elementwise: [...] -> [...].
PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"l1": l1, "sqrt_l1": sqrt_l1, "tanh": tanh}
