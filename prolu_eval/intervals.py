"""Standard errors and intervals from per-sequence sums, clustered by sequence.

Tokens of one sequence are correlated, so the sequence is the unit: every metric is a ratio of sums
over sequences (:mod:`prolu_eval.metrics`), and its standard error follows from the residuals
``A_i - R B_i`` of the sequences (the delta method for a ratio estimator; Cochran, Sampling
Techniques, 3rd ed., eq. 6.13). Intervals use Student's t with one degree of freedom less than
there are sequences.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from prolu_eval.estimates import CONFIDENCE, Estimate
from prolu_eval.metrics import Metric, Terms

Sums = Mapping[str, NDArray[np.float64]]


def combine(terms: Terms, sums: Sums) -> NDArray[np.float64]:
    """The linear combination of columns that a metric needs, per sequence. [n_sequences]

    It is NaN if a column was not measured, as those of skip connections are only for transcoders.
    """
    if not terms.keys() <= sums.keys():
        return np.full(len(next(iter(sums.values()))), np.nan)
    return np.asarray(sum(weight * sums[column] for column, weight in terms.items()), float)


def value_and_influence(metric: Metric, sums: Sums) -> tuple[float, NDArray[np.float64]]:
    """A metric's value, and each sequence's influence on it. float, [n_sequences]

    The influences sum to zero up to rounding; the variance of the value is estimated from their
    squares. Both are NaN where the denominator sums to zero.
    """
    numerator, denominator = combine(metric.numerator, sums), combine(metric.denominator, sums)
    total = denominator.sum()
    if total == 0:
        return np.nan, np.full(len(denominator), np.nan)
    ratio = numerator.sum() / total
    influence = metric.scale * (numerator - ratio * denominator) / total
    return float(metric.offset + metric.scale * ratio), influence


def from_influence(value: float, influence: NDArray[np.float64]) -> Estimate:
    """A value with the standard error and interval that its sequences' influences imply.

    With fewer than two sequences the standard error and the interval are undefined.
    """
    n = len(influence)
    spread = float(np.sqrt(n / (n - 1) * np.square(influence).sum())) if n > 1 else np.nan
    return with_interval(value, spread, n - 1)


def with_interval(value: float, standard_error: float, degrees_of_freedom: int) -> Estimate:
    """A value and its standard error, with the t interval; numbers that are not finite are None."""
    half = (
        standard_error * float(stdtrit(degrees_of_freedom, 0.5 + CONFIDENCE / 2))
        if degrees_of_freedom > 0
        else np.nan
    )
    return Estimate(
        value=_finite(value),
        standard_error=_finite(standard_error),
        ci95=(_finite(value - half), _finite(value + half)),
    )


def _finite(number: Any) -> float | None:
    return float(number) if np.isfinite(number) else None


def in_sample(metric: Metric, sums: Sums) -> NDArray[np.bool_]:
    """Whether each sequence belongs to a metric's sample: not all of its sums are zero.

    A sequence without counted positions, or without any whose next token counts, does not belong to
    the sample. [n_sequences]
    """
    columns = {**metric.numerator, **metric.denominator}.keys() & sums.keys()
    return np.asarray(np.any([sums[column] != 0 for column in columns], axis=0))


def estimate(metric: Metric, sums: Sums) -> Estimate:
    """A metric over all sequences of its sample, from sums by column. [n_sequences] each"""
    value, influence = value_and_influence(metric, sums)
    return from_influence(value, influence[in_sample(metric, sums)])


def difference(metric: Metric, first: Sums, second: Sums) -> Estimate:
    """How much larger a metric is in ``first`` than in ``second``, paired by sequence.

    Both must have the same sequences of the same tokens in the same order, so that variation
    between sequences which both share cancels.
    """
    value, influence = value_and_influence(metric, first)
    other, other_influence = value_and_influence(metric, second)
    either = in_sample(metric, first) | in_sample(metric, second)
    return from_influence(value - other, (influence - other_influence)[either])


def contrast(
    value: float, first: NDArray[np.float64], second: NDArray[np.float64], *, paired: bool
) -> tuple[Estimate, int]:
    """A difference of two values with its standard error, and its degrees of freedom.

    Both follow from the sequences' influences on the two values. Paired influences belong to the
    same sequences; others are independent (Welch).
    """
    if paired:
        return from_influence(value, first - second), len(first) - 1
    variances = [_variance(influence) for influence in (first, second)]
    freedoms = [len(first) - 1, len(second) - 1]
    if min(freedoms) < 1:
        return with_interval(value, np.nan, 0), 0
    spread = sum(variances)
    pooled = sum(v * v / f for v, f in zip(variances, freedoms, strict=True))
    freedom = int(spread * spread / pooled) if pooled else min(freedoms)
    return with_interval(value, float(np.sqrt(spread)), freedom), freedom


def _variance(influence: NDArray[np.float64]) -> float:
    n = len(influence)
    return float(n / (n - 1) * np.square(influence).sum()) if n > 1 else np.nan


def p_above_zero(difference: Estimate, degrees_of_freedom: int) -> float:
    """One-sided p-value of a difference being above zero, by Student's t; NaN where undefined."""
    if difference.value is None or difference.standard_error is None or degrees_of_freedom < 1:
        return np.nan
    if difference.standard_error == 0:
        return 0.0 if difference.value > 0 else 1.0
    return float(stdtr(degrees_of_freedom, -difference.value / difference.standard_error))


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """P-values adjusted for their number, which controls the error rate of the family. [n]

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6 (1979). Valid under any dependence.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted
