"""Two variants compared along their frontiers: what one saves at equal quality, and who is ahead.

A saving is the average gap between two frontiers over the range that both cover, as in
Bjontegaard's delta of rate-distortion curves (ITU-T VCEG-M33, 2001), on the axes of
:class:`~prolu_eval.analysis.curves.Scale`. Values between runs are read off splines, whose
uncertainty is part of every interval (:mod:`prolu_eval.analysis.splines`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.bootstrap import averaged
from prolu_eval.analysis.curves import Array, Scale
from prolu_eval.analysis.dominations import Domination
from prolu_eval.analysis.pareto import nondominated
from prolu_eval.analysis.splines import Observations, Reading, Splines, observations
from prolu_eval.estimates import CONFIDENCE, Estimate
from prolu_eval.intervals import holm

Range = tuple[float, float]
Status = Literal["certain", "likely", "tied", "undetermined", "no shared range"]

_ALPHA = 1 - CONFIDENCE
# The share of the error rate that leads get where savings do not tell two variants apart.
_CROSSING = 0.2
# An interval of a ratio whose ends differ by more than this factor says too little to be given.
_WIDEST = 10.0
# Curves also use configurations that another one of their variant dominates, if it does so by less
# than this share of the range on one of the axes. Without the configurations that training noise
# put a little behind the frontier, the others would look better, and closer to one another, than
# they are.
_KEPT = 0.05
# The most configurations that a curve is fitted to; if there are more, neighbours are merged.
_MOST = 100
# A place with a larger standard error than this, in logarithms, does not have a normal error.
_VAGUE = 0.4


@dataclass(frozen=True)
class Saving:
    """How much less of one metric the first variant takes at equal values of the other.

    Attributes:
        first, second: the variants.
        metric: the metric that is saved.
        at_equal: the metric at whose equal values it is saved.
        amount: the saving as a fraction of the second variant's value (0.3 means 30 % less). It is
            the mean difference of logarithms over ``range``. For a metric of which more is better,
            the mean gain in the metric's own unit. It has no value if the status is
            ``undetermined`` or ``no shared range``.
        range: the range of ``at_equal`` that both frontiers cover.
        status: whether one of the two variants is better. ``certain`` if dominations between runs
            show it over the whole range; ``likely`` if it relies on interpolation between runs;
            ``tied`` if the two savings of the pair do not both exclude zero with all pairs
            considered; ``undetermined`` if the interval is so wide that it says nothing.
        shares: the shares of the variance that come from interpolation between runs, from training
            and from sequences.
    """

    first: str
    second: str
    metric: str
    at_equal: str
    amount: Estimate
    range: Range | None
    status: Status = "tied"
    shares: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Lead:
    """Where one frontier lies ahead of another, at 95 % for all pairs and all places at once.

    ``first_ahead`` and ``second_ahead`` are ranges of ``x`` in which the first or the second
    frontier is ahead; ``range`` is where both frontiers are defined, None if they share no range.
    ``first_certain`` and ``second_certain`` are ranges that follow from runs alone: each reaches
    from a run to a run that it dominates, and there no frontier that decreases from run to run can
    have the opposite order.
    """

    first: str
    second: str
    x: str
    y: str
    range: Range | None
    first_ahead: list[Range]
    second_ahead: list[Range]
    first_certain: list[Range] = field(default_factory=list)
    second_certain: list[Range] = field(default_factory=list)


@dataclass(frozen=True)
class Runs:
    """The configurations of all variants, to which curves are fitted.

    Attributes:
        labels: the configurations' variants. [n_configurations]
        configurations: for each configuration, the rows of the runs that it is the mean of.
        seed_of: the seed of each run, from 0. [n_runs]
        costs: the costs of runs. [n_runs, 2]
        replicated: the same over resampled sequences. [n_replicates, n_runs, 2]
        freedom: degrees of freedom of the sequences.
    """

    labels: NDArray[np.str_]
    configurations: Sequence[NDArray[np.int64]]
    seed_of: NDArray[np.int64]
    costs: Array
    replicated: Array | None
    freedom: float


class Curves:
    """The frontiers of variants over two metrics.

    Args:
        runs: the configurations of all variants.
        keys: the two metrics.
        known: the certain dominations between configurations.
        at: by metric, the value at which frontiers are to be read.

    Attributes:
        vague: the configurations that curves leave out because their place is too uncertain.
    """

    def __init__(
        self,
        runs: Runs,
        keys: tuple[str, str],
        known: Sequence[Domination] = (),
        at: Mapping[str, float] | None = None,
    ) -> None:
        self.keys = keys
        self.scales = Scale(keys[0]), Scale(keys[1])
        self._runs, self._known = runs, known
        self.vague: list[int] = []
        self.labels = sorted(set(runs.labels.tolist()))
        self._span = self._range()
        observed = {
            label: found
            for label in self.labels
            if (found := self._observations(label)) is not None
        }
        marks = [
            [float(scale.coordinates(scale.cost(value)))] if (value := (at or {}).get(key)) else []
            for key, scale in zip(keys, self.scales, strict=True)
        ]
        self.observed = observed
        turned = {label: _turned(found) for label, found in observed.items()}
        # The second metric over the first, and the first over the second.
        self.over = (
            Splines(observed, runs.freedom, marks[0]),
            Splines(turned, runs.freedom, marks[1]),
        )

    def _range(self) -> Array:
        """The ranges of the places on variants' own frontiers. [2]"""
        places = self._places
        own = [np.flatnonzero(self._runs.labels == label) for label in self.labels]
        on = np.concatenate([part[nondominated(places[part])] for part in own])
        spans = np.ptp(places[on], axis=0) if len(on) else np.ones(2)
        return np.where(spans > 0, spans, 1.0)

    def _observations(self, label: str) -> Observations | None:
        """A variant's configurations on or near its own frontier, in order of the first metric."""
        own = [i for i, name in enumerate(self._runs.labels) if name == label]
        configurations = [self._runs.configurations[i] for i in own]
        means = averaged(self._runs.costs[None], configurations)[0]
        places = self._coordinates(means)
        usable = np.asarray(np.isfinite(places).all(1))
        deviations = np.zeros((0, len(own), 2))
        if self._runs.replicated is not None:
            drawn = self._coordinates(averaged(self._runs.replicated, configurations))
            clear = np.asarray(np.isfinite(drawn).all((0, 2)))
            deviations = np.where(clear[:, None], drawn, 0.0)
            deviations = deviations - deviations.mean(0)
            spread = deviations.std(0)
            for axis, scale in enumerate(self.scales):
                clear &= (spread[:, axis] < _VAGUE) | (not scale.logarithmic)
            self.vague += [own[i] for i in np.flatnonzero(usable & ~clear)]
            usable &= clear
        chosen = np.flatnonzero(usable)
        chosen = chosen[_behind(places[chosen] / self._span) < _KEPT]
        for axis in (1, 0):  # in order of the first metric in the end
            chosen = chosen[np.lexsort((places[chosen, 1 - axis], places[chosen, axis]))]
            chosen = chosen[np.unique(places[chosen, axis], return_index=True)[1]]
        if not len(chosen):
            return None
        rows = [configurations[i] for i in chosen]
        return observations(
            places[chosen],
            deviations[:, chosen],
            rows,
            [self._coordinates(self._runs.costs[part]) for part in rows],
            self._runs.seed_of,
        ).merged(_MOST)

    def _coordinates(self, points: Array) -> Array:
        return np.stack([s.coordinates(points[..., i]) for i, s in enumerate(self.scales)], -1)

    @property
    def has_intervals(self) -> bool:
        """Whether sequences could be resampled; without that, no gap can be told from chance."""
        return self._runs.replicated is not None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of variants."""
        return list(combinations(self.labels, 2))

    def gap(self, first: str, second: str, over: int) -> Reading | None:
        """The mean gap of the other metric along metric ``over``; None if no range is shared."""
        splines = self.over[over]
        return splines.mean_gap(first, second) if splines.shared(first, second) else None

    @cached_property
    def statuses(self) -> dict[tuple[str, str], tuple[int, Status]]:
        """For every pair, whether the first (-1) or second (1) is better, and how sure that is.

        This holds at 95 % for all pairs together.
        """
        return self.statuses_of(self.pairs)

    def statuses_of(
        self, pairs: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[int, Status]]:
        """For some pairs, whether the first (-1) or second (1) is better, and how sure that is.

        A variant is better if both savings say so, or the only saving if the other is unknown, at
        95 % for all of these pairs together (Holm).
        """
        found: dict[tuple[str, str], tuple[int, Status]] = {}
        values = {}
        for pair in pairs:
            gaps = [gap for over in (0, 1) if (gap := self.gap(*pair, over)) is not None]
            if not gaps:
                found[pair] = 0, "no shared range"
                continue
            signs = {float(np.sign(gap.value)) for gap in gaps}
            p = max(gap.p_value for gap in gaps) if self.has_intervals else 1.0
            values[pair] = (int(signs.pop()), p) if len(signs) == 1 else (0, 1.0)
        adjusted = holm([p for _, p in values.values()])
        for (pair, (sign, _)), p in zip(values.items(), adjusted, strict=True):
            if not sign or p > _ALPHA:
                found[pair] = 0, "tied"
            else:
                found[pair] = sign, "certain" if self._settled(pair, sign) else "likely"
        return found

    def _settled(self, pair: tuple[str, str], sign: int) -> bool:
        """Whether dominations cover all of the shared range of the first metric."""
        shared = self.over[0].shared(*pair)
        better, worse = pair if sign < 0 else pair[::-1]
        ranges = self._certain(better, worse)
        return shared is not None and any(
            low <= shared[0] and shared[1] <= high for low, high in ranges
        )

    @cached_property
    def _places(self) -> Array:
        """The places of all configurations. [n_configurations, 2]"""
        return self._coordinates(averaged(self._runs.costs[None], self._runs.configurations)[0])

    def _certain(self, better: str, worse: str) -> list[Range]:
        """Ranges of places of x from runs of one variant to runs of another that they dominate."""
        place = self._places[:, 0]
        spans = sorted(
            (place[d.rows[0]], place[d.rows[1]])
            for d in self._known
            if (d.first, d.second) == (better, worse)
        )
        merged: list[Range] = []
        for low, high in spans:
            if merged and low <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(high, merged[-1][1])
            else:
                merged.append((float(low), float(high)))
        return [span for span in merged if np.isfinite(span).all()]

    def savings(self) -> list[Saving]:
        """The savings of every variant compared with every other, in both metrics."""
        found = []
        statuses = self.statuses
        for first, second in self.pairs:
            status = statuses[first, second][1]
            for over in (1, 0):
                gap = self.gap(first, second, over)
                found.append(self._saving(first, second, over, gap, 1, status))
                found.append(self._saving(second, first, over, gap, -1, status))
        return found

    def saving(self, first: str, second: str, over: int, status: Status) -> Saving:
        """What the first variant saves compared with the second; the pair's status is known."""
        return self._saving(first, second, over, self.gap(first, second, over), 1, status)

    def _saving(
        self, first: str, second: str, over: int, gap: Reading | None, sign: int, status: Status
    ) -> Saving:
        keys = self.keys[1 - over], self.keys[over]
        shared = self.over[over].shared(first, second)
        if gap is None or shared is None:
            return Saving(first, second, *keys, Estimate(value=None), None, "no shared range")
        span = self.scales[over].values(*shared)
        amount = self.amount(gap, over, sign)
        if amount.value is None:
            return Saving(first, second, *keys, amount, span, "undetermined")
        total = gap.variances.sum()
        one, two, three = gap.variances / total if total > 0 else np.zeros(3)
        return Saving(
            first, second, *keys, amount, span, status, (float(one), float(two), float(three))
        )

    def amount(self, gap: Reading, over: int, sign: int = 1) -> Estimate:
        """A gap as a saving; it has no value if its interval is too wide to say anything."""
        scale = self.scales[1 - over]
        mean = sign * gap.value
        if not self.has_intervals:
            return Estimate(value=scale.saved(mean))
        low, high = sorted(sign * end for end in gap.interval())
        if scale.logarithmic and high - low > np.log(_WIDEST):
            return Estimate(value=None)
        slope = float(np.exp(mean)) if scale.logarithmic else 1.0
        return Estimate(
            value=scale.saved(mean),
            standard_error=gap.error * slope,
            ci95=(scale.saved(high), scale.saved(low)),
        )

    def read_off(self, reading: Reading, over: int) -> Estimate:
        """A reading of a curve along metric ``over`` as a value of the other metric."""
        scale = self.scales[1 - over]
        value = scale.value(reading.value)
        if not self.has_intervals:
            return Estimate(value=value)
        low, high = sorted(map(scale.value, reading.interval()))
        slope = abs(value) if scale.logarithmic else 1.0
        return Estimate(value=value, standard_error=reading.error * slope, ci95=(low, high))

    def leads(self) -> list[Lead]:
        """For every pair of variants, where one is ahead by a simultaneous confidence band.

        The error rate is divided by the number of pairs. Two variants that savings do not tell
        apart may still cross, so each may lead in a part of the range; such leads get a fifth of
        the error rate.
        """
        statuses = self.statuses
        n_pairs = max(1, len(self.pairs))
        return [self._lead(pair, statuses[pair][0], n_pairs) for pair in self.pairs]

    def _lead(self, pair: tuple[str, str], sign: int, n_pairs: int) -> Lead:
        shared = self.over[0].shared(*pair)
        certain = [
            [self.scales[0].values(*span) for span in self._certain(*order)]
            for order in (pair, pair[::-1])
        ]
        if shared is None:
            return Lead(*pair, *self.keys, None, [], [], *certain)
        ahead: list[list[Range]] = [[], []]
        if self.has_intervals:
            band = self.over[0].band(*pair)
            for i, side in enumerate((-1, 1)):
                alpha = _ALPHA / n_pairs * (1.0 if sign == side else _CROSSING)
                held = side * band.gap - band.factor(alpha) * band.error > 0
                ahead[i] = self._ranges(band.levels, held & (band.error > 0))
        span = self.scales[0].values(*shared)
        return Lead(*pair, *self.keys, span, *ahead, *certain)

    def _ranges(self, levels: Array, held: NDArray[np.bool_]) -> list[Range]:
        """Ranges of x, in ascending order, in which ``held`` is true at all levels."""
        steps = np.diff(held.astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0) - 1
        return sorted(
            self.scales[0].values(levels[start], levels[stop])
            for start, stop in zip(starts, stops, strict=True)
            if stop > start
        )


def _behind(points: Array) -> Array:
    """How far each point lies behind the one that dominates it most, on the closer axis. [n]"""
    front = points[nondominated(points)]  # one of these dominates each point by the most
    return np.asarray((points[:, None] - front).min(-1).max(1, initial=0.0))


def _turned(found: Observations) -> Observations:
    """The same runs with the metrics exchanged, in order of the second metric."""
    back, order = slice(None, None, -1), np.argsort(found.points[:, 1])
    return Observations(
        found.points[order, back],
        found.deviations[:, order, back],
        found.seeds[order],
        found.shares[order],
        found.residuals[:, back],
        np.argsort(order)[found.configuration_of],
        found.seed_of,
        found.rows[order],
    )
