"""The frontier of a group of runs: its members, its hypervolume, and how certain both are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.attainment import Surface, surfaces
from prolu_eval.analysis.bootstrap import (
    Replicates,
    degrees_of_freedom,
    interval,
    over_seeds,
    training_variances,
    with_resampled_seeds,
)
from prolu_eval.analysis.dominations import Domination, dominations, on_own_frontiers
from prolu_eval.analysis.epsilon import Epsilon, epsilons
from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import (
    beyond_worst,
    costs,
    front,
    nondominated,
    signs,
    volume,
    volumes,
)
from prolu_eval.analysis.ranking import Rank, ranking
from prolu_eval.analysis.savings import Curves, Lead, Runs, Saving
from prolu_eval.errors import UsageError
from prolu_eval.estimates import Estimate

Array = NDArray[np.float64]

# An interval around a maximum is widened by this many times the estimated bias.
_BIASES = 3.0


@dataclass(frozen=True)
class VariantFrontier:
    """One variant's own frontier, and its part in the frontier of all runs.

    ``on_frontier`` counts the variant's runs on the frontier of all runs. ``hypervolume_share`` is
    its hypervolume divided by that of all runs together, and ``exclusive_share`` the part of the
    latter that would be lost without the variant. The hypervolume and both shares are those of
    configurations: runs that differ in nothing but the seed count once, by their mean. The shares
    have no value where nothing is dominated, and none of the three has an interval where no
    sequences could be resampled.
    """

    label: str
    runs: int
    frontier: list[str]
    hypervolume: Estimate
    hypervolume_share: Estimate
    on_frontier: int
    exclusive_share: Estimate


@dataclass(frozen=True)
class Frontier:
    """The Pareto frontiers of a group over two or three metrics: that of all runs, and variants'.

    Attributes:
        keys: the metrics.
        reference: the reference point of all hypervolumes.
        hypervolume: the hypervolume of all configurations together.
        frontier: the names of the nondominated runs, in order of the first metric.
        variants: the frontiers of the variants, the largest hypervolume first.
        membership: by name, the share of replicates in which a run is nondominated.
        dominations: the dominations between runs of different variants that are certain for all
            pairs at once. They hold for new training runs of the same configurations where
            configurations have several seeds, and for these runs only where they have not.
        savings, leads: the savings and leads of pairs of variants; empty for three metrics.
        ranking: the variants by savings at equal quality, the best first; by hypervolume where no
            savings are known.
        vague: the names of runs that curves leave out because their place is too uncertain.
        epsilons: the epsilon indicators of ordered pairs of variants.
        surfaces: by variant with several seeds, its best, median and worst attainment surface over
            seeds; empty for three metrics.
        n_replicates: how many resampled sets of sequences the intervals rest on; 0 if none.
        seeds_resampled: whether the intervals also rest on several seeds.
    """

    keys: tuple[str, ...]
    reference: tuple[float, ...]
    hypervolume: Estimate
    frontier: list[str]
    variants: list[VariantFrontier]
    membership: dict[str, float] = field(default_factory=dict)
    dominations: list[Domination] = field(default_factory=list)
    savings: list[Saving] = field(default_factory=list)
    leads: list[Lead] = field(default_factory=list)
    epsilons: list[Epsilon] = field(default_factory=list)
    ranking: list[Rank] = field(default_factory=list)
    vague: list[str] = field(default_factory=list)
    surfaces: dict[str, dict[str, Surface]] = field(default_factory=dict)
    n_replicates: int = 0
    seeds_resampled: bool = False

    @property
    def x(self) -> str:
        """The first metric."""
        return self.keys[0]

    @property
    def y(self) -> str:
        """The second metric."""
        return self.keys[1]


def group_frontier(
    group: Group,
    *keys: str,
    replicates: Replicates | None = None,
    reference: Mapping[str, float] | None = None,
) -> Frontier:
    """Compute the frontier of a group.

    Args:
        group: the runs.
        keys: two or three metrics.
        replicates: the group's metrics over resampled sequences, for intervals.
        reference: the reference point by metric; for a metric that it does not name, a tenth of the
            range beyond the worst run.

    Raises:
        UsageError: if there are not two or three different metrics, or if one is unknown or has no
            better direction.
    """
    if not 2 <= len(set(keys)) == len(keys) <= 3:
        reason = "are not two or three different metrics"
        raise UsageError(", ".join(keys), reason, "name two or three metrics, each once")
    return Computation(group, keys, replicates, reference or {}).frontier()


def membership(
    group: Group, keys: Sequence[str], replicates: Replicates | None
) -> dict[str, float]:
    """By name, the share of replicates in which a run is nondominated; empty without replicates."""
    return {} if replicates is None else _membership(group, replicates.costs(keys, signs(keys)))


def _membership(group: Group, replicated: Array) -> dict[str, float]:
    share = np.mean([nondominated(points) for points in replicated], axis=0)
    return dict(zip(group.table["name"], share.tolist(), strict=True))


def _around(value: float, replicates: Array | None, freedom: int, most: float = np.inf) -> Estimate:
    """A value that rests on the best of several points, with an interval within 0 to ``most``.

    The best of several points of similar quality is measured as better than it is, and its
    replicates exaggerate it once more. The distance from the value to the replicates' mean
    estimates this bias (Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 10).
    The estimate is about right where the points are equally good, and too large where they are
    nearly so. Therefore it does not shift the interval. Instead, the end of the interval on the
    other side of the value is moved outwards by three times the bias.
    """
    found = interval(value, replicates, freedom)
    low, high = found.ci95
    if low is None or high is None or replicates is None:
        return Estimate(value=found.value)
    bias = float(replicates.mean()) - value
    low, high = low - _BIASES * max(0.0, bias), high + _BIASES * max(0.0, -bias)
    ends = (float(np.clip(low, 0, most)), float(np.clip(high, 0, most)))
    return Estimate(value=found.value, ci95=ends)


class Computation:
    """What a frontier is computed from: the points of configurations, measured and replicated.

    Args:
        group: the runs.
        keys: two or three metrics.
        replicates: as :func:`group_frontier` takes them.
        reference: as :func:`group_frontier` takes it.
        at: by metric, the value at which curves are to be read.

    Attributes:
        known: the certain dominations.
        curves: the curves through the runs; None for three metrics.
    """

    def __init__(
        self,
        group: Group,
        keys: tuple[str, ...],
        replicates: Replicates | None,
        reference: Mapping[str, float],
        at: Mapping[str, float] | None = None,
    ) -> None:
        self.group, self.keys = group, keys
        self.signs = signs(keys)
        self.runs = costs(group.table, keys)
        self.points = over_seeds(group, self.runs[None], None)[0]
        self.reference = beyond_worst(self.runs)
        for i, key in enumerate(keys):
            if key in reference:
                self.reference[i] = reference[key] * self.signs[i]
        first = [rows[0] for rows in group.configurations]
        self.labels = group.table["label"].to_numpy()[first]
        self.replicated_runs: Array | None = None
        self.with_resampled_seeds: Array | None = None
        self.replicated: Array | None = None
        self.freedom = 0
        self.sequences = None if replicates is None else replicates.n_sequences
        if replicates is not None:
            self.freedom = degrees_of_freedom(group, replicates.n_sequences)
            self.replicated_runs = replicates.costs(keys, self.signs)
            rng = np.random.default_rng(replicates.seed)
            self.with_resampled_seeds = with_resampled_seeds(group, self.replicated_runs, rng)
            self.replicated = over_seeds(group, self.with_resampled_seeds, None)
        self.known = self._dominations()
        self.curves = self._curves(at or {}) if len(keys) == 2 else None

    def frontier(self) -> Frontier:
        names = self.group.table["name"].to_numpy()
        on = nondominated(self.runs)
        total, total_replicated = self._volume(np.ones(len(self.points), bool))
        variants = [
            self._variant(label, on, total, total_replicated) for label in self.group.labels
        ]
        variants.sort(key=lambda variant: (-(variant.hypervolume.value or 0), variant.label))
        two = len(self.keys) == 2
        by_label = self._by_label([variant.label for variant in variants])
        curves = self.curves
        return Frontier(
            keys=self.keys,
            reference=tuple(float(v) for v in self.reference * self.signs),
            hypervolume=_around(total, total_replicated, self.freedom),
            frontier=[str(names[i]) for i in front(self.runs)],
            variants=variants,
            membership={}
            if self.replicated_runs is None
            else _membership(self.group, self.replicated_runs),
            dominations=self.known,
            savings=curves.savings() if curves else [],
            leads=curves.leads() if curves else [],
            epsilons=epsilons(by_label, self.freedom),
            ranking=self._ranking(variants),
            vague=[str(names[self.group.configurations[i][0]]) for i in curves.vague]
            if curves
            else [],
            surfaces=self._surfaces() if two else {},
            n_replicates=0 if self.replicated is None else len(self.replicated),
            seeds_resampled=self.replicated is not None and self.group.has_seeds,
        )

    def _curves(self, at: Mapping[str, float]) -> Curves:
        """The curves through the runs of each variant."""
        freedom = np.inf if self.sequences is None else self.sequences - 1.0
        runs = Runs(
            self.labels,
            self.group.configurations,
            self.group.seed_of,
            self.runs,
            self.replicated_runs,
            freedom,
        )
        return Curves(runs, (self.keys[0], self.keys[1]), self.known, at)

    def _ranking(self, variants: Sequence[VariantFrontier]) -> list[Rank]:
        curves = self.curves
        if curves is None:
            return [Rank(v.label, 1, tuple(o.label for o in variants if o is not v))
                    for v in variants]  # fmt: skip
        gaps = {}
        for pair in curves.pairs:
            found = curves.gap(*pair, 1) or curves.gap(*pair, 0)
            if found is not None:
                gaps[pair] = found.value
        better = {pair: sign for pair, (sign, _) in curves.statuses.items()}
        front = {v.label: int(nondominated(self.points[self.labels == v.label]).sum())
                 for v in variants}  # fmt: skip
        return ranking([v.label for v in variants], better, gaps, self.known, front)

    def _dominations(self) -> list[Domination]:
        """The certain dominations between configurations; none if sequences were not resampled."""
        if self.replicated_runs is None:
            return []
        kept = on_own_frontiers(self.points, self.labels)
        means = over_seeds(self.group, self.replicated_runs, None)[:, kept]
        parts = [np.cov(part.T, ddof=1) for part in np.moveaxis(means, -1, 0)]
        covariance = np.stack(parts).reshape(len(self.keys), len(kept), len(kept))
        trained = training_variances(self.group, self.runs)[kept]
        covariance = covariance + trained.T[:, :, None] * np.eye(len(kept))
        names = self.group.table["name"].to_numpy()
        first = [str(names[rows[0]]) for rows in self.group.configurations]
        return dominations(kept, self.points, covariance, self.freedom, self.labels, first)

    def _volume(self, chosen: NDArray[np.bool_]) -> tuple[float, Array | None]:
        """The hypervolume of the chosen configurations, and of their replicates."""
        value = volume(self.points[chosen], self.reference)
        if self.replicated is None:
            return value, None
        return value, volumes(self.replicated[:, chosen], self.reference)

    def _variant(
        self, label: str, on: NDArray[np.bool_], total: float, totals: Array | None
    ) -> VariantFrontier:
        own = self.labels == label
        value, replicates = self._volume(own)
        without, without_replicates = self._volume(~own)
        shares = exclusives = None
        if replicates is not None and without_replicates is not None and totals is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                shares, exclusives = replicates / totals, 1 - without_replicates / totals
        parts = (value / total, 1 - without / total) if total > 0 else (np.nan, np.nan)
        rows = np.flatnonzero(self.group.table["label"] == label)
        names = self.group.table["name"].to_numpy()
        return VariantFrontier(
            label=label,
            runs=len(rows),
            frontier=[str(names[i]) for i in rows[front(self.runs[rows])]],
            hypervolume=_around(value, replicates, self.freedom),
            hypervolume_share=_around(parts[0], shares, self.freedom, 1.0),
            on_frontier=int(on[rows].sum()),
            exclusive_share=_around(parts[1], exclusives, self.freedom, 1.0),
        )

    def _by_label(self, labels: Sequence[str]) -> dict[str, Array]:
        """The configurations' costs by variant, those measured first, then the replicates."""
        points = self.points[None]
        if self.replicated is not None:
            points = np.concatenate([points, self.replicated])
        return {label: points[:, self.labels == label] for label in labels}

    def _surfaces(self) -> dict[str, dict[str, Surface]]:
        keys = self.keys[0], self.keys[1]
        if not self.group.has_seeds:
            return {}
        return surfaces(self.group, keys, self.with_resampled_seeds, self.freedom)
