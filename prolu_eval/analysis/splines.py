"""A variant's frontier between its runs: smoothing splines, and how far they may be wrong.

A straight line between two runs is no knowledge of the frontier between them. A frontier is
therefore modelled as a smooth curve that runs scatter around:
``y_i = f(x_i) + training noise + sampling error``. Here ``f`` is a straight line plus an integrated
Wiener process, so that the estimate of ``f`` is the cubic smoothing spline and the posterior
variance of the process is the interpolation error (Wahba, Journal of the Royal Statistical Society
B 40, 1978, and 45, 1983; intervals of this kind cover on average over a curve, Nychka, Journal of
the American Statistical Association 83, 1988).

The model has two parameters: the curvature of the curves, and the scatter of training runs. The
runs of all variants together determine both by restricted likelihood, that is, by how far each run
lies from where the others predict it; several seeds of a configuration add to what is known of the
scatter. Results are averaged over all values of the two that the runs leave plausible, rather than
computed at the likeliest values. Training noise is assumed equal in both directions, in units of
the ranges, so that runs scatter more about a curve where it is steep. A variant whose repeated
trainings scatter more than those of all variants together has a scatter that is larger by as much.

What all runs of a seed have in common (:mod:`prolu_eval.analysis.seeds`) moves whole curves. It
cancels in the gap between two curves of the same seeds.

Sampling error comes from the replicates of :mod:`prolu_eval.analysis.bootstrap`, through their
covariance over all runs; sampling error in ``x`` enters multiplied by the curve's slope.
Coordinates are places of :class:`~prolu_eval.analysis.curves.Scale`, in units of the range of all
variants' runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from prolu_eval.analysis.seeds import MOST_SEEDS, Repeated, SeedVariances
from prolu_eval.estimates import CONFIDENCE, Estimate

Array = NDArray[np.float64]

# The number of evenly spaced levels that curves are read at, besides the ends of their ranges.
_LEVELS = 49
# The values of the two parameters that are tried. The curvature is the standard deviation of the
# change of slope over the whole range, where the mean slope is about 1. The scatter is the standard
# deviation between training runs, in units of the range of y.
_CURVATURES = np.concatenate([[1e-3], np.geomspace(0.02, 8, 14)])
_SCATTERS = np.concatenate([[1e-5], np.geomspace(0.002, 0.4, 12)])
# The priors of the two. That of the curvature is half-normal, because a slope hardly changes by
# more than three times its mean. That of the scatter is log-normal: it excludes zero (a prior that
# avoids the boundary: Chung et al., Psychometrika 78, 2013), because runs may lie on a smooth curve
# by chance, which does not show that training does not vary. The median and the standard deviation
# of its logarithm are values at which, in simulations, intervals of sweeps with one seed contain
# the truth (docs/statistics.md). The runs of reports/results have a scatter of 0.007 to 0.016.
_CURVATURE_SCALE = 1.5
_SCATTER, _SCATTER_SPREAD = 0.04, 0.7
# Rounding, in units of the range: the place of no run is known more exactly than this.
_EXACT = 1e-4
# Steps of bisection, which narrow the bracket to a billionth of its width.
_HALVINGS = 30
# Pairs of curvature and scatter with a smaller probability than this are left out.
_NEGLIGIBLE = 3e-3


@dataclass(frozen=True)
class Observations:
    """A variant's runs, as configurations on its own frontier, in order of x.

    Attributes:
        points: the places of configurations. [n, 2]
        deviations: the deviations of replicates from their mean. [n_replicates, n, 2]
        seeds: the number of seeds that each configuration is the mean of. [n]
        shares: the share of each of the group's seeds in each configuration. [n, n_seeds]
        residuals: the deviations of single runs from their configuration's mean. [n_runs, 2]
        configuration_of: the configuration of each of those runs. [n_runs]
        seed_of: the seed of each of those runs. [n_runs]
        rows: the first run of each configuration. [n]
    """

    points: Array
    deviations: Array
    seeds: NDArray[np.int64]
    shares: Array
    residuals: Array
    configuration_of: NDArray[np.int64]
    seed_of: NDArray[np.int64]
    rows: NDArray[np.int64]

    def merged(self, most: int) -> "Observations":
        """Merge neighbours, as seeds of one configuration, until at most ``most`` remain.

        Among that many runs, the differences between neighbours show how training runs scatter, and
        merging loses nothing of the curve. The work of fitting grows with the cube of the number of
        observations.
        """
        n = len(self.points)
        if n <= most:
            return self
        starts = np.arange(most) * n // most
        bins = np.repeat(np.arange(most), np.diff([*starts, n]))
        seeds = np.add.reduceat(self.seeds, starts)
        share = self.seeds / seeds[bins]
        points = np.add.reduceat(self.points * share[:, None], starts)
        return Observations(
            points,
            np.add.reduceat(self.deviations * share[:, None], starts, axis=1),
            seeds,
            np.add.reduceat(self.shares * share[:, None], starts),
            self.residuals
            + self.points[self.configuration_of]
            - points[bins[self.configuration_of]],
            bins[self.configuration_of],
            self.seed_of,
            self.rows[starts],
        )


def observations(
    points: Array,
    deviations: Array,
    rows: Sequence[NDArray[np.int64]],
    singles: Sequence[Array],
    seed_of: NDArray[np.int64],
) -> Observations:
    """The observations of configurations in order of x.

    Args:
        points: the places of configurations. [n, 2]
        deviations: the deviations of replicates from their mean. [n_replicates, n, 2]
        rows: the runs of each configuration.
        singles: the places of those runs; those of a configuration are left out if a place is not
            finite. [n_runs of the configuration, 2] each
        seed_of: the seed of each of the group's runs, from 0.
    """
    n_seeds = int(seed_of.max(initial=0)) + 1
    shares = np.zeros((len(rows), min(n_seeds, MOST_SEEDS + 1)))
    if n_seeds <= MOST_SEEDS:
        for i, part in enumerate(rows):
            np.add.at(shares[i], seed_of[part], 1 / len(part))
    known = [i for i, part in enumerate(singles) if np.isfinite(part).all()]
    return Observations(
        points,
        deviations,
        np.array([len(part) for part in rows]),
        shares,
        np.concatenate([*(singles[i] - singles[i].mean(0) for i in known), np.empty((0, 2))]),
        np.concatenate([*(np.full(len(rows[i]), i) for i in known), np.empty(0, np.int64)]),
        np.concatenate([*(seed_of[rows[i]] for i in known), np.empty(0, np.int64)]),
        np.array([part[0] for part in rows]),
    )


@dataclass(frozen=True)
class Reading:
    """A linear functional of curves: its value, and where its uncertainty comes from.

    Its distribution is a mixture of t distributions, one for each setting of curvature and scatter
    that the runs leave plausible.

    Attributes:
        value: the mean.
        variances: the variances from interpolation, from training and from sampling. [3]
        freedom: the degrees of freedom of each t distribution.
        chances, means, errors: the probability, mean and standard error of each setting.
            [n_settings]
    """

    value: float
    variances: Array
    freedom: float
    chances: Array
    means: Array
    errors: Array

    @property
    def error(self) -> float:
        """The standard error."""
        return float(np.sqrt(self.variances.sum()))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval between the mixture's quantiles."""
        tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
        reach = self.errors * float(stdtrit(self.freedom, tails[1]))
        low = np.full(2, (self.means - reach).min())
        high = np.full(2, (self.means + reach).max())
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = self._below(middle) > tails
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return float(high[0]), float(high[1])

    def _below(self, places: Array) -> Array:
        """The mixture's probability of lying below each of the places. [n]"""
        gaps = places[:, None] - self.means
        safe = np.where(self.errors > 0, self.errors, 1.0)
        chances = stdtr(self.freedom, gaps / safe)
        return np.asarray(np.where(self.errors > 0, chances, gaps > 0) @ self.chances)

    @property
    def p_value(self) -> float:
        """The two-sided p-value of the hypothesis that the true value is zero."""
        if not self.error:
            return 0.0 if self.value else 1.0
        below = float(self._below(np.zeros(1))[0])
        return 2 * min(below, 1 - below)

    def estimate(self) -> Estimate:
        """The value with its standard error and 95 % interval."""
        return Estimate(value=self.value, standard_error=self.error, ci95=self.interval())


