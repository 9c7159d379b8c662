"""Activation functions of sparse autoencoders that can have synthetic gradients.

ProLU (Proportional ReLU) returns its pre-activation unchanged where it exceeds a learned threshold:
``ProLU(m, b) = m if m + b > 0 and m > 0 else 0``. Its true gradient for the bias is zero almost
everywhere. The write-up ("ProLU: A Nonlinearity for Sparse Autoencoders") therefore replaces it by
synthetic gradients. They follow from ``ProLU(m, b) = ReLU(m) Thresh(m + b)`` if the derivative of
Thresh is replaced by a straight-through estimator ST:

    d/dm = gate + ReLU(m) ST(m + b),    d/db = ReLU(m) ST(m + b),    gate = Thresh(m) Thresh(m + b)

ReLU can have such a gradient as well (the write-up's comments ask whether that works): with
u = m + b, ``ReLU(u) = ReLU(u) Thresh(u)``, and so ``d/du = Thresh(u) + ReLU(u) ST(u)``.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from prolu_eval.errors import UsageError
from prolu_eval.spelling import suggesting

Gradient = Literal["relu", "ste", "ste_bias_only", "ste_input_only"]
Estimator = Literal["thresh", "rectangle", "triangle", "sigmoid", "gaussian"]

# Whether the derivatives with respect to m and to b contain the straight-through term.
_STRAIGHT_THROUGH: dict[Gradient, tuple[bool, bool]] = {
    "relu": (False, False),
    "ste": (True, True),
    "ste_bias_only": (False, True),
    "ste_input_only": (True, False),
}

# Pseudo-derivatives of Thresh at u. All but `thresh` integrate to one and are nonzero on both sides
# of the threshold.
ESTIMATORS: dict[Estimator, Callable[[Tensor, float], Tensor]] = {
    "thresh": lambda u, width: (u > 0).to(u.dtype),
    "rectangle": lambda u, width: (u.abs() < width / 2).to(u.dtype) / width,
    "triangle": lambda u, width: (1 - u.abs() / width).clamp(min=0) / width,
    "sigmoid": lambda u, width: torch.sigmoid(u / width) * torch.sigmoid(-u / width) / width,
    "gaussian": lambda u, width: (
        torch.exp(-0.5 * (u / width) ** 2) / (width * math.sqrt(2 * math.pi))
    ),
}
# How far below the threshold each pseudo-derivative is nonzero, in bandwidths.
REACH: dict[Estimator, float] = {
    "thresh": 0,
    "rectangle": 0.5,
    "triangle": 1,
    "sigmoid": math.inf,
    "gaussian": math.inf,
}


def gate(value: Tensor, by: Tensor) -> Tensor:
    """``value`` where ``by > 0``, else 0; only ``value`` gets a gradient.

    Both have the same shape and dtype. This uses the kernel of ReLU's own backward pass, which on a
    CPU is several times faster than a mask and ``torch.where``.
    """
    result: Tensor = torch.ops.aten.threshold_backward(value, by, 0)
    return result


class Thresholding(NamedTuple):
    """The activation of any thresholding variant in one common form, which kernels evaluate.

    With v = m scale + shift, a = v where v > bound and m > gate, else 0. With ``both_signs``, the
    condition is abs(v) > bound. A part that is None means scale 1, shift 0, bound 0, or no gate.
    Bounds are not negative. [d_sae] each
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    bound: Tensor | None = None
    gate: Tensor | None = None
    both_signs: bool = False


class Selection(NamedTuple):
    """The activation of a variant that keeps the largest codes of each token, in one common form.

    With z = m + shift, a = z where z is among the k largest of its token, else 0; of equal numbers
    any may be kept. With ``positive``, a = 0 where z is not positive. With ``both_signs``, the
    numbers that are compared are abs(z). [d_sae]
    """

    k: int
    shift: Tensor
    positive: bool = False
    both_signs: bool = False


