"""Attainment surfaces: what frontiers of repeated trainings reach, at best, in median, at worst."""

import moocore
import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import Costs, costs, signs

Surface = list[tuple[float, float]]


def surfaces(group: Group, keys: tuple[str, str]) -> dict[str, dict[str, Surface]]:
    """By variant with several seeds, the surfaces that ``best``, ``median`` and ``worst`` name.

    A surface is the border of what the frontiers of at least one seed, of half of them, or of all
    dominate (Fonseca and Fleming, 1996), given by its corners in order of the first metric. Only
    configurations that were trained with several seeds count.
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
            n = int(sets.max()) + 1
            levels = {"best": 100 / n, "median": 50.0, "worst": 100.0}
            found[label] = {
                name: [(float(x), float(y)) for x, y in _surface(points[rows], sets, level)
                       * signs(keys)]
                for name, level in levels.items()
            }  # fmt: skip
    return found


def _surface(points: Costs, sets: NDArray[np.int64], level: float) -> Costs:
    """Corners of the surface that a percentage of sets attains, in order of the first column."""
    corners = moocore.eaf(points, sets, percentiles=[level])[:, :-1]
    return np.asarray(corners[np.lexsort(corners.T[::-1])])
