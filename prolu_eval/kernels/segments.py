"""Sums over consecutive segments, always added in the same order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _sum(values, starts, sums, values_stride, sums_stride, BLOCK: tl.constexpr):
    segment = tl.program_id(0)
    column = tl.program_id(1).to(tl.int64)
    start = tl.load(starts + segment)
    stop = tl.load(starts + segment + 1)
    within = tl.arange(0, BLOCK)
    partial = tl.zeros([BLOCK], tl.float64)
    for first in range(start, stop, BLOCK):
        place = first + within
        found = tl.load(values + column * values_stride + place, mask=place < stop, other=0.0)
        partial += found.to(tl.float64)
    tl.store(sums + column * sums_stride + segment, tl.sum(partial, 0))


def sum_segments(values: Tensor, starts: Tensor) -> Tensor:
    """Sums of columns over segments in float64, each added in a fixed order.

    Args:
        values: contiguous columns. [k, n]
        starts: where each segment begins, and where the last one ends. [m + 1] int64

    Returns:
        [k, m] float64.
    """
    values = values.contiguous()
    k, m = len(values), len(starts) - 1
    sums = torch.empty(k, m, dtype=torch.float64, device=values.device)
    if k and m:
        _sum[(m, k)](values, starts, sums, values.stride(0), sums.stride(0), BLOCK=_BLOCK)
    return sums
