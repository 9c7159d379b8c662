"""The frontier of a group of runs: who is on it, what it covers, and how sure that is."""

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
    retrained,
    training_variances,
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

# How many times its bias an interval of a maximum is widened by.
_BIASES = 3.0


@dataclass(frozen=True)
class VariantFrontier:
    """One variant's own frontier, and how it stands among all.

    ``on_frontier`` counts its runs on the frontier of all. ``hypervolume_share`` is its hypervolume
    over that of all runs together; ``exclusive_share`` the part of the latter that is lost without
    it. The three are of configurations: trainings that differ in the seed alone count once, by
    their mean. Shares have no value where nothing is dominated, and none of the three an interval
    where no sequences could be resampled.
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
    """The Pareto frontier of a group over two or three metrics: of all runs, of each variant.

    Attributes:
        keys: the metrics.
        reference: the point that hypervolumes reach up to, the same for all.
        hypervolume: of all configurations.
        frontier: names of the nondominated runs, in order of the first metric.
        variants: largest hypervolume first.
        membership: by name, the share of replicates in which a run is nondominated.
        dominations: between runs of different variants, certain for all pairs at once; where
            trainings were repeated of variants, else of these runs.
        savings, leads: of pairs of variants; empty for three metrics.
        ranking: variants by savings at equal quality, the best first; by hypervolume where nothing
            is known of savings.
        vague: names of runs through which no curve goes, their place being too uncertain.
        epsilons: of ordered pairs of variants.
        surfaces: by variant with several seeds, its best, median and worst attainment surface over
            seeds; empty for three metrics.
        n_replicates: resampled sets of sequences that intervals rest on; 0 without any.
        seeds_resampled: whether they also rest on several seeds.
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
        reference: the reference point by metric; a tenth of the range
            beyond the worst run where it names none.

    Raises:
        UsageError: if there are not two or three metrics, or one is unknown, named twice or without
            a better direction.
    """
    if not 2 <= len(set(keys)) == len(keys) <= 3:
        raise UsageError(", ".join(keys), "are not two or three metrics", "name as many, once each")
    return Computation(group, keys, replicates, reference or {}).frontier()


def membership(
    group: Group, keys: Sequence[str], replicates: Replicates | None
) -> dict[str, float]:
    """By name, the share of replicates in which a run is nondominated; nothing without any."""
    return {} if replicates is None else _membership(group, replicates.costs(keys, signs(keys)))


def _membership(group: Group, replicated: Array) -> dict[str, float]:
    share = np.mean([nondominated(points) for points in replicated], axis=0)
    return dict(zip(group.table["name"], share.tolist(), strict=True))


def _around(value: float, replicates: Array | None, freedom: int, most: float = np.inf) -> Estimate:
    """A value that rests on the best of several points, with its interval from zero to the most.

    The best of points that are about as good is measured as better than it is, and its replicates
    are so by as much again: their mean's distance from the value is that bias (Efron and
    Tibshirani, An introduction to the bootstrap, 1993, chapter 10). It is near it where points are
    equal, and too large where they are not quite, so that it widens the interval on its side, three
    times over, rather than moves it.
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
    """One frontier in the making: points of configurations, measured and replicated.

    Args:
        group: the runs.
        keys: two or three metrics.
        replicates: as :func:`frontier` takes them.
        reference: likewise.
        at: by metric, values at which curves are to be read.

    Attributes:
        known: certain dominations.
        curves: what lies between runs; None for three metrics.
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
        self.retrained: Array | None = None
        self.replicated: Array | None = None
        self.freedom = 0
        self.sequences = None if replicates is None else replicates.n_sequences
        if replicates is not None:
            self.freedom = degrees_of_freedom(group, replicates.n_sequences)
            self.replicated_runs = replicates.costs(keys, self.signs)
            rng = np.random.default_rng(replicates.seed)
            self.retrained = retrained(group, self.replicated_runs, rng)
            self.replicated = over_seeds(group, self.retrained, None)
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
        """What lies between the runs of each variant."""
        freedom = np.inf if self.sequences is None else self.sequences - 1.0
        runs = Runs(
            self.labels, self.group.configurations, self.runs, self.replicated_runs, freedom
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
        """Certain ones between configurations; none where no sequences could be resampled."""
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
        """Hypervolume of some configurations, and of their replicates."""
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
        """Configurations' costs by variant, the measured ones first, then replicates."""
        points = self.points[None]
        if self.replicated is not None:
            points = np.concatenate([points, self.replicated])
        return {label: points[:, self.labels == label] for label in labels}

    def _surfaces(self) -> dict[str, dict[str, Surface]]:
        keys = self.keys[0], self.keys[1]
        if not self.group.has_seeds:
            return {}
        return surfaces(self.group, keys, self.retrained, self.freedom)