@dataclass(frozen=True)
class Band:
    """The gap between two curves over levels, and a band that contains it at all levels at once.

    Attributes:
        levels: the places where the gap is known. [n]
        gap: the first curve less the second. [n]
        error: the standard error of the gap at each level. [n]
        length: the length of the path that the standardised error takes over the levels.
        freedom: degrees of freedom.
        chances, spreads: for each setting of curvature and scatter, its probability, and its
            standard error as a multiple of ``error``. [n_settings]
    """

    levels: Array
    gap: Array
    error: Array
    length: float
    freedom: float
    chances: Array
    spreads: Array

    def factor(self, alpha: float) -> float:
        """The band's half-width in standard errors; the gap leaves the band with chance ``alpha``.

        The tube formula: the chance that the largest of ``|t|`` over the levels exceeds c is
        ``length / pi (1 + c^2 / freedom)^(-freedom / 2) + P(|t| > c)`` (Sun and Loader, Annals of
        Statistics 22, 1994). Its mean over settings is used here.
        """
        safe = np.maximum(self.spreads, 1e-9)
        low, high = 0.0, 1e6
        for _ in range(80):
            middle = (low + high) / 2
            reached = middle / safe
            tail = np.exp(-self.freedom / 2 * np.log1p(reached**2 / self.freedom))
            chance = self.chances @ (self.length / np.pi * tail + 2 * stdtr(self.freedom, -reached))
            low, high = (middle, high) if chance > alpha else (low, middle)
        return high


