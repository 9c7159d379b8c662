"""Is the better frontier the better dictionary? Every measure of variants at one L0, side by side.

Each variant's value of a measure at an L0 is read off a smoothing spline through its
configurations, as values along a frontier are (:mod:`prolu_eval.analysis.splines`). The spline
goes through all configurations, not only those on a frontier, since a measure may improve or worsen
as L0 grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from prolu_eval.analysis.bootstrap import averaged, resample
from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.questions import QUALITY, WITHOUT_A_MODEL, Question
from prolu_eval.analysis.splines import Observations, Reading, Splines, observations
from prolu_eval.estimates import CONFIDENCE, Estimate, number
from prolu_eval.intervals import holm
from prolu_eval.metrics import METRICS

Array = NDArray[np.float64]

# Metrics left out: the sizes of codes, which say nothing about quality, and metrics that repeat
# another one in another unit.
_LEFT_OUT = frozenset({
    "l0", "l1", "l1_raw", "sqrt_l1", "sqrt_l1_raw", "mse", "explained_variance", "ce_spliced",
    "bits_lost", "ce_recovered_zero", "ce_recovered_mean",
})  # fmt: skip
_REPLICATES = 200
# Of a variant with more configurations than this, those whose L0 is nearest are used.
_MOST = 40
# The fewest configurations for which a rank correlation is given.
_LEAST = 6
# A measure whose values differ by more than this factor is interpolated on a logarithmic scale.
_WIDE = 3.0
# A fraction below this is a zero with rounding error.
_ROUNDING = 1e-6
_QUANTILE = (1 + CONFIDENCE) / 2


class VariantAt(NamedTuple):
    """A variant under one measure: its value at the L0, and the ranks that it may have.

    ``ranks`` is the range of possible ranks. The first is one more than the number of variants that
    are surely better; the last is the number of variants less those that are surely worse. It is
    None where this variant has no value at the L0, or no other variant has one.
    """

    variant: str
    value: Estimate
    ranks: tuple[int, int] | None


@dataclass(frozen=True)
class MeasureAt:
    """A measure of all variants, and whether it orders configurations as fidelity does.

    ``agreement`` is Spearman's rank correlation over configurations: 1 where the measure and
    fidelity put them in the same order from worse to better. ``at_equal_l0`` is the partial rank
    correlation, with the ranks of L0 held equal. Both have no value for fidelity itself.
    """

    metric: str
    variants: tuple[VariantAt, ...]
    agreement: Estimate
    at_equal_l0: Estimate

    @property
    def first(self) -> str | None:
        """The variant that is surely best; None if no variant is."""
        return next((v.variant for v in self.variants if v.ranks == (1, 1)), None)


@dataclass(frozen=True)
class Better:
    """All measures of a group's variants at one L0, fidelity first."""

    l0: float
    fidelity: str
    n_configurations: int
    measures: tuple[MeasureAt, ...]
    sentence: str


def better(group: Group, question: Question) -> Better | None:
    """Every measure that the results hold, for the variants of a group at one L0.

    The L0 is the one that the question asks about, or else the middle of the range that most
    variants cover. The answer is None where fewer than two variants have configurations on both
    sides of that L0, or where fidelity is the only measure.
    """
    fidelity = next((key for key in (QUALITY, WITHOUT_A_MODEL) if _is_known(group, key)), None)
    covered = {label: span for label in group.labels if (span := _span(group, label)) is not None}
    keys = [key for key in METRICS if _is_measure(group, key)]
    if fidelity is None or len(covered) < 2 or len(keys) < 2:
        return None
    l0 = question.at.get("l0") or _matched(list(covered.values()))
    keys = [fidelity, *(key for key in keys if key != fidelity)]
    near = _near(group, l0)
    measures = tuple(_measure(group, near, key, fidelity, l0) for key in keys)
    if not any(v.ranks for measure in measures for v in measure.variants):
        return None
    said = _sentence(measures, l0)
    return Better(l0, fidelity, len(group.configurations), measures, said)


