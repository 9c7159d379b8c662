"""Pareto frontiers and hypervolumes of runs, over any two metrics. moocore does the geometry."""

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS

# The write-up's plots, and the square-root counterparts that it could not draw.
PRESETS: tuple[tuple[str, str], ...] = (
    ("l0", "ce_degradation"),
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
        if key not in METRICS:
            raise UsageError(key, "is no metric", "see `prolu-eval metrics`")
        if METRICS[key].direction == "none":
            raise UsageError(key, "has no better direction", "choose another objective")
    return [METRICS[key].direction == "max" for key in keys]


def is_nondominated(frame: pd.DataFrame, x: str, y: str) -> NDArray[np.bool_]:
    """Which rows no other row dominates: at least as good in both metrics, better in one.

    Rows that tie in both are all on the frontier; a row with NaN in either is never. [n_rows]
    """
    directions = maximised(x, y)
    points = frame[[x, y]].to_numpy(float)
    finite = np.isfinite(points).all(1)
    on = np.zeros(len(points), bool)
    if finite.any():
        on[finite] = moocore.is_nondominated(points[finite], maximise=directions, keep_weakly=True)
    return on


def pareto_frontier(frame: pd.DataFrame, x: str = "l0", y: str = "ce_degradation") -> pd.DataFrame:
    """The nondominated rows of a table of results, in order of ``x``.

    Args:
        frame: as :func:`prolu_eval.load_results` gives; rows must have been measured alike.
        x: a metric; which direction is better is its own (``prolu-eval metrics``).
        y: another.

    Raises:
        UsageError: if a metric is unknown or has no better direction.
    """
    return frame[is_nondominated(frame, x, y)].sort_values([x, y], kind="stable")


def reference_point(frame: pd.DataFrame, x: str, y: str) -> tuple[float, float]:
    """The worst value of each metric over all rows that have both: shared by every hypervolume."""
    finite = frame[[x, y]].replace([np.inf, -np.inf], np.nan).dropna()
    worst = [
        finite[key].min() if upwards else finite[key].max()
        for key, upwards in zip((x, y), maximised(x, y), strict=True)
    ]
    return float(worst[0]), float(worst[1])


def hypervolume(frame: pd.DataFrame, x: str, y: str, reference: tuple[float, float]) -> float:
    """Area that the rows dominate, up to a reference point; in units of x times units of y."""
    points = frame[[x, y]].to_numpy(float)
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return 0.0
    return float(moocore.hypervolume(points, ref=reference, maximise=maximised(x, y)))
