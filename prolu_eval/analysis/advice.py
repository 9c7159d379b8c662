"""Advice on what to train or measure to make the comparison of two variants surer."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from prolu_eval.analysis.savings import Curves, Saving
from prolu_eval.estimates import number
from prolu_eval.metrics import METRICS

# A likely saving is worth training more runs for if interpolation contributes at least this share
# of its variance.
_WORTH = 0.15
_MOST_RUNS = 3


@dataclass(frozen=True)
class Gap:
    """The widest gap between neighbouring runs of two variants, within the range that both cover.

    Runs of ``label`` trained with ``coefficients`` would fall into it. These lie between the
    coefficients of the runs at the gap's two ends, spaced evenly on a logarithmic scale. There are
    none if those two runs have no coefficients, or equal ones.
    """

    label: str
    metric: str
    low: float
    high: float
    coefficients: tuple[float, ...] = ()

    @property
    def advice(self) -> str:
        """The advice on what to train, in words."""
        where = f"{METRICS[self.metric].title} {number(self.low, abs(self.low) / 2)} and " + number(
            self.high, abs(self.high) / 2
        )
        chosen = ", ".join(number(c, c / 2) for c in self.coefficients)
        plural = "s" if len(self.coefficients) > 1 else ""
        example = f", for example with coefficient{plural} {chosen}" if chosen else ""
        return f"add {self.label} runs between {where}{example}"


def advised(curves: Curves, table: pd.DataFrame, saving: Saving) -> tuple[Gap | None, str]:
    """What would make a saving surer: the gap to fill, if there is one, and the advice in words.

    Both are empty where the saving is certain, where it is likely and interpolation adds little to
    its variance, and where the two variants share no range.
    """
    if saving.status in ("certain", "no shared range"):
        return None, ""
    gap = widest(curves, table, saving.first, saving.second)
    interpolated, trained, sampled = saving.shares
    if saving.status == "undetermined":
        return gap, gap.advice if gap else ""
    if saving.status == "likely":
        return (gap, gap.advice) if gap and interpolated >= _WORTH else (None, "")
    if interpolated >= max(trained, sampled):
        return gap, gap.advice if gap else ""
    if trained > sampled:
        return None, f"train {saving.first} and {saving.second} with more seeds"
    return None, "evaluate on more tokens"


def widest(curves: Curves, table: pd.DataFrame, first: str, second: str) -> Gap | None:
    """The widest gap between neighbouring runs of either variant, measured along the x axis."""
    shared = curves.over[0].shared(first, second)
    if shared is None:
        return None
    best, found = 0.0, None
    for label in (first, second):
        runs = curves.observed[label]
        ends = np.clip(runs.points[:, 0], *shared)
        i = int(np.argmax(np.diff(ends)))
        if ends[i + 1] - ends[i] > best:
            best = float(ends[i + 1] - ends[i])
            low, high = curves.scales[0].values(*runs.points[[i, i + 1], 0])
            rows = [runs.rows[i], runs.rows[i + 1]]
            typical = float(np.median(np.diff(runs.points[:, 0])))
            wanted = int(np.clip(round(best / typical) - 1, 1, _MOST_RUNS)) if typical else 1
            found = Gap(label, curves.keys[0], low, high, _between(table, rows, wanted))
    return found


def _between(table: pd.DataFrame, rows: list[int], n: int) -> tuple[float, ...]:
    """``n`` coefficients between those of two runs, evenly spaced on a logarithmic scale."""
    one, two = (float(c) if pd.notna(c) else 0.0 for c in table["coefficient"].iloc[rows])
    if min(one, two) <= 0 or one == two:
        return ()
    return tuple(float(f"{c:.2g}") for c in np.geomspace(one, two, n + 2)[1:-1])
