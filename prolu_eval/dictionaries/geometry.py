"""The geometry of a dictionary's directions: their overlap, and how many dimensions they span.

Latents that mix correlated features have overlapping directions. According to arXiv 2508.16560,
this happens where L0 does not suit the data; overlap is least at the L0 that does.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from prolu_eval.dictionaries.matching import unit_rows

# Of a larger dictionary, only this many random directions are compared with all others.
_ROWS = 1024
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_SEED = 0


class Overlap(NamedTuple):
    """Cosines of directions with one another.

    Attributes:
        mean: the mean of the absolute cosines.
        nearest: the mean over directions of the largest absolute cosine with another one.
        quantiles: the quantiles of the absolute cosines, at :data:`QUANTILES`. [7] float32
    """

    mean: float
    nearest: float
    quantiles: Tensor

    def quantile(self, q: float) -> float:
        """One of them, of :data:`QUANTILES`."""
        return float(self.quantiles[QUANTILES.index(q)])


@torch.inference_mode()
def overlap(rows: Tensor) -> Overlap:
    """The overlap of directions [n, d] with one another; NaN if there is only one.

    If there are more than 1,024 directions, 1,024 of them, drawn with a fixed seed, are compared
    with all others. Rows of norm zero, which have no direction, are left out.
    """
    rows = unit_rows(rows)
    rows = rows[rows.any(1)]
    n = len(rows)
    if n < 2:
        return Overlap(torch.nan, torch.nan, torch.full((len(QUANTILES),), torch.nan))
    chosen = torch.arange(n)
    if n > _ROWS:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(_SEED))[:_ROWS]
    chosen = chosen.to(rows.device)
    cosines = (rows[chosen] @ rows.T).abs_()
    own = torch.arange(len(chosen), device=rows.device)
    cosines[own, chosen] = -1
    nearest = float(cosines.max(1).values.mean())
    total = cosines.double().sum() + len(chosen)
    # Sorting millions of numbers for a few quantiles is slow, so only every n-th number is used.
    values = cosines.flatten()[:: max(1, cosines.numel() >> 20)]
    quantiles = values[values >= 0].quantile(torch.tensor(QUANTILES, device=rows.device))
    return Overlap(float(total / (len(chosen) * (n - 1))), nearest, quantiles.cpu())


@torch.inference_mode()
def effective_rank(rows: Tensor) -> float:
    """The exponential of the entropy of a matrix's normalised singular values. [n, d]

    Rows are first scaled to unit norm (Roy and Vetterli, The effective rank, EUSIPCO 2007). The
    rank is NaN if all rows are zero.
    """
    rows = unit_rows(rows)
    gram = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    values = torch.linalg.eigvalsh(gram.double()).clamp(min=0).sqrt()
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


@torch.inference_mode()
def nth_projection(rows: Tensor, x: Tensor) -> Tensor:
    """The n-th largest projection of each x on n_rows directions, with n = n_rows / 2.

    This is s_n^dec of arXiv 2508.16560, but of absolute values and divided by the norm of x.
    [n_rows, d], [N, d] -> [N]; NaN where x is zero.
    """
    rows = unit_rows(rows)
    projections = (x.float() @ rows.T).abs()
    place = projections.shape[1] - max(1, projections.shape[1] // 2) + 1
    norms = x.float().norm(dim=1)
    found = projections.kthvalue(place, dim=1).values
    return found / torch.where(norms > 0, norms, torch.nan)