def _is_known(group: Group, key: str) -> bool:
    return key in group.table and bool(group.table[key].notna().any())


def _is_measure(group: Group, key: str) -> bool:
    """Whether a metric tells some of these runs to be better than others."""
    if METRICS[key].direction == "none" or key in _LEFT_OUT or not _is_known(group, key):
        return False
    return bool(group.table[key].nunique() > 1)


def _column(group: Group, key: str) -> Array:
    """A metric of all runs, where fractions within rounding error of zero are zero. [n_runs]"""
    column = group.table[key].to_numpy(float)
    if METRICS[key].unit != "fraction":
        return column
    return np.where(np.abs(column) < _ROUNDING, 0.0, column)


def _means(group: Group, key: str) -> Array:
    """A metric's mean over the seeds of each configuration. [n_configurations]"""
    column = _column(group, key)
    return averaged(column[None, :, None], group.configurations)[0, :, 0]


def _span(group: Group, label: str) -> tuple[float, float] | None:
    """The range of a variant's L0; None if fewer than two configurations have L0 above zero."""
    labels = group.table["label"].to_numpy()
    own = np.array([labels[rows[0]] == label for rows in group.configurations])
    values = _means(group, "l0")[own]
    values = values[values > 0]
    return (float(values.min()), float(values.max())) if len(np.unique(values)) > 1 else None


def _matched(spans: Sequence[tuple[float, float]]) -> float:
    """The middle, on a logarithmic scale, of the widest range that the most spans cover."""
    ends = np.unique(np.log(np.array(spans)))
    middles = (ends[1:] + ends[:-1]) / 2
    lows, highs = np.log(np.array(spans)).T
    counts = ((lows <= middles[:, None]) & (middles[:, None] <= highs)).sum(1)
    widths = np.where(counts == counts.max(), np.diff(ends), 0.0)
    return float(np.exp(middles[widths.argmax()]))


def _near(group: Group, l0: float) -> Group:
    """The configurations of each variant that are nearest to an L0."""
    labels = group.table["label"].to_numpy()
    with np.errstate(divide="ignore"):
        distance = np.abs(np.log(_means(group, "l0") / l0))
    chosen: list[NDArray[np.int64]] = []
    for label in group.labels:
        own = [i for i, rows in enumerate(group.configurations) if labels[rows[0]] == label]
        own = sorted(own, key=lambda i: float(distance[i]))[:_MOST]
        chosen += [group.configurations[i] for i in own]
    return group.subset(np.sort(np.concatenate(chosen)))


def _measure(group: Group, near: Group, key: str, fidelity: str, l0: float) -> MeasureAt:
    """One measure of all variants."""
    sign = -1.0 if METRICS[key].direction == "max" else 1.0
    known = _column(near, key)
    known = known[np.isfinite(known)]
    logarithmic = bool(len(known)) and known.min() > 0 and known.max() > _WIDE * known.min()
    observed = _observed(near, key, logarithmic=logarithmic)
    place = float(np.log(l0))
    splines = Splines({n: o for n, o in observed.items() if len(o.points) > 1}, np.inf, [place])
    there = [label for label in observed if _covers(splines, label, place)]
    readings = {label: splines.read(label, place) for label in there}
    pairs = list(combinations(there, 2))
    gaps = [splines.gap_at(one, other, place) for one, other in pairs]
    adjusted = holm([gap.p_value for gap in gaps]) if gaps else np.empty(0)
    ahead, behind = (dict.fromkeys(there, 0) for _ in range(2))
    for (one, other), gap, p in zip(pairs, gaps, adjusted, strict=True):
        if p <= 1 - CONFIDENCE:
            best, worst = (one, other) if sign * gap.value < 0 else (other, one)
            ahead[worst] += 1
            behind[best] += 1
    variants = tuple(
        VariantAt(label, _within(_value(readings[label], logarithmic=logarithmic), key, known),
                  (1 + ahead[label], len(there) - behind[label]) if pairs else None)
        if label in readings else VariantAt(label, Estimate(value=None), None)
        for label in group.labels
    )  # fmt: skip
    nothing = Estimate(value=None)
    if key == fidelity:
        return MeasureAt(key, variants, nothing, nothing)
    of_fidelity = _means(group, fidelity)
    return MeasureAt(
        key, variants, *agreements(sign * _means(group, key), of_fidelity, _means(group, "l0"))
    )


