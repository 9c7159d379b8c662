"""Paired bootstrap: metrics of all runs of a group over the same resampled sequences, and seeds.

Every metric is a ratio of sums over sequences, so one matrix product of the sequences'
multiplicities with their sums gives a replicate of all runs at once. All runs get the same
multiplicities, so that variation between sequences which all runs share cancels in any contrast
between runs. Metrics over tasks are resampled by task, independently of the sequences. Each
replicate draws one sequence fewer than were measured, which makes the replicates' variance that of
the estimate (McCarthy and Snowden, The bootstrap and finite population sampling, 1985).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.seeds import Repeated, SeedVariances
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import combine, with_interval
from prolu_eval.metrics import METRICS, Over
from prolu_eval.results import Result

Array = NDArray[np.float64]

N_REPLICATES = 1000
# Groups of more runs than this are resampled less often, in proportion.
_RUNS_RESAMPLED_IN_FULL = 200
# Multiplicities held in memory at a time: 32 MiB, whatever the number of sequences.
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Replicates:
    """A group's metrics over resampled sequences.

    Attributes:
        values: by metric, the values in every replicate of every run. [n_replicates, n_runs]
        n_sequences: how many sequences were resampled; the number of tasks, where a metric is over
            tasks and these are fewer.
        seed: the seed of the resampling.
    """

    values: dict[str, Array]
    n_sequences: int
    seed: int

    def costs(self, keys: Sequence[str], signs: Array) -> Array:
        """The metrics as costs. [n_replicates, n_runs, n_keys]"""
        return np.stack([self.values[key] for key in keys], -1) * signs

    def subset(self, rows: NDArray[np.int64]) -> "Replicates":
        """The replicates of the runs at ``rows``."""
        chosen = {key: value[:, rows] for key, value in self.values.items()}
        return Replicates(chosen, self.n_sequences, self.seed)


def resample(
    group: Group, keys: Sequence[str], n_replicates: int = N_REPLICATES, seed: int = 0
) -> Replicates | None:
    """Resample a group's sequences; None if its results hold no per-sequence sums for the metrics.

    A metric that is computed from features rather than sequences has the same value in every
    replicate; a run for which a metric is undefined is NaN in every one.
    """
    ratios = [key for key in dict.fromkeys(keys) if METRICS[key].denominator]
    rng = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    n_units = []
    for over in dict.fromkeys(METRICS[key].over for key in ratios):
        sums = _ratios(group.results, [key for key in ratios if METRICS[key].over == over], over)
        if sums is None:
            return None
        n_units.append(next(iter(sums.values()))[0].shape[0])
        values |= _drawn(sums, n_units[-1], n_replicates, rng)
    if not n_units:
        return None
    for key in set(keys) - set(ratios):
        values[key] = np.tile(group.table[key].to_numpy(float), (n_replicates, 1))
    return Replicates(values, min(n_units), seed)


def _drawn(
    sums: dict[str, tuple[Array, Array]], n_units: int, n_replicates: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Metrics over resampled sequences or tasks. [n_replicates, n_runs] each

    Args:
        sums: numerators and denominators by metric. [n_units, n_runs] each
        n_units: the number of sequences or tasks.
        n_replicates: how often they are resampled.
        rng: the generator that draws multiplicities.
    """
    parts: dict[str, list[Array]] = {key: [] for key in sums}
    for start in range(0, n_replicates, size := max(1, _AT_ONCE // n_units)):
        n = min(size, n_replicates - start)
        weights = rng.multinomial(n_units - 1, np.full(n_units, 1 / n_units), n).astype(float)
        for key, (numerator, denominator) in sums.items():
            metric = METRICS[key]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (weights @ numerator) / (weights @ denominator)
            parts[key].append(metric.offset + metric.scale * ratio)
    return {key: np.concatenate(part) for key, part in parts.items()}


def _ratios(
    results: Sequence[Result], keys: Sequence[str], over: Over
) -> dict[str, tuple[Array, Array]] | None:
    """Numerators and denominators of metrics, [n_units, n_runs] each; None if any is missing.

    All results for which the metrics are defined must have the same number of sequences or tasks.
    """
    columns = {c for key in keys for c in (*METRICS[key].numerator, *METRICS[key].denominator)}
    found = [result.sums(over) if any(_is_defined(result, key) for key in keys) else None
             for result in results]  # fmt: skip
    n_units = {len(next(iter(sums.values()))) for sums in found if sums}
    if len(n_units) != 1 or max(n_units) < 2:
        return None
    parts: dict[str, tuple[list[Array], list[Array]]] = {key: ([], []) for key in keys}
    for sums in found:
        if sums is None:
            sums = dict.fromkeys(columns, np.zeros(max(n_units)))
        if not columns <= sums.keys():
            return None
        for key in keys:
            parts[key][0].append(combine(METRICS[key].numerator, sums))
            parts[key][1].append(combine(METRICS[key].denominator, sums))
    return {key: (np.stack(n, 1), np.stack(d, 1)) for key, (n, d) in parts.items()}


def _is_defined(result: Result, key: str) -> bool:
    scalar = result.metrics.get(key)
    return scalar is not None and scalar.value is not None


def over_seeds(group: Group, values: Array, rng: np.random.Generator | None) -> Array:
    """The mean of each configuration over its seeds, which are resampled if ``rng`` is given.

    Args:
        group: the runs.
        values: the runs' values. [n_replicates, n_runs, n_keys]
        rng: the generator for :func:`with_resampled_seeds`; None to keep the seeds as they are.

    Returns:
        [n_replicates, n_configurations, n_keys]
    """
    values = values if rng is None else with_resampled_seeds(group, values, rng)
    return averaged(values, group.configurations)


def averaged(values: Array, rows: Sequence[NDArray[np.int64]]) -> Array:
    """The means of runs' values [n_replicates, n_runs, n_keys] over each set of rows.

    Returns:
        [n_replicates, n_sets, n_keys]
    """
    sizes = np.array([len(part) for part in rows])
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(values[:, np.concatenate(rows)], starts, axis=1)
    return np.asarray(sums / sizes[:, None])


def with_resampled_seeds(group: Group, values: Array, rng: np.random.Generator) -> Array:
    """Runs' values as other seeds could have given them, for configurations with several seeds.

    Deviations from the configurations' means are divided by those means for metrics that are always
    positive. What the runs of a seed have in common (:class:`SeedVariances`) is drawn from a normal
    distribution for all runs of a seed at once. The rest is drawn from the rests of all
    configurations of the variant, and holds what is common as well if the two cannot be told apart.
    Each run of a configuration with several seeds gets the configuration's mean, changed by both.

    Args:
        group: the runs.
        values: the runs' values. [n_replicates, n_runs, n_keys]
        rng: the generator that draws deviations.

    Returns:
        [n_replicates, n_runs, n_keys]
    """
    again = values.copy()
    centre = values.mean(0)
    repeated = [rows for rows in group.configurations if len(rows) > 1]
    if not repeated:
        return again
    positive = (centre[np.concatenate(repeated)] > 0).all(0)
    labels = group.table["label"].to_numpy()
    variants = {
        label: [rows for rows in repeated if labels[rows[0]] == label]
        for label in dict.fromkeys(labels[rows[0]] for rows in repeated)
    }
    scales = {runs[0]: np.where(positive, centre[runs].mean(0), 1.0) for runs in repeated}
    parts = [_parted(rows, centre, scales, group.seed_of) for rows in variants.values()]
    seeds = SeedVariances.of(parts)
    root = _root_of_correlations(np.concatenate([part.effects for part in parts]))
    shape = (len(values), int(group.seed_of.max()) + 1)
    common_variance = _inflated(seeds.common, seeds.common_freedom)
    own_variance = _inflated(seeds.own, seeds.own_freedom)
    common = _moves(root, common_variance, shape, rng)
    for rows, part in zip(variants.values(), parts, strict=True):
        moved = common + _moves(root, own_variance, shape, rng)
        factor = np.exp(moved - (common_variance + own_variance) / 2)
        rest = part.rest * np.sqrt(len(part.rest) / max(part.freedom, 1))
        for runs in rows:
            drawn = rest[rng.integers(len(rest), size=(len(values), len(runs)))]
            drawn = drawn * scales[runs[0]] + values[:, runs].mean(1, keepdims=True)
            if part.is_parted:
                which = group.seed_of[runs]
                drawn = np.where(positive, drawn * factor[:, which], drawn + moved[:, which])
            again[:, runs] = drawn
    return again


def _parted(
    rows: Sequence[NDArray[np.int64]],
    centre: Array,
    scales: Mapping[int, Array],
    seed_of: NDArray[np.int64],
) -> Repeated:
    """The deviations of a variant's configurations with several seeds, parted.

    ``scales`` are what deviations are divided by, by the configuration's first run. [n_keys] each
    """
    return Repeated.of(
        np.concatenate([(centre[runs] - centre[runs].mean(0)) / scales[runs[0]] for runs in rows]),
        np.repeat(np.arange(len(rows)), [len(runs) for runs in rows]),
        seed_of[np.concatenate(rows)],
        int(seed_of.max()) + 1,
    )


def _inflated(variances: Array, freedom: float) -> Array:
    """The variances of t distributions with these scales and degrees of freedom, of more than 2."""
    return variances if np.isinf(freedom) else variances * freedom / (freedom - 2)


def _root_of_correlations(effects: Array) -> Array:
    """A square root of how the metrics' effects [n_effects, n_keys] correlate. [n_keys, n_keys]"""
    sizes = np.sqrt(np.square(effects).sum(0))
    alike = effects / np.where(sizes > 0, sizes, 1.0)
    values, vectors = np.linalg.eigh(alike.T @ alike)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _moves(
    root: Array, variances: Array, shape: tuple[int, int], rng: np.random.Generator
) -> Array:
    """Draw what runs of each seed have in common. [n_replicates, n_seeds, n_keys]

    Args:
        root: a square root of the correlations between metrics. [n_keys, n_keys]
        variances: the variances to draw from. [n_keys]
        shape: the numbers of replicates and of seeds.
        rng: the generator.
    """
    if not variances.any():
        return np.broadcast_to(0.0, (*shape, len(variances)))
    drawn = rng.standard_normal((*shape, len(variances))) @ root.T
    return np.asarray(drawn * np.sqrt(variances))


def training_variances(group: Group, values: Array) -> Array:
    """The variance between seeds of each configuration's mean, pooled over configurations.

    Deviations are pooled in proportion to the means where all means are positive: over all
    variants, or over the configuration's own variant if its trainings vary more than that. The
    variance is zero for every configuration if none was trained with several seeds; conclusions
    then hold for these runs only.

    Args:
        group: the runs.
        values: the runs' values. [n_runs, n_keys]

    Returns:
        [n_configurations, n_keys]
    """
    means = over_seeds(group, values[None], None)[0]
    repeated = [runs for runs in group.configurations
                if len(runs) > 1 and np.isfinite(values[runs]).all()]  # fmt: skip
    if not repeated:
        return np.zeros_like(means)
    positive = (means > 0).all(0)
    squares, repeats = [], []
    for runs in repeated:
        centre = values[runs].mean(0)
        deviations = (values[runs] - centre) / np.where(positive, centre, 1.0)
        squares.append(np.square(deviations).sum(0))
        repeats.append(len(runs) - 1)
    pooled = np.sum(squares, 0) / sum(repeats)
    labels = group.table["label"].to_numpy()
    variances = np.empty_like(means)
    for label in group.labels:
        own = [i for i, runs in enumerate(repeated) if labels[runs[0]] == label]
        largest = pooled
        if own:
            own_pooled = np.sum([squares[i] for i in own], 0) / sum(repeats[i] for i in own)
            largest = np.maximum(pooled, own_pooled)
        chosen = [i for i, runs in enumerate(group.configurations) if labels[runs[0]] == label]
        variances[chosen] = largest
    n_seeds = np.array([len(runs) for runs in group.configurations])
    return np.asarray(np.where(positive, means, 1.0) ** 2 * variances / n_seeds[:, None])


def degrees_of_freedom(group: Group, n_sequences: int) -> int:
    """Degrees of freedom of intervals.

    One less than the number of sequences; where configurations have several seeds, no more than the
    number of runs that repeat another one with another seed.
    """
    repeats = sum(len(runs) - 1 for runs in group.configurations)
    return min(n_sequences - 1, repeats) if repeats else n_sequences - 1


def interval(value: float, replicates: Array | None, freedom: int) -> Estimate:
    """A value with the standard error and t interval from its replicates [n], if there are any."""
    known = replicates is not None and len(replicates) > 1 and np.isfinite(replicates).all()
    spread = float(replicates.std(ddof=1)) if known and replicates is not None else np.nan
    return with_interval(value, spread, freedom)


def widened(quantile: float, freedom: int) -> float:
    """The factor from a normal quantile to that of a t distribution; NaN without freedom."""
    return float(stdtrit(freedom, quantile) / ndtri(quantile)) if freedom > 0 else np.nan


def exponential(gap: Estimate) -> Estimate:
    """A difference of logarithms as a ratio."""
    if gap.value is None:
        return gap
    low, high = (None if end is None else float(np.exp(end)) for end in gap.ci95)
    value = float(np.exp(gap.value))
    error = None if gap.standard_error is None else value * gap.standard_error
    return Estimate(value=value, standard_error=error, ci95=(low, high))


def n_replicates(group: Group) -> int:
    """How often a group's sequences are resampled, which is less often if there are many runs."""
    runs = max(len(group.results), _RUNS_RESAMPLED_IN_FULL)
    return N_REPLICATES * _RUNS_RESAMPLED_IN_FULL // runs
