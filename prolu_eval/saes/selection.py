"""The k largest numbers of each row on a CPU, faster than a partial sort of the rows."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The relative cost of one number: of a maximum over groups, and of a member of a searched group,
# which is gathered first.
_MAXIMUM, _MEMBER = 3, 5


class Largest(NamedTuple):
    """The largest numbers of each row that were found, by row and column. [n_found] each"""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    value: NDArray[np.floating]


def largest(z: Tensor, k: int, *, positive: bool) -> Largest | None:
    """The k largest numbers of each row, or the positive ones among them.

    Columns c, c + n_groups, c + 2 n_groups, ... form a group. The k largest numbers of a row are in
    the k groups with the largest maxima, so only these groups are searched.

    Args:
        z: numbers on the CPU, in float32 or float64. [n, d]
        k: how many numbers of each row, at most d.
        positive: whether only positive numbers are wanted.

    Returns:
        The numbers; None if equal numbers leave the choice open, or if some are not finite.
    """
    z = z.detach()
    n, d = z.shape
    size = _group_size(d, k)
    n_groups = d // size
    maxima = z
    while maxima.shape[1] > n_groups:
        half = maxima.shape[1] // 2
        maxima = torch.maximum(maxima[:, :half], maxima[:, half:])
    if not maxima.sum().isfinite():
        return None
    groups = None if size == 1 else _groups(maxima.numpy(), k)
    if groups is None:  # equal maxima; the k largest numbers may still be unambiguous
        column, value = np.broadcast_to(np.arange(d), (n, d)), z.numpy()
    else:
        chosen = torch.from_numpy(groups)[:, None, :]
        members = z.view(n, size, n_groups).gather(2, chosen.expand(n, size, k))
        first = torch.arange(0, d, n_groups)[:, None]
        column, value = (part.view(n, size * k).numpy() for part in (chosen + first, members))
    bound = _kth(value, k)
    if positive:
        bound = np.maximum(bound, np.finfo(value.dtype).smallest_subnormal)
    found = np.flatnonzero(value >= bound[:, None])
    row = found // value.shape[1]
    if len(found) and np.bincount(row).max() > k:
        return None
    return Largest(row, column.reshape(-1)[found], value.reshape(-1)[found])


def _groups(maxima: NDArray[np.floating], k: int) -> NDArray[np.int64] | None:
    """The k groups of each row with the largest maxima, in order; None if the choice is open.

    [n, n_groups] -> [n, k]
    """
    n, n_groups = maxima.shape
    chosen = np.flatnonzero(maxima >= _kth(maxima, k)[:, None])
    return None if len(chosen) > n * k else (chosen % n_groups).reshape(n, k)


def _group_size(d: int, k: int) -> int:
    """The cheapest size of a group, a power of two that leaves at least k groups."""

    def cost(size: int) -> int:
        return _MAXIMUM * (d // size) + _MEMBER * k * size

    size = 1
    while d % (2 * size) == 0 and d // (2 * size) >= k and cost(2 * size) < cost(size):
        size *= 2
    return size


def _kth(rows: NDArray[np.floating], k: int) -> NDArray[np.floating]:
    """The k-th largest of each row. [n, d] -> [n]"""
    place = rows.shape[1] - k
    found: NDArray[np.floating] = np.partition(rows, place, axis=1)[:, place]
    return found