class _ProLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(m: Tensor, b: Tensor, gradient: Gradient, st: Estimator, width: float) -> Tensor:
        m, b = torch.broadcast_tensors(m.to(torch.promote_types(m.dtype, b.dtype)), b)
        return gate(m, m - (-b).clamp(min=0))  # m > 0 and m + b > 0 in one comparison

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        m, b, ctx.gradient, ctx.st, ctx.width = inputs
        ctx.save_for_backward(m, b, output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        m, b, value = ctx.saved_tensors
        gated = gate(grad, value)
        if ctx.gradient == "relu":
            straight = gated
        elif ctx.st == "thresh":
            straight = grad * value  # ReLU(m) Thresh(m + b) is the value itself
        else:
            straight = grad * torch.relu(m) * ESTIMATORS[ctx.st](m + b, ctx.width)
        through_m, through_b = _STRAIGHT_THROUGH[ctx.gradient]
        grad_m = gated + straight if through_m else gated
        grad_b = straight if through_b else gated
        return (
            grad_m.sum_to_size(m.shape).to(m.dtype),
            grad_b.sum_to_size(b.shape).to(b.dtype),
            None,
            None,
            None,
        )


def prolu(
    m: Tensor,
    b: Tensor,
    gradient: Gradient = "ste",
    *,
    estimator: Estimator = "thresh",
    bandwidth: float = 1.0,
) -> Tensor:
    """Proportional ReLU: ``m`` where ``m > 0`` and ``m + b > 0``, else 0.

    The result is the same for every ``gradient``; a positive ``b`` acts as zero.

    Args:
        m: the pre-activation without its bias, ``(x - b_dec) W_enc``. [..., d_sae]
        b: the encoder bias; any shape that broadcasts against ``m``, usually [d_sae].
        gradient: ``relu`` is the write-up's ProLU_ReLU (both derivatives are the gate), ``ste`` its
            ProLU_STE; ``ste_bias_only`` and ``ste_input_only`` put the straight-through term into
            one derivative and the gate into the other (ablations that the comments propose).
        estimator: the pseudo-derivative ST of Thresh; the default, ``thresh``, is the derivative of
            ReLU and gives ProLU_STE its published gradients ``(1 + m) gate`` and ``m gate``. With
            any other estimator, there is also a gradient where ``m + b <= 0``.
        bandwidth: the width of the estimator, in the units of ``m``; ``thresh`` has none.

    Returns:
        The activation, in the promoted dtype of ``m`` and ``b`` and the shape of ``m + b``.

    Raises:
        UsageError: if ``m`` or ``b`` is not a tensor, if their shapes do not fit, if the gradient
            or the estimator is unknown, or if the bandwidth is not positive.
    """
    for name, tensor in (("m", m), ("b", b)):
        if not isinstance(tensor, Tensor):
            reason = f"is of type {type(tensor).__name__}"
            raise UsageError(name, reason, "give a tensor, as torch.as_tensor makes one")
    try:
        torch.broadcast_shapes(m.shape, b.shape)
    except RuntimeError:
        reason = f"is of shape {list(b.shape)}, which does not fit m of {list(m.shape)}"
        raise UsageError("b", reason, "give one number for each feature") from None
    if not isinstance(gradient, str) or gradient not in _STRAIGHT_THROUGH:
        raise UsageError(
            "gradient",
            f"{gradient!r} is unknown",
            suggesting(
                str(gradient), get_args(Gradient), f"choose {', '.join(get_args(Gradient))}"
            ),
        )
    if not isinstance(estimator, str) or estimator not in ESTIMATORS:
        known = ", ".join(get_args(Estimator))
        raise UsageError("estimator", f"{estimator!r} is unknown", f"choose {known}")
    if not isinstance(bandwidth, int | float) or not bandwidth > 0:
        raise UsageError("bandwidth", f"{bandwidth!r} is not a positive number", "give a width")
    result: Tensor = _ProLU.apply(m, b, gradient, estimator, bandwidth)  # type: ignore[no-untyped-call]
    return result


class _Relu(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(m: Tensor, b: Tensor, gradient: Gradient, st: Estimator, width: float) -> Tensor:
        return torch.relu(m + b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        m, b, ctx.gradient, ctx.st, ctx.width = inputs
        ctx.m, ctx.b = (m.shape, m.dtype), (b.shape, b.dtype)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        (value,) = ctx.saved_tensors
        gated = gate(grad, value)
        # ReLU(u) = 0 where u is not positive, so ST is needed only where u = ReLU(u).
        straight = gated + grad * value * ESTIMATORS[ctx.st](value, ctx.width)
        through_m, through_b = _STRAIGHT_THROUGH[ctx.gradient]
        grad_m, grad_b = straight if through_m else gated, straight if through_b else gated
        (m_shape, m_dtype), (b_shape, b_dtype) = ctx.m, ctx.b
        return (
            grad_m.sum_to_size(m_shape).to(m_dtype),
            grad_b.sum_to_size(b_shape).to(b_dtype),
            None,
            None,
            None,
        )


def relu(
    m: Tensor,
    b: Tensor,
    gradient: Gradient = "relu",
    *,
    estimator: Estimator = "thresh",
    bandwidth: float = 1.0,
) -> Tensor:
    """``ReLU(m + b)``, with its exact gradient or one with a straight-through estimator.

    Args:
        m: the pre-activation without its bias. [..., d_sae]
        b: the encoder bias; any shape that broadcasts against ``m``, usually [d_sae].
        gradient: ``relu`` is the exact gradient, the gate ``m + b > 0`` for both arguments; ``ste``
            adds ``ReLU(m + b) ST(m + b)`` to both; ``ste_bias_only`` and ``ste_input_only`` add it
            to one.
        estimator: the pseudo-derivative ST of Thresh. No estimator gives a gradient where
            ``m + b <= 0``, because its factor ``ReLU(m + b)`` is zero there.
        bandwidth: the width of the estimator, in the units of ``m``; ``thresh`` has none.

    Returns:
        The activation, in the shape of ``m + b``.
    """
    if gradient == "relu":
        return (m + b).relu_()
    result: Tensor = _Relu.apply(m, b, gradient, estimator, bandwidth)  # type: ignore[no-untyped-call]
    return result
