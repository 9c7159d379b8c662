"""Which runs are better than others in every objective, at 95 % for all pairs at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from prolu_eval.analysis.pareto import nondominated
from prolu_eval.estimates import CONFIDENCE

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Domination:
    """A configuration that dominates one of another variant: it is better in every objective.

    ``better`` and ``worse`` are the names of the two runs. A configuration with several seeds
    counts by its mean and is named after its first run. ``first`` and ``second`` are the variants
    of the two, ``rows`` their positions among the configurations.
    """

    better: str
    worse: str
    first: str
    second: str
    rows: tuple[int, int]


def on_own_frontiers(points: Array, labels: NDArray[np.str_]) -> NDArray[np.int64]:
    """Rows of configurations on their own variant's frontier, variant by variant.

    Args:
        points: the configurations' costs. [n, n_keys]
        labels: the configurations' variants. [n]
    """
    parts = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return np.concatenate([own[nondominated(points[own])] for own in parts])


def dominations(
    kept: NDArray[np.int64],
    points: Array,
    covariance: Array,
    freedom: float,
    labels: NDArray[np.str_],
    names: Sequence[str],
) -> list[Domination]:
    """The dominations between variants that are certain at 95 %, for all pairs together.

    Only configurations on their own variant's frontier are compared. One dominates another if it is
    better in every objective by a one-sided t test (an intersection-union test: Berger,
    Technometrics 24, 1982), at a level that is divided by the number of pairs (Bonferroni).

    Args:
        kept: the rows of the configurations to compare (:func:`on_own_frontiers`). [n_kept]
        points: the costs of all configurations. [n, n_keys]
        covariance: the covariance of the errors of the configurations to compare, in each
            objective. [n_keys, n_kept, n_kept]
        freedom: degrees of freedom.
        labels: the variants of all configurations. [n]
        names: the names of the first runs of all configurations. [n]
    """
    across = labels[kept][:, None] != labels[kept]
    n_pairs = int(across.sum())
    if not n_pairs or freedom < 1:
        return []
    factor = -float(stdtrit(freedom, (1 - CONFIDENCE) / n_pairs))
    certain = across
    for values, errors in zip(points[kept].T, covariance, strict=True):
        own = np.diag(errors)
        error = np.sqrt(np.maximum(own[:, None] + own - 2 * errors, 0))
        # A value that varies over neither sequences nor seeds is exact up to rounding; a difference
        # within rounding error must not count as a domination.
        margin = factor * error + 1e-9 * np.maximum(np.abs(values)[:, None], np.abs(values))
        certain = certain & (values[:, None] + margin < values)
    return [
        Domination(
            names[kept[i]],
            names[kept[j]],
            str(labels[kept[i]]),
            str(labels[kept[j]]),
            (int(kept[i]), int(kept[j])),
        )
        for i, j in np.argwhere(certain)
    ]
