"""Attainment surfaces: what the frontiers of several seeds reach at best, in median, at worst."""

from dataclasses import dataclass, field

import moocore
import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.bootstrap import Array, interval
from prolu_eval.analysis.curves import Scale
from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import Costs, costs, distance_to_dominate, signs

Point = tuple[float, float]
# Number of lines along which a band is computed. Their slope is 1 in units of the points' ranges.
_DIAGONALS = 65


@dataclass(frozen=True)
class Surface:
    """The border of the region that the frontiers of a certain share of seeds dominate.

    Attributes:
        corners: its corners, in order of the first metric.
        better, worse: the two borders of its 95 % band, where there are replicates. The band is
            pointwise: it is computed along parallel lines of slope 1, for the point where each line
            crosses the surface. Both metrics are placed by
            :class:`~prolu_eval.analysis.curves.Scale` and divided by their ranges. The band is for
            the surface that this number of seeds attains in expectation.
    """

    corners: list[Point]
    better: list[Point] = field(default_factory=list)
    worse: list[Point] = field(default_factory=list)


def surfaces(
    group: Group,
    keys: tuple[str, str],
    replicated: Array | None = None,
    degrees_of_freedom: int = 0,
) -> dict[str, dict[str, Surface]]:
    """The ``best``, ``median`` and ``worst`` surface of every variant with several seeds.

    They are the borders of the regions that the frontiers of at least one seed, of half of the
    seeds and of all seeds dominate (Fonseca and Fleming, 1996). Only configurations that were
    trained with several seeds count.

    Args:
        group: the runs.
        keys: two metrics.
        replicated: the runs' costs over resampled sequences and seeds, for the bands.
            [n_replicates, n_runs, 2]
        degrees_of_freedom: the degrees of freedom of the bands.
    """
    points, seeds = costs(group.table, keys), group.table["seed"].to_numpy(float)
    labels = group.table["label"].to_numpy()
    finite = np.flatnonzero(np.isfinite(points).all(1))
    found = {}
    for label in group.labels:
        repeated = [r for r in group.configurations if len(r) > 1 and labels[r[0]] == label]
        rows = np.intersect1d(np.concatenate([*repeated, np.empty(0, np.int64)]), finite)
        sets = np.unique(seeds[rows], return_inverse=True)[1]
        if len(rows) and sets.max() > 0:
            bands = _Bands(points[rows], sets, keys, replicated, rows)
            n = int(sets.max()) + 1
            levels = {"best": 100 / n, "median": 50.0, "worst": 100.0}
            found[label] = {
                name: Surface(
                    [(float(x), float(y)) for x, y in _corners(points[rows], sets, level)
                     * signs(keys)],
                    *bands.around(level, degrees_of_freedom),
                )
                for name, level in levels.items()
            }  # fmt: skip
    return found


def _corners(points: Costs, sets: NDArray[np.int64], level: float) -> Costs:
    """The corners of the surface that ``level`` percent of sets attain, by the first column."""
    grouped = np.argsort(sets, kind="stable")  # moocore expects each set's points to be adjacent
    corners = moocore.eaf(points[grouped], sets[grouped], percentiles=[level])[:, :-1]
    return np.asarray(corners[np.lexsort(corners.T[::-1])])


def attained(points: Array, sets: NDArray[np.int64], marks: Array) -> Array:
    """How far each seed's points are from dominating each mark, the nearest seed first.

    Row k - 1 is the distance from each mark, along the line of slope 1 through it, to the surface
    that k seeds attain.
    [n_replicates, n, 2], [n], [n_marks, 2] -> [n_seeds, n_replicates, n_marks]
    """
    gaps = [
        distance_to_dominate(points[:, sets == s], marks[None]) for s in range(int(sets.max()) + 1)
    ]
    return np.sort(gaps, axis=0)


class _Bands:
    """Where a variant's surfaces cross the diagonals, as measured and in each replicate."""

    def __init__(
        self,
        points: Costs,
        sets: NDArray[np.int64],
        keys: tuple[str, str],
        replicated: Array | None,
        rows: NDArray[np.int64],
    ) -> None:
        self.scales = Scale(keys[0]), Scale(keys[1])
        self.gaps: Array | None = None
        places = self._coordinates(points)
        if replicated is None or not np.isfinite(places).all():
            return
        low, self.unit = places.min(0), np.ptp(places, axis=0)
        self.unit[self.unit == 0] = 1
        every = np.concatenate([places[None], self._coordinates(replicated[:, rows])])
        self.marks = low / self.unit + np.linspace([-1, 0], [1, 0], _DIAGONALS)
        self.gaps = attained(every / self.unit, sets, self.marks)

    def _coordinates(self, points: Array) -> Array:
        return np.stack([s.coordinates(points[..., i]) for i, s in enumerate(self.scales)], -1)

    def around(self, level: float, freedom: int) -> tuple[list[Point], list[Point]]:
        """Both borders of the band around the surface that ``level`` percent of seeds attain."""
        if self.gaps is None:
            return [], []
        gaps = self.gaps[int(np.ceil(round(level * len(self.gaps) / 100, 9))) - 1]
        ends = [
            interval(float(gap), replicates, freedom).ci95
            for gap, replicates in zip(gaps[0], gaps[1:].T, strict=True)
        ]
        borders = [
            [self._point(mark + end) for mark, end in zip(self.marks, side, strict=True)
             if end is not None]
            for side in zip(*ends, strict=True)
        ]  # fmt: skip
        return borders[0], borders[1]

    def _point(self, place: Array) -> Point:
        x, y = (s.value(float(p)) for s, p in zip(self.scales, place * self.unit, strict=True))
        return x, y
