"""Measures of how close a reconstruction is to its activation; each of the two is read once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _fidelity(x, x_hat, columns, n, d_in, x_stride, x_hat_stride, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    within = tl.arange(0, BLOCK)
    error = tl.zeros([BLOCK], tl.float32)
    size = tl.zeros([BLOCK], tl.float32)
    size_hat = tl.zeros([BLOCK], tl.float32)
    product = tl.zeros([BLOCK], tl.float32)
    for start in range(0, d_in, BLOCK):
        inside = start + within < d_in
        a = tl.load(x + token * x_stride + start + within, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(x_hat + token * x_hat_stride + start + within, mask=inside, other=0.0)
        b = b.to(tl.float32)
        error += (a - b) * (a - b)
        size += a * a
        size_hat += b * b
        product += a * b
    norm = tl.sqrt(tl.sum(size, 0))
    norm_hat = tl.sqrt(tl.sum(size_hat, 0))
    dot = tl.sum(product, 0)
    both = norm * norm_hat
    tl.store(columns + token, tl.sum(error, 0))
    # The ratio is 0 where its denominator is 0: for an activation or a reconstruction of zero.
    tl.store(columns + n + token, tl.where(both == 0.0, 0.0, dot / both))
    tl.store(columns + 2 * n + token, tl.where(norm == 0.0, 0.0, norm_hat / norm))
    tl.store(columns + 3 * n + token, tl.sum(size_hat, 0))
    tl.store(columns + 4 * n + token, dot)


def fidelity(x: Tensor, x_hat: Tensor) -> Tensor:
    """Measures of how close reconstructions are to their activations, for each token.

    Args:
        x: activations. [n, d_in]
        x_hat: their reconstructions. [n, d_in]

    Returns:
        The squared error, the cosine similarity, the ratio of the norms, the squared norm of x_hat
        and the inner product of x_hat and x; a ratio with denominator 0 is 0. [5, n] float32
    """
    n, d_in = x.shape
    columns = torch.empty(5, n, dtype=torch.float32, device=x.device)
    if n:
        block = min(_BLOCK, triton.next_power_of_2(d_in))
        _fidelity[(n,)](
            x, x_hat, columns, n, d_in, x.stride(0), x_hat.stride(0), BLOCK=block, num_warps=4
        )
    return columns
