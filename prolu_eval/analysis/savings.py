"""Two variants compared along their frontiers: what is saved at equal quality, and who is ahead.

A frontier over two metrics is drawn as straight lines between its neighbouring runs, on the axes of
:class:`~prolu_eval.analysis.curves.Scale`. Savings are averages of the gap between two such lines
over the range that both cover, as in Bjontegaard's delta of rate-distortion curves (ITU-T
VCEG-M33, 2001).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.bootstrap import interval, widened
from prolu_eval.analysis.curves import Array, Lines, Scale, mean_over, shared_levels
from prolu_eval.estimates import CONFIDENCE, Estimate


@dataclass(frozen=True)
class Saving:
    """How much less of one metric the first variant takes at equal values of the other.

    ``amount`` is a fraction of the second variant's (0.3: 30 % less), from the mean gap of
    logarithms over ``range`` of ``at_equal``; for a metric of which more is better it is the mean
    gain in the metric's own unit. Both are None where the frontiers share no range.
    """

    first: str
    second: str
    metric: str
    at_equal: str
    amount: Estimate
    range: tuple[float, float] | None


@dataclass(frozen=True)
class Lead:
    """Where one frontier lies ahead of another, with confidence for all pairs and places at once.

    ``first_ahead`` and ``second_ahead`` are stretches of ``x``; ``range`` is where both frontiers
    are defined, None where they share no range.
    """

    first: str
    second: str
    x: str
    y: str
    range: tuple[float, float] | None
    first_ahead: list[tuple[float, float]]
    second_ahead: list[tuple[float, float]]


@dataclass(frozen=True)
class _Gap:
    """The first line less the second, over levels of one metric, measured and replicated."""

    levels: Array
    measured: Array
    replicated: Array

    @property
    def spread(self) -> Array:
        """Standard error at each level; NaN where there is none."""
        if len(self.replicated) < 2:
            return np.full(len(self.levels), np.nan)
        spread = self.replicated.std(0, ddof=1)
        return np.where(spread > 0, spread, np.nan)


def _gap(one: Lines, two: Lines) -> _Gap | None:
    """The gap between two lines; None where they share no range."""
    levels = shared_levels(one, two)
    if not len(levels):
        return None
    measured, *replicated = one.at(levels) - two.at(levels)
    return _Gap(levels, measured, np.array(replicated).reshape(-1, len(levels)))


class Curves:
    """The frontiers of variants over two metrics, measured and replicated.

    Args:
        points: costs by variant, in the order of pairs; the measured ones first, then replicates.
            [n_lines, n, 2] each
        keys: the two metrics.
        degrees_of_freedom: of intervals.
    """

    def __init__(
        self, points: dict[str, Array], keys: tuple[str, str], degrees_of_freedom: int
    ) -> None:
        self.keys = keys
        self.scales = Scale(keys[0]), Scale(keys[1])
        self._freedom = degrees_of_freedom
        over_x = {
            label: Lines.through(
                np.stack([scale.place(part[..., i]) for i, scale in enumerate(self.scales)], -1)
            )
            for label, part in points.items()
        }
        over_y = {label: lines.turned for label, lines in over_x.items()}
        # By pair, the gaps over the first and over the second metric.
        self._gaps = {
            (first, second): [_gap(over[first], over[second]) for over in (over_x, over_y)]
            for first, second in combinations(points, 2)
        }

    def savings(self) -> list[Saving]:
        """Savings of every variant against every other, in both metrics."""
        found = []
        for (first, second), gaps in self._gaps.items():
            for over in (1, 0):
                found.append(self._saving(first, second, over, gaps[over], 1))
                found.append(self._saving(second, first, over, gaps[over], -1))
        return found

    def _saving(self, first: str, second: str, over: int, gap: _Gap | None, sign: int) -> Saving:
        keys = self.keys[1 - over], self.keys[over]
        if gap is None:
            return Saving(first, second, *keys, Estimate(value=None), None)
        scale = self.scales[1 - over]
        mean = sign * float(mean_over(gap.levels, gap.measured))
        means = sign * mean_over(gap.levels, gap.replicated)
        amount = Estimate(value=scale.saved(mean))
        around = interval(mean, means, self._freedom)
        low, high = around.ci95
        if low is not None and high is not None and around.standard_error is not None:
            slope = float(np.exp(mean)) if scale.logarithmic else 1.0
            amount = Estimate(
                value=amount.value,
                standard_error=around.standard_error * slope,
                ci95=(scale.saved(high), scale.saved(low)),
            )
        span = self.scales[over].values(gap.levels[0], gap.levels[-1])
        return Saving(first, second, *keys, amount, span)

    def leads(self) -> list[Lead]:
        """For every pair of variants, where one is ahead, by simultaneous bands.

        The bands' half width is a multiple of each gap's standard error, chosen so that in 97.5 %
        of replicates no gap, of any pair at any level, leaves its band. The margin is for what the
        bootstrap gets wrong: in at most 5 % of evaluations is any lead claimed that is not there.
        """
        gaps = {pair: over_x for pair, (over_x, _) in self._gaps.items()}
        factor = self._factor([gap for gap in gaps.values() if gap])
        return [self._lead(pair, gap, factor) for pair, gap in gaps.items()]

    def _factor(self, gaps: Sequence[_Gap]) -> float:
        """Standard errors to a simultaneous band's edge, widened for few sequences."""
        widest = [
            np.nanmax(np.abs(gap.replicated - gap.measured) / gap.spread, axis=1)
            for gap in gaps
            if np.isfinite(gap.spread).any()
        ]
        if not widest:
            return np.inf
        quantile = (1 + CONFIDENCE) / 2
        return widened(quantile, self._freedom) * float(
            np.quantile(np.max(widest, axis=0), quantile)
        )

    def _lead(self, pair: tuple[str, str], gap: _Gap | None, factor: float) -> Lead:
        if gap is None:
            return Lead(*pair, *self.keys, None, [], [])
        with np.errstate(invalid="ignore"):
            first = gap.measured + factor * gap.spread < 0
            second = gap.measured - factor * gap.spread > 0
        return Lead(
            *pair,
            *self.keys,
            self.scales[0].values(gap.levels[0], gap.levels[-1]),
            self._stretches(gap.levels, first),
            self._stretches(gap.levels, second),
        )

    def _stretches(self, levels: Array, held: NDArray[np.bool_]) -> list[tuple[float, float]]:
        """Neighbouring levels that all hold, as ranges of x, ascending."""
        steps = np.diff(held.astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0) - 1
        return sorted(
            self.scales[0].values(levels[start], levels[stop])
            for start, stop in zip(starts, stops, strict=True)
            if stop > start
        )
