"""Runs that are better than others in every objective, with confidence for all pairs at once."""

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
    """One configuration dominates another of another variant: it is better in every objective.

    ``better`` and ``worse`` are names of runs; of a configuration with several seeds, which counts
    by its mean, that of the first. ``first`` and ``second`` are their variants, ``rows`` the
    positions of the two among configurations.
    """

    better: str
    worse: str
    first: str
    second: str
    rows: tuple[int, int]


def on_own_frontiers(points: Array, labels: NDArray[np.str_]) -> NDArray[np.int64]:
    """Rows of configurations on their own variant's frontier, variant by variant.

    Args:
        points: costs. [n, n_keys]
        labels: their variants. [n]
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
    """The dominations between variants that are certain at 95 %, all of them together.

    The runs of a variant that count are those on its own frontier. One dominates another where it
    is better in each objective by a one-sided t test (intersection-union: Berger, Technometrics 24,
    1982), at a level shared out among all pairs (Bonferroni).

    Args:
        kept: rows of those that count (:func:`on_own_frontiers`). [n_kept]
        points: costs of all configurations. [n, n_keys]
        covariance: of the errors of those that count, in each objective. [n_keys, n_kept, n_kept]
        freedom: degrees of freedom.
        labels: their variants. [n]
        names: of their first runs. [n]
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
        # What varies in no sequence and no seed is exact up to rounding, which decides nothing.
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