def _covers(splines: Splines, label: str, place: float) -> bool:
    span = splines.range_of(label)
    return span is not None and span[0] <= place <= span[1]


def _observed(group: Group, key: str, *, logarithmic: bool) -> dict[str, Observations]:
    """Each variant's configurations as spline observations: places of L0 and of the measure."""
    values = np.stack([_column(group, name) for name in ("l0", key)], -1)
    drawn = _replicated(group, key, values)
    labels = group.table["label"].to_numpy()
    found = {}
    for label in group.labels:
        rows = [r for r in group.configurations if labels[r[0]] == label]
        rows = [r for r in rows if np.isfinite(values[r]).all() and (values[r, 0] > 0).all()]
        rows.sort(key=lambda r: (values[r, 0].mean(), r[0]))
        if not rows:
            continue
        means = _placed(averaged(values[None], rows)[0], logarithmic=logarithmic)
        deviations = _placed(averaged(drawn, rows), logarithmic=logarithmic)
        distinct = np.unique(means[:, 0], return_index=True)[1]
        rows = [rows[i] for i in distinct]
        singles = [_placed(values[r], logarithmic=logarithmic) for r in rows]
        found[label] = observations(
            means[distinct],
            np.nan_to_num(deviations - deviations.mean(0))[:, distinct],
            rows,
            singles,
            group.seed_of,
        )
    return found


def _replicated(group: Group, key: str, values: Array) -> Array:
    """L0 and the measure over resampled sequences. [n_replicates, n_runs, 2]

    A measure that is not a ratio of sums over sequences gets normal noise with its own standard
    error, drawn for each run separately.
    """
    drawn = np.tile(values, (_REPLICATES, 1, 1))
    for axis, name in enumerate(("l0", key)):
        replicates = resample(group, (name,), _REPLICATES)
        if replicates is not None:
            drawn[..., axis] = replicates.values[name]
        elif f"{name}_se" in group.table:
            spread = np.nan_to_num(group.table[f"{name}_se"].to_numpy(float))
            noise = np.random.default_rng(0).standard_normal((_REPLICATES, len(spread)))
            drawn[..., axis] = values[:, axis] + spread * noise
    return drawn


def _placed(points: Array, *, logarithmic: bool) -> Array:
    """The logarithm of L0, and the measure or its logarithm. [..., 2]"""
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(points[..., 1]) if logarithmic else points[..., 1]
        return np.stack([np.log(points[..., 0]), y], -1)


def _value(reading: Reading, *, logarithmic: bool) -> Estimate:
    """A reading of a curve as a value of the measure."""
    found = reading.estimate()
    if not logarithmic or found.value is None:
        return found
    value = float(np.exp(found.value))
    low, high = (None if end is None else float(np.exp(end)) for end in found.ci95)
    return Estimate(value=value, standard_error=reading.error * value, ci95=(low, high))


def _within(value: Estimate, key: str, known: Array) -> Estimate:
    """A value whose interval, for a fraction, is cut off at zero and at one.

    It is cut off only where no known value lies beyond: a normalised MSE may be above one, an
    explained variance below zero. The interval always includes the value, which is read off a curve
    and may itself lie beyond.
    """
    low, high = value.ci95
    if METRICS[key].unit != "fraction" or value.value is None or low is None or high is None:
        return value
    if known.min() >= 0:
        low = min(max(low, 0.0), value.value)
    if known.max() <= 1:
        high = max(min(high, 1.0), value.value)
    return replace(value, ci95=(low, high))