class Splines:
    """The curves of variants over x, and what can be read off them.

    Args:
        observed: the observations by variant; a variant with fewer than two configurations has no
            curve.
        freedom: degrees of freedom of the sampling error; infinite if there is no sampling error.
        at: further places at which curves are to be read, besides the levels.
    """

    def __init__(
        self, observed: Mapping[str, Observations], freedom: float, at: Sequence[float] = ()
    ) -> None:
        self._observed = {label: runs for label, runs in observed.items() if len(runs.points) > 1}
        self._freedom = freedom
        if not self._observed:
            return
        every = np.concatenate([runs.points for runs in self._observed.values()])
        self._low, spans = every.min(0), np.ptp(every, axis=0)
        self._unit = np.where(spans > 0, spans, 1.0)
        ends = [end for runs in self._observed.values() for end in runs.points[[0, -1], 0]]
        inside = [place for place in at if self._low[0] <= place <= self._low[0] + spans[0]]
        grid = np.linspace(self._low[0], self._low[0] + spans[0], _LEVELS)
        self.levels = np.unique(np.concatenate([grid, ends, inside]))
        self._fits = {label: self._prepared(runs) for label, runs in self._observed.items()}
        repeated = [fit.repeated for fit in self._fits.values()]
        self._seeds = SeedVariances.of(repeated)
        pooled = sum(float(np.square(one.rest).sum()) for one in repeated)
        pooled /= max(sum(one.freedom for one in repeated), 1)
        for fit in self._fits.values():
            own = float(fit.repeated.single()[0])
            fit.trained = fit.shape * (max(1.0, own / pooled) if pooled > 0 else 1.0)
        self._likelihoods()

    def _prepared(self, runs: Observations) -> "_Fit":
        u, v = ((runs.points - self._low) / self._unit).T
        slopes = _slopes(u, v)
        du, dv = np.moveaxis(runs.deviations / self._unit, -1, 0)
        ru, rv = (runs.residuals / self._unit).reshape(-1, 2).T
        shape = (1 + slopes**2) / 2
        residuals = (rv - slopes[runs.configuration_of] * ru) / np.sqrt(
            shape[runs.configuration_of]
        )
        repeated = Repeated.of(
            residuals[:, None], runs.configuration_of, runs.seed_of, runs.shares.shape[1]
        )
        return _Fit(u, v, dv - slopes * du, runs.seeds, runs.shares, shape, repeated)

    def _likelihoods(self) -> None:
        """Compute how likely each curvature and scatter is, and fit curves with the likely ones."""
        curvature, scatter = np.meshgrid(_CURVATURES, _SCATTERS, indexing="ij")
        fits = list(self._fits.values())
        exact = sum(fit.roughness for fit in fits)
        free = sum(max(0, len(fit.u) - 2) for fit in fits)
        self._sampling = exact / free if free else 0.0
        logs = -0.5 * (curvature / _CURVATURE_SCALE) ** 2
        logs = logs - 0.5 * (np.log(scatter / _SCATTER) / _SCATTER_SPREAD) ** 2 - np.log(scatter)
        logs = logs + np.log(np.gradient(_CURVATURES))[:, None]
        logs = logs + np.log(np.gradient(_SCATTERS))
        for fit in fits:
            logs = logs + fit.log_likelihoods(_CURVATURES, _SCATTERS, self._sampling)
        chance = np.exp(logs - logs.max())
        chance /= chance.sum()
        kept = chance > _NEGLIGIBLE
        self._chance = chance[kept] / chance[kept].sum()
        for fit in fits:
            fit.solve(
                curvature[kept],
                scatter[kept],
                self._sampling,
                (self.levels - self._low[0]) / self._unit[0],
            )

    def range_of(self, label: str) -> tuple[float, float] | None:
        """The range of places of x from a variant's first run to its last; None without a curve."""
        if label not in self._observed:
            return None
        return float(self._observed[label].points[0, 0]), float(self._observed[label].points[-1, 0])

    def shared(self, first: str, second: str) -> tuple[float, float] | None:
        """The range of places of x that two curves both cover; None if they share none."""
        one, two = self.range_of(first), self.range_of(second)
        if one is None or two is None:
            return None
        low, high = max(one[0], two[0]), min(one[1], two[1])
        return (low, high) if low < high else None

    def read(self, label: str, place: float) -> Reading:
        """The curve at one place, which must be one of ``at``."""
        at = int(np.argmin(np.abs(self.levels - place)))
        functional = np.zeros(len(self.levels))
        functional[at] = 1.0
        reading = self._weighted_sum({label: functional})
        offset = float(self._low[1])
        return replace(reading, value=reading.value + offset, means=reading.means + offset)

    def gap_at(self, first: str, second: str, place: float) -> Reading:
        """The first curve less the second at one place, which must be one of ``at``."""
        functional = np.zeros(len(self.levels))
        functional[int(np.argmin(np.abs(self.levels - place)))] = 1.0
        return self._weighted_sum({first: functional, second: -functional})

    def curve(self, label: str) -> list[tuple[float, Reading]]:
        """The curve at the levels between a variant's first and last run; empty without one."""
        span = self.range_of(label)
        if span is None:
            return []
        low, high = span
        inside = [float(level) for level in self.levels if low <= level <= high]
        return [(level, self.read(label, level)) for level in inside]

    def mean_gap(self, first: str, second: str) -> Reading:
        """The mean of the first curve less the second over the range that both cover."""
        weights = self._mean_weights(first, second)
        return self._weighted_sum({first: weights, second: -weights})

    def mean_of_gaps(self, pairs: Sequence[tuple[str, str]]) -> Reading:
        """The mean of several pairs' mean gaps."""
        functionals: dict[str, Array] = {}
        for first, second in pairs:
            weights = self._mean_weights(first, second) / len(pairs)
            for label, signed in ((first, weights), (second, -weights)):
                functionals[label] = functionals.get(label, 0.0) + signed
        return self._weighted_sum(functionals)

    def _mean_weights(self, first: str, second: str) -> Array:
        """Weights of the trapezoid rule for levels in the shared range, 0 elsewhere. [n_levels]"""
        chosen = np.flatnonzero(self._shared_levels(first, second))
        places, weights = self.levels[chosen], np.zeros(len(self.levels))
        steps = np.diff(places) / 2
        weights[chosen[:-1]] += steps
        weights[chosen[1:]] += steps
        return np.asarray(weights / (places[-1] - places[0]))

    def _shared_levels(self, first: str, second: str) -> NDArray[np.bool_]:
        low, high = self.shared(first, second) or (np.inf, -np.inf)
        return np.asarray((self.levels >= low) & (self.levels <= high))

    def _weighted_sum(self, weights: Mapping[str, Array]) -> Reading:
        """The weighted sum of curves' values at the levels.

        ``weights`` are those of the levels, by variant. [n_levels]
        """
        values = np.zeros(len(self._chance))
        own = np.zeros((len(self._chance), 2))
        common, apart = np.zeros((2, len(self._chance)))
        moved: Array | float = 0.0
        all_run_weights, deviations = [], []
        for label, level_weights in weights.items():
            fit = self._fits[label]
            values = values + level_weights @ fit.means
            run_weights = np.einsum("l,hln->hn", level_weights, fit.weights)
            curved = np.einsum(
                "hlk,l,k->h", fit.errors, level_weights, level_weights, optimize=True
            )
            trained = (run_weights**2) @ (fit.trained / fit.seeds) * fit.scatter2
            own += np.stack([curved, trained], 1)
            if self._has_seeds:
                moves = run_weights @ fit.moves
                moved = moved + moves
                apart = apart + self._seeds.own[0] * np.square(moves).sum(1)
            all_run_weights.append(run_weights)
            deviations.append(fit.deviations)
        value = float(self._chance @ values)
        drawn = np.concatenate(deviations, 1) @ np.concatenate(all_run_weights, 1).T
        sampled = _variance(drawn) if len(drawn) > 1 else np.zeros(len(values))
        if self._has_seeds:
            common = self._seeds.common[0] * np.square(moved).sum(1)
        unit = float(self._unit[1])
        errors = np.sqrt(own.sum(1) + common + apart + sampled) * unit
        variances = self._chance @ np.stack([own[:, 0], own[:, 1] + common + apart, sampled], 1)
        variances[0] += self._chance @ (values - value) ** 2
        estimated = self._chance @ np.stack([sampled, common, apart], 1)
        freedom = self._freedoms(estimated, variances.sum())
        return Reading(
            value * unit, variances * unit**2, freedom, self._chance, values * unit, errors
        )

    @property
    def _has_seeds(self) -> bool:
        """Whether it is known what runs of a seed have in common."""
        return bool(self._seeds.common[0] > 0)

    def _freedoms(self, estimated: Array, total: float) -> float:
        """Satterthwaite's degrees of freedom.

        ``estimated`` are the variances from sampling, from what is common to a seed, and from what
        is common to a seed's runs of a variant. [3]
        """
        freedoms = np.array([self._freedom, self._seeds.common_freedom, self._seeds.own_freedom])
        uncertain = float(np.sum(estimated**2 / freedoms))
        return min(1e6, total**2 / uncertain) if uncertain > 0 else 1e6

    def band(self, first: str, second: str) -> Band:
        """The gap between two curves over the range that both cover."""
        chosen = self._shared_levels(first, second)
        one, two = self._fits[first], self._fits[second]
        gaps = one.means[chosen] - two.means[chosen]
        gap = gaps @ self._chance
        apart = gaps - gap[:, None]
        covariance, sampled, common, separate = np.zeros((4, len(gap), len(gap)))
        spreads = np.empty(len(self._chance))
        both = np.concatenate([one.deviations, two.deviations], 1)
        among = np.cov(both.T) if len(both) > 1 else np.zeros((both.shape[1],) * 2)
        for i, chance in enumerate(self._chance):
            own = np.outer(apart[:, i], apart[:, i])
            for fit in (one, two):
                run_weights = fit.weights[i][chosen]
                own += fit.errors[i][np.ix_(chosen, chosen)]
                own += fit.scatter2[i] * (run_weights * fit.trained / fit.seeds) @ run_weights.T
            all_run_weights = np.concatenate([one.weights[i][chosen], -two.weights[i][chosen]], 1)
            drawn = all_run_weights @ among @ all_run_weights.T
            moves = [fit.weights[i][chosen] @ fit.moves for fit in (one, two)]
            moved = moves[0] - moves[1]
            both_moved = self._seeds.common[0] * moved @ moved.T
            each_moved = self._seeds.own[0] * sum(move @ move.T for move in moves)
            covariance += chance * own
            sampled += chance * drawn
            common += chance * both_moved
            separate += chance * each_moved
            spreads[i] = np.trace(own + drawn + both_moved + each_moved)
        total = covariance + sampled + common + separate
        error = np.sqrt(np.maximum(np.diag(total), 0))
        safe = np.where(error > 0, error, 1)
        steps = np.diag(total, 1) / (safe[1:] * safe[:-1])
        length = float(np.arccos(np.clip(steps, -1, 1)).sum())
        parts = np.array([np.trace(part) for part in (sampled, common, separate)])
        unit = float(self._unit[1])
        mean = float(self._chance @ spreads)
        return Band(
            self.levels[chosen],
            gap * unit,
            error * unit,
            length,
            self._freedoms(parts, max(float(np.trace(total)), 1e-300)),
            self._chance,
            np.sqrt(spreads / mean) if mean > 0 else np.ones(len(spreads)),
        )


