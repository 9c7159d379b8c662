"""Runs that need no more tokens: another of their variant is surely better, by enough.

What is stated of runs and variants rests on each variant's own frontier, and on configurations that
are a little behind it (:data:`~prolu_eval.analysis.savings.KEPT`). A configuration that is further
behind changes no statement, however exactly it is measured. So one is left out where another of its
variant is better in every objective by more than that, by one-sided t tests over the same sequences
(intersection-union: Berger, Technometrics 24, 1982), at a level that is shared out among all pairs
of runs of one variant and all looks (Bonferroni).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from prolu_eval.analysis.curves import Scale
from prolu_eval.analysis.pareto import nondominated, signs
from prolu_eval.analysis.savings import KEPT, VAGUE
from prolu_eval.estimates import CONFIDENCE
from prolu_eval.intervals import value_and_influence
from prolu_eval.metrics import METRICS

Array = NDArray[np.float64]
Sums = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Racing:
    """Runs that race, told by their positions.

    Attributes:
        keys: the objectives.
        variants: of each run: runs of equal ones are compared. [n_runs]
        configurations: positions of the runs that differ in the seed alone, which are kept or left
            out together.
        n_looks: how often runs may be left out in all.
    """

    keys: Sequence[str]
    variants: Sequence[str]
    configurations: Sequence[NDArray[np.int64]]
    n_looks: int = 1

    def beaten(self, sums: Sequence[Sums]) -> dict[int, int]:
        """Runs that need no more tokens, each with one that beats it.

        Args:
            sums: of each run, per sequence, all over the same sequences. [n_sequences] by column

        Returns:
            By position of a run that is beaten, that of a run of the best configuration beating it.
        """
        runs = _Points.of(self.keys, sums)
        means = runs.averaged(self.configurations)
        labels = np.array([self.variants[rows[0]] for rows in self.configurations])
        families = [np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())]
        n_pairs = self._n_pairs()
        n_sequences = len(runs.influences)
        if not n_pairs or n_sequences < 2:
            return {}
        level = (1 - CONFIDENCE) / n_pairs / self.n_looks
        factor = -float(stdtrit(n_sequences - 1, level))
        fronts = [own[nondominated(means.places[own])] for own in families]
        spans = np.ptp(means.places[np.concatenate(fronts)], axis=0)
        margin = KEPT * spans if len(self.keys) == 2 else np.zeros(len(self.keys))
        found: dict[int, int] = {}
        for own, best_of in zip(families, fronts, strict=True):
            front = best_of[means.clear[best_of]]
            rows = [self.configurations[int(i)] for i in front]
            best = np.concatenate(rows) if rows else np.empty(0, np.int64)
            ahead = means.ahead(front, own, factor, margin)
            each = runs.ahead(
                best, np.concatenate([self.configurations[int(i)] for i in own]), factor
            )
            starts = np.cumsum([0, *(len(self.configurations[int(i)]) for i in own)])
            for at, configuration in enumerate(own):
                seeds = slice(starts[at], starts[at + 1])
                if ahead[:, at].any() and each[:, seeds].any(0).all():
                    winner = int(front[np.argmax(ahead[:, at])])
                    for run in self.configurations[int(configuration)]:
                        found[int(run)] = int(self.configurations[winner][0])
        return found

    def _n_pairs(self) -> int:
        """Ordered pairs of runs of one variant."""
        sizes = np.unique(np.array(self.variants), return_counts=True)[1]
        return int((sizes * (sizes - 1)).sum())


@dataclass(frozen=True)
class _Points:
    """Runs, or configurations of them, among the objectives.

    Attributes:
        costs: [n, n_keys]
        influences: how far each sequence moves each cost. [n_sequences, n, n_keys]
        scales: of the objectives.
    """

    costs: Array
    influences: Array
    scales: Sequence[Scale]

    @classmethod
    def of(cls, keys: Sequence[str], sums: Sequence[Sums]) -> "_Points":
        found = [[value_and_influence(METRICS[key], own) for key in keys] for own in sums]
        values = np.array([[value for value, _ in own] for own in found])
        influences = np.stack([np.stack([i for _, i in own], -1) for own in found], 1)
        sign = signs(keys)
        return cls(values * sign, influences * sign, [Scale(key) for key in keys])

    def averaged(self, rows: Sequence[NDArray[np.int64]]) -> "_Points":
        """The means over some sets of rows."""
        costs = np.stack([self.costs[part].mean(0) for part in rows])
        influences = np.stack([self.influences[:, part].mean(1) for part in rows], 1)
        return _Points(costs, influences, self.scales)

    @property
    def places(self) -> Array:
        """On the axes that frontiers are compared on. [n, n_keys]"""
        return np.stack([s.place(self.costs[:, i]) for i, s in enumerate(self.scales)], -1)

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Whether each place is so sure that a curve may go through it. [n]"""
        n = len(self.influences)
        errors = np.sqrt(n / (n - 1) * np.square(self._moves(np.arange(len(self.costs)))).sum(0))
        logarithmic = np.array([scale.logarithmic for scale in self.scales])
        return np.asarray((np.isfinite(errors) & ((errors < VAGUE) | ~logarithmic)).all(1))

    def _moves(self, rows: NDArray[np.int64]) -> Array:
        """How far each sequence moves each place of some rows. [n_sequences, n_rows, n_keys]"""
        costs = self.costs[rows]
        slopes = [1 / c if s.logarithmic else np.ones_like(c)
                  for c, s in zip(costs.T, self.scales, strict=True)]  # fmt: skip
        return np.asarray(self.influences[:, rows] * np.stack(slopes, -1))

    def ahead(
        self,
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        factor: float,
        margin: Array | float = 0.0,
    ) -> NDArray[np.bool_]:
        """Whether each of some rows is better than each of others by more than a margin.

        Args:
            first: the rows that may be better.
            second: the rows that may be worse.
            factor: standard errors that a difference must exceed the margin by.
            margin: for each objective, or the same for all.

        Returns:
            [n_first, n_second]
        """
        n = len(self.influences)
        places = self.places
        one, two = self._moves(first), self._moves(second)
        held = np.ones((len(first), len(second)), bool)
        margins = np.broadcast_to(margin, places.shape[1:])
        for key, least in enumerate(margins):
            a, b = one[..., key], two[..., key]
            variance = np.square(a).sum(0)[:, None] + np.square(b).sum(0) - 2 * a.T @ b
            error = np.sqrt(n / (n - 1) * np.maximum(variance, 0))
            gap = places[second, key] - places[first, key][:, None]
            # What varies in no sequence is exact up to rounding, which decides nothing.
            held &= gap > least + factor * error + 1e-9
        return held