def agreements(first: Array, second: Array, l0: Array) -> tuple[Estimate, Estimate]:
    """Spearman's rank correlation of two columns, without and with the ranks of L0 held equal.

    Intervals use Fisher's z, whose variance for ranks is (1 + r^2 / 2) / (n - 3) (Bonett and
    Wright, Psychometrika 65, 2000); holding L0 equal costs one more degree of freedom. Both are
    undefined for fewer than six rows or a constant column, and the second also where L0 does not
    vary or determines a column's ranks. All three arguments are [n].
    """
    known = np.isfinite(first) & np.isfinite(second) & np.isfinite(l0)
    columns = [column[known] for column in (first, second, l0)]
    n = len(columns[0])
    nothing = Estimate(value=None)
    if n < _LEAST or any(len(np.unique(column)) < 2 for column in columns[:2]):
        return nothing, nothing
    ranks = np.array([rankdata(column) for column in columns])
    plain = float(np.corrcoef(ranks[:2])[0, 1])
    if len(np.unique(columns[2])) < 2:
        return _correlation(plain, n, 3), nothing
    (_, xy, xz), (_, _, yz), _ = np.corrcoef(ranks)
    rest = (1 - xz**2) * (1 - yz**2)
    if rest < 1e-6:
        return _correlation(plain, n, 3), nothing
    return _correlation(plain, n, 3), _correlation(float((xy - xz * yz) / np.sqrt(rest)), n, 4)


def _correlation(value: float, n: int, lost: int) -> Estimate:
    """A rank correlation of n rows with its interval, where ``lost`` is taken off n.

    For the interval, a correlation of exactly 1 or -1 is moved inwards by half the smallest step
    that a rank correlation can make.
    """
    most = 1 - 6 / (n**3 - n)
    inside = float(np.clip(value, -most, most))
    half = float(ndtri(_QUANTILE)) * np.sqrt((1 + inside**2 / 2) / (n - lost))
    centre = np.arctanh(inside)
    return Estimate(
        value=value, ci95=(float(np.tanh(centre - half)), float(np.tanh(centre + half)))
    )


def _sentence(measures: Sequence[MeasureAt], l0: float) -> str:
    """How many measures have a surely best variant, and which variant that is."""
    fidelity, *others = measures
    best, title = fidelity.first, METRICS[fidelity.metric].title
    firsts = {m.metric: m.first for m in others if m.first is not None}
    named = ", ".join(f"{METRICS[key].title} ({variant})" for key, variant in firsts.items())
    open_ = len(others) - len(firsts)
    rest = [f"{open_} {'have' if open_ != 1 else 'has'} no surely best variant"] if open_ else []
    where, of = f"At L0 {number(l0)}", f"of {len(others)} other measures"
    if best is None:
        if not firsts:
            return (f"{where} no variant is surely best in {title}, nor in any of {len(others)} "
                    "other measures.")  # fmt: skip
        told = [f"{len(firsts)} {'have' if len(firsts) > 1 else 'has'} a surely best one: {named}"]
        said = "; ".join([*told, *rest])
        return (
            f"{where} no variant is surely best in {title}; of {len(others)} other measures {said}."
        )
    same = sum(variant == best for variant in firsts.values())
    against = {key: variant for key, variant in firsts.items() if variant != best}
    named = ", ".join(f"{METRICS[key].title} ({variant})" for key, variant in against.items())
    told = [f"{same} also rank{'s' if same == 1 else ''} it first"]
    if against:
        told.append(f"{len(against)} rank{'s' if len(against) == 1 else ''} another variant first "
                    f"({named})")  # fmt: skip
    said = ", ".join([*told, *rest])
    return f"{where} {best} is surely best in {title}; {of} {said}."
