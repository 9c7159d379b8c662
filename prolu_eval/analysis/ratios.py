"""Ratios of one metric between variants at equal values of another, such as L1 at equal L0."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prolu_eval.analysis.bootstrap import (
    Array,
    Replicates,
    degrees_of_freedom,
    exponential,
    interval,
    over_seeds,
)
from prolu_eval.analysis.curves import mean_over
from prolu_eval.analysis.groups import Group
from prolu_eval.estimates import Estimate, number
from prolu_eval.metrics import METRICS

_LEVELS = 65


@dataclass(frozen=True)
class Ratio:
    """The first variant's ``metric`` divided by the second's at equal values of ``at``.

    It is the geometric mean over ``range``, a range of ``at``, with neighbouring configurations of
    a variant joined by straight lines on logarithmic axes.
    """

    first: str
    second: str
    metric: str
    at: str
    ratio: Estimate
    range: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.range
        metric, at = METRICS[self.metric].title, METRICS[self.at].title
        return (
            f"At equal {at}, {self.first} has {self.ratio} times the {metric} of "
            f"{self.second} (over [{number(low)}, {number(high)}])."
        )


def ratios(
    group: Group,
    metric: str,
    at: str,
    labels: Sequence[str],
    replicates: Replicates | None = None,
) -> list[Ratio]:
    """The ratios of the first of ``labels`` to each of the others that it shares a range with.

    Configurations in which a metric is not positive in some replicate are left out.
    """
    points = over_seeds(group, group.table[[at, metric]].to_numpy(float)[None], None)
    freedom = 0
    if replicates is not None:
        freedom = degrees_of_freedom(group, replicates.n_sequences)
        drawn = np.stack([replicates.values[at], replicates.values[metric]], -1)
        resampled = over_seeds(group, drawn, np.random.default_rng(replicates.seed))
        points = np.concatenate([points, resampled])
    names = np.array([group.table["label"][rows[0]] for rows in group.configurations])
    positive = (points > 0).all((0, 2))
    places = {label: np.log(points[:, (names == label) & positive]) for label in labels}
    found = []
    first, *others = labels
    for second in others:
        shared = _gaps(places[first], places[second])
        if shared is not None:
            span, gaps = shared
            around = interval(float(gaps[0]), gaps[1:], freedom)
            found.append(Ratio(first, second, metric, at, exponential(around), span))
    return found


def _gaps(first: Array, second: Array) -> tuple[tuple[float, float], Array] | None:
    """The shared range of the first column, and the second's mean gap in each replicate."""
    if min(first.shape[1], second.shape[1]) < 2:
        return None
    low = max(first[0, :, 0].min(), second[0, :, 0].min())
    high = min(first[0, :, 0].max(), second[0, :, 0].max())
    if not low < high:
        return None
    both = np.concatenate([first[0, :, 0], second[0, :, 0]])
    inside = both[(both > low) & (both < high)]
    levels = np.unique(np.concatenate([np.linspace(low, high, _LEVELS), inside]))
    gaps = [mean_over(levels, _along(a, levels) - _along(b, levels))
            for a, b in zip(first, second, strict=True)]  # fmt: skip
    return (float(np.exp(low)), float(np.exp(high))), np.array(gaps)


def _along(places: Array, levels: Array) -> Array:
    ordered = places[np.argsort(places[:, 0])]
    return np.interp(levels, ordered[:, 0], ordered[:, 1])
