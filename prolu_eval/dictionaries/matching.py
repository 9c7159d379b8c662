"""Matches the features of two dictionaries by the cosines of their directions."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

# The best matching is found for up to this many features; its time grows with their cube.
EXACT = 4096
# For larger dictionaries: the candidates of each feature, and the rows compared at a time.
_CANDIDATES, _ROWS = 8, 1024


class Matched(NamedTuple):
    """A one-to-one matching of two dictionaries.

    Attributes:
        column: the feature of the second dictionary that each feature of the first is matched with,
            -1 for none. [n] int64
        cosine: the cosine of the two, NaN for none. [n] float32
        nearest: the largest cosine with any feature of the second dictionary. [n] float32
        exact: whether the matching has the largest possible sum of cosines; else it is greedy.
    """

    column: NDArray[np.int64]
    cosine: NDArray[np.float32]
    nearest: NDArray[np.float32]
    exact: bool


def one_to_one(similarity: NDArray[np.floating]) -> NDArray[np.int64]:
    """The one-to-one matching of largest total similarity (Hungarian method).

    Args:
        similarity: the similarity of each row's feature to each column's. [n, m]

    Returns:
        The column of each row, -1 for the n - min(n, m) rows without one. [n]
    """
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    match = np.full(len(similarity), -1)
    match[rows] = columns
    return match


@torch.inference_mode()
def match(first: Tensor, second: Tensor, *, absolute: bool = False) -> Matched:
    """Match the directions of two dictionaries one to one by cosine.

    Dictionaries of up to 4,096 features are matched so that the sum of cosines is largest. Larger
    ones are matched greedily in rounds: each feature has its 8 most similar features of the other
    dictionary as candidates, the most similar pairs are matched first, and the next round matches
    the features that are left.

    Args:
        first: directions of any norm, on any device. [n, d]
        second: directions of any norm, on any device. [m, d]
        absolute: whether a direction and its negative count as the same.
    """
    first, second = unit_rows(first), unit_rows(second)
    if max(len(first), len(second)) <= EXACT:
        cosines = first @ second.T
        alike = (cosines.abs() if absolute else cosines).cpu().numpy()
        column = one_to_one(alike)
        return _matched(column, alike, alike.max(1))
    column = np.full(len(first), -1)
    cosine = np.full(len(first), np.nan, np.float32)
    nearest = np.empty(0, np.float32)
    rows, columns = np.arange(len(first)), np.arange(len(second))
    while len(rows) and len(columns):
        left = first[torch.from_numpy(rows).to(first.device)]
        others = second[torch.from_numpy(columns).to(first.device)]
        values, index = _most_alike(left, others, absolute)
        nearest = nearest if len(nearest) else values[:, 0]
        taken = _greedy(values, index)
        won = taken >= 0
        column[rows[won]] = columns[index[won, taken[won]]]
        cosine[rows[won]] = values[won, taken[won]]
        rows = rows[~won]
        columns = np.setdiff1d(columns, column)
    return Matched(column, cosine, nearest, exact=False)


def unit_rows(rows: Tensor) -> Tensor:
    """The rows scaled to unit norm, in float32; rows of norm zero stay zero. [n, d]"""
    return torch.nn.functional.normalize(rows.float(), dim=1)


def _matched(
    column: NDArray[np.int64], alike: NDArray[np.float32], nearest: NDArray[np.float32]
) -> Matched:
    cosine = np.where(column >= 0, alike[np.arange(len(column)), column], np.nan)
    return Matched(column, cosine.astype(np.float32), nearest.astype(np.float32), exact=True)


def _most_alike(
    first: Tensor, second: Tensor, absolute: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The largest cosines of each row in descending order, and their columns. [n, k] each"""
    k = min(_CANDIDATES, len(second))
    found = []
    for part in first.split(_ROWS):
        cosines = part @ second.T
        found.append((cosines.abs_() if absolute else cosines).topk(k))
    values, index = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    return values, index


def _greedy(values: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The candidate that each row gets, the most similar pairs first; -1 for none. [n]"""
    taken = np.full(len(values), -1)
    used = np.zeros(int(index.max()) + 1, bool)
    order = np.argsort(-values, axis=None, kind="stable")
    for place in order.tolist():
        row, candidate = divmod(place, values.shape[1])
        column = index[row, candidate]
        if taken[row] < 0 and not used[column]:
            taken[row], used[column] = candidate, True
    return taken
