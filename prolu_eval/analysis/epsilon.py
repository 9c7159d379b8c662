"""Epsilon indicators between variants: how far one is from dominating another."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import permutations

import numpy as np
from scipy.special import ndtri

from prolu_eval.analysis.bootstrap import Array, exponential, widened
from prolu_eval.analysis.pareto import nondominated
from prolu_eval.estimates import CONFIDENCE, Estimate

_QUANTILE = (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class Epsilon:
    """How much worse the second variant would have to be for the first to weakly dominate it.

    ``multiplicative`` is the least factor by which all costs of the second variant would have to
    grow; it is None unless all costs are positive. ``additive`` is the least amount that would have
    to be added to each of them, in units of the range that both variants' measured runs span. If
    the first variant dominates already, they are at most 1 and at most 0. Zitzler et al., IEEE
    Transactions on Evolutionary Computation 7 (2003).
    """

    first: str
    second: str
    multiplicative: Estimate
    additive: Estimate


def epsilons(points: Mapping[str, Array], degrees_of_freedom: int) -> list[Epsilon]:
    """The indicators of all ordered pairs of variants.

    Args:
        points: the costs by variant, those measured first, then the replicates.
            [n_sets, n, n_keys] each
        degrees_of_freedom: the degrees of freedom of the intervals.
    """
    kept = {label: _deciding(part) for label, part in points.items()}
    ends = {label: _ends(part[0]) for label, part in points.items()}
    found = []
    for first, second in permutations(points, 2):
        both = np.stack([ends[first], ends[second]])
        span = both[:, 1].max(0) - both[:, 0].min(0)
        pair = kept[first], kept[second]
        found.append(Epsilon(first, second, *_both(*pair, span, degrees_of_freedom)))
    return found


def _ends(points: Array) -> Array:
    """The least and largest cost in every column; infinite if no point is finite. [2, n_keys]"""
    finite = points[np.isfinite(points).all(1)]
    return np.stack([finite.min(0, initial=np.inf), finite.max(0, initial=-np.inf)])


def _deciding(points: Array) -> Array:
    """The points that are nondominated in at least one set; no others affect the indicators."""
    on = np.any([nondominated(part) for part in points], axis=0)
    return np.asarray(points[:, on & np.isfinite(points[0]).all(-1)])


def _both(first: Array, second: Array, span: Array, freedom: int) -> tuple[Estimate, Estimate]:
    """The multiplicative indicator, and the additive one in units of ``span``."""
    if not first.shape[1] or not second.shape[1]:
        return Estimate(value=None), Estimate(value=None)
    span = np.where(span > 0, span, 1)
    additive = _indicator(first / span, second / span, freedom)
    if min(first[0].min(), second[0].min()) <= 0:
        return Estimate(value=None), additive
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = _indicator(np.log(first), np.log(second), freedom)
    return exponential(gap), additive


def _indicator(first: Array, second: Array, freedom: int) -> Estimate:
    """The least amount to add to the second variant's places, with an interval.

    Every point of the second variant has a gap to the nearest point of the first: the largest
    difference over the metrics. The indicator is the greatest of these gaps. The greatest of
    several estimates of similar size is biased upwards, and its replicates are biased upwards once
    more, so that an ordinary interval around it would miss the truth. Instead, the lower end is a
    bound that holds at once for all gaps that may be the greatest, and the upper end is the highest
    upper bound of any single gap (Chernozhukov, Lee and Rosen, Intersection bounds, Econometrica
    81, 2013).

    Args:
        first: the first variant's places, those measured first, then the replicates.
            [n_sets, n, n_keys]
        second: the second variant's places in the same sets. [n_sets, m, n_keys]
        freedom: degrees of freedom.
    """
    gaps = first[0] - second[0][:, None]
    value = _minmax(gaps)
    if (
        len(first) < 3
        or freedom < 1
        or not (np.isfinite(first).all() and np.isfinite(second).all())
    ):
        return Estimate(value=value)
    spread = _spread(first[1:], second[1:])
    nearest = _over_metrics(gaps).argmin(1)
    rows = np.arange(len(nearest))
    gap, own = gaps[rows, nearest], spread[rows, nearest]
    replicated = first[1:, nearest] - second[1:]
    deviations = (replicated - gap) / np.where(own > 0, own, np.inf)
    few = widened(_QUANTILE, freedom)
    every = few * np.quantile(deviations.max((1, 2)), _QUANTILE)
    near = gap + 2 * every * own >= (gap - every * own).max()
    factor = few * np.quantile(deviations[:, near].max(1), _QUANTILE)
    low, high = _minmax(gaps - factor * spread), _minmax(gaps + few * ndtri(_QUANTILE) * spread)
    return Estimate(value=value, ci95=(low, high))


def _minmax(gaps: Array) -> float:
    """The indicator that gaps [n_second, n_first, n_keys] give."""
    return float(_over_metrics(gaps).min(1).max())


def _over_metrics(gaps: Array) -> Array:
    """The largest gap over the metrics, of which there are few. [..., n_keys] -> [...]"""
    return reduce(np.maximum, np.moveaxis(gaps, -1, 0))  # numpy's max takes ten times the time


def _spread(first: Array, second: Array) -> Array:
    """Standard deviations of the differences between points. [n_second, n_first, n_keys]"""
    first, second = (part - part.mean(0) for part in (first, second))
    n = len(first) - 1
    both = np.moveaxis(second.T @ first.transpose(2, 0, 1), 0, -1) / n
    variances = np.square(first).sum(0) / n + np.square(second).sum(0)[:, None] / n - 2 * both
    return np.asarray(np.sqrt(np.maximum(variances, 0)))
