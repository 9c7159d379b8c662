"""The axes that metrics are interpolated on, and frontiers of many replicates at once as lines."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prolu_eval.metrics import METRICS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """The axis that a metric's costs are interpolated on.

    It is logarithmic for metrics of which less is better, where values that are not positive have
    no coordinate, and linear for the others.
    """

    key: str

    @property
    def logarithmic(self) -> bool:
        """Whether coordinates are logarithms."""
        return METRICS[self.key].direction == "min"

    def coordinates(self, costs: Array) -> Array:
        """Costs as coordinates on the axis; NaN where they have none."""
        if not self.logarithmic:
            return costs
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(costs > 0, np.log(costs), np.nan)

    def value(self, coordinate: float) -> float:
        """A coordinate on the axis as the metric's value."""
        return float(np.exp(coordinate)) if self.logarithmic else -float(coordinate)

    def cost(self, value: float) -> Array:
        """A value of the metric as a cost."""
        return np.asarray(value if self.logarithmic else -value, float)

    def values(self, low: float, high: float) -> tuple[float, float]:
        """A range of coordinates as a range of the metric, the lower end first."""
        first, last = sorted((self.value(low), self.value(high)))
        return first, last

    def saved(self, gap: float) -> float:
        """What a gap between coordinates saves: a fraction, or the gain in a maximised metric."""
        return -float(np.expm1(gap)) if self.logarithmic else -float(gap)


@dataclass(frozen=True)
class Lines:
    """The frontiers of one variant, the measured one first, then its replicates.

    Attributes:
        corners: the nondominated points, with the first column ascending and the second descending;
            the rows after a line's last corner are NaN. [n_lines, n, 2]
        counts: the number of corners of each line. [n_lines]
    """

    corners: Array
    counts: NDArray[np.int64]

    @classmethod
    def through(cls, places: Array) -> "Lines":
        """The frontiers of points [n_lines, n, 2], where less is better in both columns."""
        x, y = np.where(np.isfinite(places).all(-1), places.T.swapaxes(1, 2), np.nan)
        order = np.lexsort((y, x), axis=-1)
        x, y = np.take_along_axis(x, order, -1), np.take_along_axis(y, order, -1)
        before = np.fmin.accumulate(np.insert(y, 0, np.inf, axis=-1), axis=-1)[:, :-1]
        kept = y < before
        first = np.argsort(~kept, axis=-1, kind="stable")
        corners = np.stack([x, y], -1)
        corners[~kept] = np.nan
        return cls(np.take_along_axis(corners, first[..., None], 1), kept.sum(-1))

    @property
    def turned(self) -> "Lines":
        """The same lines with the columns exchanged: the first as a function of the second."""
        rows = np.arange(self.corners.shape[1])
        order = np.where(rows < self.counts[:, None], self.counts[:, None] - 1 - rows, rows)
        turned = np.take_along_axis(self.corners, order[..., None], 1)[..., ::-1]
        return Lines(turned, self.counts)

    @property
    def measured(self) -> Array:
        """The corners of the measured line. [n, 2]"""
        return self.corners[0, : self.counts[0]]

    def at(self, levels: Array) -> Array:
        """The second column at levels of the first; NaN for lines of fewer than two corners.

        Beyond its ends a line is extrapolated along its last segment, which happens in replicates
        only. [n_lines, n_levels]
        """
        if self.corners.shape[1] < 2:
            return np.full((len(self.corners), len(levels)), np.nan)
        passed = (self.corners[:, 1:, 0, None] <= levels).sum(1)
        segment = np.clip(passed, 0, np.maximum(self.counts - 2, 0)[:, None])
        (x0, y0), (x1, y1) = (
            np.moveaxis(np.take_along_axis(self.corners, at[..., None], 1), -1, 0)
            for at in (segment, segment + 1)
        )
        return np.asarray(y0 + (levels - x0) * (y1 - y0) / (x1 - x0))


def mean_over(levels: Array, values: Array) -> Array:
    """The mean of a function that is linear between levels. [..., n_levels] -> [...]"""
    return np.asarray(np.trapezoid(values, levels, axis=-1) / (levels[-1] - levels[0]))
