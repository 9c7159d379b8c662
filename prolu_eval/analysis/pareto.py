"""Pareto frontiers of runs over two or three metrics; the geometry is computed by moocore.

The geometry works on *costs*: an array whose columns are the metrics, with metrics of which more is
better negated, so that less is better in every column.
"""

from collections.abc import Sequence

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prolu_eval.arguments import of_type
from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS, metric_key

Costs = NDArray[np.float64]

# The reference point of hypervolumes lies this share of the points' range beyond the worst point.
_MARGIN = 0.1

# The plots of the write-up, and those that it could not draw: the ones with bits lost and with the
# square-root penalty.
PRESETS: tuple[tuple[str, str], ...] = (
    ("l0", "ce_degradation"),
    ("l0", "bits_lost"),
    ("l1", "mse"),
    ("l0", "l1"),
    ("sqrt_l1", "mse"),
    ("l0", "sqrt_l1"),
)


def maximised(*keys: str) -> list[bool]:
    """Whether more is better, for each metric.

    Raises:
        UsageError: if a metric is unknown, or neither more nor less of it is better.
    """
    for key in keys:
        if metric_key(of_type(key, str, "a metric", "give its name")) != key:
            raise UsageError(key, f"is another name of {metric_key(key)}", "write that")
        if METRICS[key].direction == "none":
            raise UsageError(key, "has no better direction", "choose another objective")
    return [METRICS[key].direction == "max" for key in keys]


def signs(keys: Sequence[str]) -> NDArray[np.float64]:
    """1 for each metric of which less is better, -1 for the others. [n_keys]"""
    return np.where(maximised(*keys), -1.0, 1.0)


def costs(frame: pd.DataFrame, keys: Sequence[str]) -> Costs:
    """The metrics of a table's rows as costs. [n_rows, n_keys]

    Raises:
        UsageError: if a metric is unknown, has no better direction, or is not in the table.
    """
    direction = signs(keys)
    for key in keys:
        if key not in frame:
            raise UsageError(key, "was not measured for these runs", "evaluate them again")
    return np.asarray(frame[list(keys)].to_numpy(float) * direction)


def nondominated(points: Costs) -> NDArray[np.bool_]:
    """Which points no other point dominates. [n]

    A point dominates another if it is at least as good in every column and better in one. Points
    that are equal in every column are all kept; a point that is not finite in some column is never
    kept.
    """
    finite = np.isfinite(points).all(1)
    on = np.zeros(len(points), bool)
    if finite.any():
        on[finite] = moocore.is_nondominated(points[finite], keep_weakly=True)
    return on


def front(points: Costs) -> NDArray[np.int64]:
    """The rows of the nondominated points, in order of the first column, then of the next ones."""
    rows = np.flatnonzero(nondominated(points))
    return rows[np.lexsort(points[rows].T[::-1])]


def volume(points: Costs, reference: NDArray[np.float64]) -> float:
    """The hypervolume of points: the size of the region between them and a reference point."""
    return float(volumes(points[None], reference)[0])


def volumes(sets: Costs, reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The hypervolume of each of several sets of points. [n_sets, n, n_keys] -> [n_sets]"""
    measure = moocore.Hypervolume(ref=reference)
    finite = np.logical_and.reduce(np.isfinite(sets), axis=-1)
    kept = (points[on] for points, on in zip(sets, finite, strict=True))
    return np.array([measure(points) if len(points) else 0.0 for points in kept])


def beyond_worst(points: Costs) -> NDArray[np.float64]:
    """The default reference point, a little beyond the largest cost in every column. [n_keys]

    It lies a tenth of the column's range beyond the largest cost of the points that are finite in
    every column, so that the worst points contribute to the hypervolume too (Ishibuchi et al.,
    Evolutionary Computation 26, 2018: how to specify a reference point).
    """
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        return np.full(points.shape[1], np.nan)
    worst, best = finite.max(0), finite.min(0)
    spread = np.where(worst > best, worst - best, np.abs(worst))
    return np.asarray(worst + _MARGIN * spread)


def is_nondominated(frame: pd.DataFrame, *keys: str) -> NDArray[np.bool_]:
    """Which rows of a table are on the frontier over two or three metrics. [n_rows]

    Raises:
        UsageError: in the cases in which :func:`costs` raises it.
    """
    return nondominated(costs(frame, keys))


def pareto_frontier(
    frame: pd.DataFrame, x: str = "l0", y: str = "ce_degradation", z: str | None = None
) -> pd.DataFrame:
    """The nondominated rows of a table of results, in order of ``x``.

    Args:
        frame: a table as :func:`prolu_eval.load_results` returns it. Its rows must be comparable:
            if it has a column ``comparison_key``, all rows must have the same value there.
        x: a metric; ``prolu-eval metrics`` says whether less or more of it is better.
        y: another metric.
        z: a third metric, or None.

    Raises:
        UsageError: in the cases in which :func:`costs` raises it, or if the rows are not
            comparable.
    """
    of_type(frame, pd.DataFrame, "the table of results", "give one of load_results")
    if "comparison_key" in frame and frame["comparison_key"].nunique(dropna=False) > 1:
        raise UsageError(
            "the table of results",
            f"mixes {frame['comparison_key'].nunique(dropna=False)} evaluations that cannot be "
            "compared (other tokens, models, hooks or options)",
            "choose one, as load_results(..., tokens=...) does, or one comparison_key",
        )
    keys = [x, y] if z is None else [x, y, z]
    return frame[is_nondominated(frame, *keys)].sort_values(keys, kind="stable")


def reference_point(frame: pd.DataFrame, *keys: str) -> tuple[float, ...]:
    """The reference point of hypervolumes of these rows, in the metrics' units.

    It lies a tenth of the rows' range beyond their worst value of each metric
    (:func:`beyond_worst`). Every command that reports a hypervolume of the rows uses this point.
    """
    return tuple(float(value) for value in beyond_worst(costs(frame, keys)) * signs(keys))


def hypervolume(frame: pd.DataFrame, *keys: str, reference: Sequence[float]) -> float:
    """The rows' hypervolume up to a reference point, in the product of the metrics' units."""
    return volume(costs(frame, keys), np.asarray(reference, float) * signs(keys))


def distance_to_dominate(sets: Costs, marks: Costs) -> NDArray[np.float64]:
    """How far each of several sets of points is from weakly dominating marks.

    The distance is the least amount that must be added to all costs of a mark for a point of the
    set to dominate it, which is an achievement scalarising function (Wierzbicki, 1980). It is
    negative if a point dominates the mark with room to spare. Points that are not finite are
    ignored.

    Args:
        sets: the sets of points. [n_sets, n, n_keys]
        marks: marks for each set, or one array of marks for all sets.
            [n_sets or 1, n_marks, n_keys]

    Returns:
        [n_sets, n_marks]
    """
    sets = np.where(np.isfinite(sets), sets, np.inf)
    gaps = [(sets - marks[:, None, i]).max(-1).min(-1) for i in range(marks.shape[1])]
    return np.stack(gaps, -1)
