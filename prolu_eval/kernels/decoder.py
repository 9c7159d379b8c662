"""An optimiser's step for decoder rows of unit norm, in one pass over them."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _step(
    rows, gradients, first, second, rate, beta1, beta2, epsilon, correction1, correction2,
    width, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = tl.program_id(0).to(tl.int64) * width + column
    row = tl.load(rows + place, mask=inside, other=0.0)
    gradient = tl.load(gradients + place, mask=inside, other=0.0)
    gradient -= row * tl.sum(gradient * row, 0)
    m = beta1 * tl.load(first + place, mask=inside, other=0.0) + (1 - beta1) * gradient
    v = beta2 * tl.load(second + place, mask=inside, other=0.0) + (1 - beta2) * gradient * gradient
    row -= rate * (m / correction1) / (tl.sqrt(v / correction2) + epsilon)
    row /= tl.sqrt(tl.sum(row * row, 0))
    tl.store(rows + place, row, mask=inside)
    tl.store(first + place, m, mask=inside)
    tl.store(second + place, v, mask=inside)


def step_unit_rows(
    rows: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """Take Adam's step on rows of unit norm, with gradients orthogonal to the rows.

    The part of the gradient that is parallel to a row is removed before the step, and the row is
    scaled back to norm one after it.

    Args:
        rows: contiguous float32, changed in place. [..., d]
        gradients: the gradients of the loss. [..., d]
        first: Adam's average of gradients, changed in place. [..., d]
        second: Adam's average of squared gradients, changed in place. [..., d]
        step: the number of steps taken, including this one.
        rate: Adam's learning rate.
        betas: the decay rates of the two averages.
        epsilon: the number that Adam adds to the root.
    """
    width = rows.shape[-1]
    _step[(rows.numel() // width,)](
        rows, gradients.contiguous(), first, second, rate, betas[0], betas[1], epsilon,
        1 - betas[0] ** step, 1 - betas[1] ** step, width,
        BLOCK=triton.next_power_of_2(width),
    )  # fmt: skip