class _Fit:
    """One variant's spline for every curvature and scatter, in units of the range.

    Attributes:
        u, v: the places of configurations. [n]
        deviations: the deviations of replicates from the curve. [n_replicates, n]
        seeds: the number of seeds of each configuration. [n]
        moves: how far each seed's common effect moves each configuration. [n, n_seeds]
        shape: the training variance at each configuration, relative to the scatter's square, if
            trainings of the variant scatter like those of all. [n]
        repeated: the deviations of repeated runs, at a shape of 1.
        trained: the same as ``shape``, by how much trainings of the variant scatter. [n]
        weights: the weight of each configuration in the curve at each level.
            [n_settings, n_levels, n]
        means: the curve. [n_levels, n_settings]
        errors: the covariance of the interpolation error. [n_settings, n_levels, n_levels]
        scatter2: the variance between training runs. [n_settings]
    """

    def __init__(
        self,
        u: Array,
        v: Array,
        deviations: Array,
        seeds: NDArray[np.int64],
        shares: Array,
        shape: Array,
        repeated: Repeated,
    ) -> None:
        self.u, self.v, self.deviations, self.seeds = u, v, deviations, seeds.astype(float)
        self.shape, self.repeated = shape, repeated
        self.trained = shape
        self.moves = shares * np.sqrt(shape)[:, None]
        self._start = u[0]
        self._kernel = _kernel(u - u[0], u - u[0])
        self._trend = np.stack([np.ones_like(u), u - u[0]], 1)

    @property
    def roughness(self) -> float:
        """The sum of squares of the sampling error, without its straight line over the runs."""
        if len(self.deviations) < 2:
            return 0.0
        q, _ = np.linalg.qr(self._trend)
        rest = self.deviations - (self.deviations @ q) @ q.T
        return float(_variance(rest).sum())

    def _noise(self, scatter: Array, sampling: float) -> Array:
        """The variance of each configuration about the curve. [n_scatters, n]"""
        return np.asarray(scatter[:, None] ** 2 * self.trained / self.seeds + sampling + _EXACT**2)

    def log_likelihoods(self, curvatures: Array, scatters: Array, sampling: float) -> Array:
        """Restricted log likelihoods, including that of seeds. [n_curvatures, n_scatters]

        The covariance of configurations is ``curvature^2 kernel + level shape``. The shape of the
        noise over configurations is the same for all scatters, unless some configurations have more
        seeds than others. One basis in which kernel and shape are both diagonal serves all settings
        with the same shape, so that no setting needs a matrix inverse of its own.
        """
        noise = self._noise(scatters, sampling)
        shapes, shape_of = np.unique(noise / noise[:, :1], axis=0, return_inverse=True)
        logs = np.empty((len(curvatures), len(scatters)))
        for i, shape in enumerate(shapes):
            chosen = np.flatnonzero(shape_of == i)
            scale = np.sqrt(shape)
            modes, turned = np.linalg.eigh(self._kernel / scale / scale[:, None])
            v, trend = turned.T @ (self.v / scale), turned.T @ (self._trend / scale[:, None])
            variances = (curvatures**2)[:, None, None] * np.maximum(modes, 0)
            variances = variances + noise[chosen, :1]
            information = np.einsum("csn,ni,nj->csij", 1 / variances, trend, trend, optimize=True)
            line = (v / variances) @ trend
            squares = (v**2 / variances).sum(-1)
            squares -= (line * np.linalg.solve(information, line[..., None])[..., 0]).sum(-1)
            determinants = np.log(variances).sum(-1) + np.log(shape).sum()
            determinants += np.linalg.slogdet(information)[1]
            logs[:, chosen] = -0.5 * (determinants + np.maximum(squares, 0))
        if self.repeated.freedom:
            single = scatters**2 + sampling + _EXACT**2
            squares = np.square(self.repeated.rest).sum() / single
            logs -= 0.5 * (self.repeated.freedom * np.log(single) + squares)
        return logs

    def solve(self, curvature: Array, scatter: Array, sampling: float, levels: Array) -> None:
        """Compute the curve at the levels; beyond an end it keeps its value at that end."""
        c2 = (curvature**2)[:, None, None]
        noise = self._noise(scatter, sampling)[:, :, None] * np.eye(len(self.u))
        inverse = np.linalg.inv(c2 * self._kernel + noise)
        trend = np.linalg.inv(self._trend.T @ inverse @ self._trend)
        at = np.clip(levels, self.u[0], self.u[-1]) - self._start
        basis = np.stack([np.ones_like(at), at], 1)
        cross = _kernel(at, self.u - self._start)
        loading = trend @ self._trend.T @ inverse
        direct = inverse - inverse @ self._trend @ loading
        self.weights = c2 * (cross @ direct) + basis @ loading
        self.means = (self.weights @ self.v).T
        turned = self.weights.transpose(0, 2, 1)
        mixed = self.weights @ cross.T
        self.errors = c2 * (
            self.weights @ self._kernel @ turned
            - mixed
            - mixed.transpose(0, 2, 1)
            + _kernel(at, at)
        )
        self.scatter2 = scatter**2


def _kernel(first: Array, second: Array) -> Array:
    """Covariance of an integrated Wiener process that starts at 0. [n, m]"""
    low = np.minimum(first[:, None], second)
    high = np.maximum(first[:, None], second)
    return np.asarray(low**2 * (3 * high - low) / 6)


def _slopes(u: Array, v: Array) -> Array:
    """Rough slopes at runs, from a parabola fitted to them, within 4 times the mean slope. [n]"""
    mean = (v[-1] - v[0]) / (u[-1] - u[0])
    if len(u) < 4:
        return np.full(len(u), mean)
    slopes = np.polyval(np.polyder(np.polyfit(u, v, 2)), u)
    return np.asarray(np.clip(slopes, *sorted((mean / 4, mean * 4))))


def _variance(values: Array) -> Array:
    return np.asarray(values.var(0, ddof=1))
