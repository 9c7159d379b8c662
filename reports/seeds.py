"""Do two seeds of a sweep predict the third?

Each of three seeds is taken out in turn and held against the two others, in every way in which
prolu-eval says what another training may give:

- run by run: a run of the third seed against the mean of the two others of its configuration. The
  scatter between trainings is that of the two, pooled over all configurations; the variance is that
  of the mean of two and of one new training.
- what one variant saves against another: the saving with the third seed against the saving with the
  two others. This is what answers are made of.
- along a variant's own frontier: the curve of the third seed against the curve of the two others,
  as if they were two variants.
- inside the interval of the two seeds' own curve, which is one of the mean over trainings and not
  of a new training, so that a third seed's curve lies outside it more often.

In all but the last the interval holds what is open of both sides, and nothing but the seed differs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, f, t

from prolu_eval.analysis import Group, Replicates, comparable, resample
from prolu_eval.analysis.bootstrap import degrees_of_freedom, over_seeds, training_variances
from prolu_eval.analysis.frontiers import Computation
from prolu_eval.results import Result, prefix_label_with_folder

KEYS = ("l0", "ce_degradation")
OTHERS, THIRD, ALL = "two seeds", "third seed", "all"

# What is counted, by its name; each is a list of whether the third seed lies inside.
Inside = dict[str, list[bool]]
RUNS = ("a run: L0", "a run: CE degradation")
SAVINGS = ("a saving of CE degradation against another variant", "a saving of L0")
MEANS = ("its own curve: mean gap of CE degradation", "its own curve: mean gap of L0")
PLACES, OWN = "its own curve: gap at one place", "inside the two seeds' own interval"
COLUMNS = (*RUNS, *SAVINGS, *MEANS, PLACES, OWN)


def third_seeds(results: Sequence[Result], labels: Sequence[str]) -> dict[str, Inside]:
    """By variant and for all, whether each seed lies inside the intervals that the others give."""
    found: dict[str, Inside] = {label: defaultdict(list) for label in (*labels, ALL)}
    chosen = [result for result in results if result.run.label in labels]
    for third in sorted({result.run.seed for result in chosen}):
        parts = [
            prefix_label_with_folder(result, THIRD if result.run.seed == third else OTHERS)
            for result in chosen
        ]
        (group,) = comparable(parts, KEYS)
        replicates = resample(group, KEYS)
        if replicates is None:
            raise SystemExit("the results hold no per-sequence sums")
        _run_by_run(group, replicates, found)
        _along_curves(group, replicates, labels, found)
    return found


def _count(found: Mapping[str, Inside], labels: Sequence[str], key: str, held: object) -> None:
    """Count for some variants, and once for all."""
    for label in (*labels, ALL):
        found[label][key].append(bool(held))


def _run_by_run(group: Group, replicates: Replicates, found: Mapping[str, Inside]) -> None:
    """Runs of the third seed against the mean of the others of their configuration."""
    is_third = np.array([result.folder == THIRD for result in group.results])
    runs = {_configuration(group.results[i]): i for i in np.flatnonzero(is_third)}
    rows = np.flatnonzero(~is_third)
    two = group.subset(rows)
    values, drawn = group.table[list(KEYS)].to_numpy(float), replicates.costs(KEYS, np.ones(2))
    means = over_seeds(two, values[rows][None], None)[0]
    variances = training_variances(two, values[rows])
    reach = t.ppf(0.975, degrees_of_freedom(two, replicates.n_sequences))
    for configuration, mean, variance in zip(two.configurations, means, variances, strict=True):
        first = two.results[configuration[0]]
        third = runs[_configuration(first)]
        trained = variance * (1 + len(configuration))
        sampled = (drawn[:, third] - drawn[:, rows[configuration]].mean(1)).var(0, ddof=1)
        inside = np.abs(values[third] - mean) <= reach * np.sqrt(trained + sampled)
        for key, held in zip(RUNS, inside, strict=True):
            _count(found, [_variant(first)], key, held)


def _configuration(result: Result) -> tuple[str, float | None]:
    return _variant(result), result.run.coefficient


def _variant(result: Result) -> str:
    return result.run.label.removeprefix(f"{result.folder}: ")


def _along_curves(
    group: Group, replicates: Replicates, labels: Sequence[str], found: Mapping[str, Inside]
) -> None:
    """Savings between variants, and each variant's curves, of the third seed and of the others."""
    curves = Computation(group, KEYS, replicates, {}).curves
    if curves is None:
        raise SystemExit("there are no curves")
    for over, key in enumerate(SAVINGS):
        for one, other in combinations(labels, 2):
            # The mean of one saving and of the other the wrong way round: half their difference.
            pairs = [(f"{OTHERS}: {one}", f"{OTHERS}: {other}"),
                     (f"{THIRD}: {other}", f"{THIRD}: {one}")]  # fmt: skip
            if all(curves.over[over].shared(*pair) for pair in pairs):
                low, high = curves.over[over].mean_of_gaps(pairs).interval()
                _count(found, [one, other], key, low <= 0 <= high)
    splines = curves.over[0]
    for label in labels:
        pair = f"{THIRD}: {label}", f"{OTHERS}: {label}"
        for over, key in enumerate(MEANS):
            gap = curves.gap(*pair, over)
            if gap is not None:
                low, high = gap.interval()
                _count(found, [label], key, low <= 0 <= high)
        span = splines.shared(*pair)
        for place in [] if span is None else splines.levels:
            if span[0] <= place <= span[1]:
                low, high = splines.gap_at(*pair, place).interval()
                _count(found, [label], PLACES, low <= 0 <= high)
                low, high = splines.read(pair[1], place).interval()
                _count(found, [label], OWN, low <= splines.read(pair[0], place).value <= high)


def cells(counts: Inside) -> list[str]:
    """How many lie inside, in per cent, with intervals where they are not neighbours on a curve."""
    told = []
    for key in COLUMNS:
        n, of = sum(counts[key]), len(counts[key])
        if key in (PLACES, OWN):
            told.append(f"{100 * n / of:.3g} of {of} places")
            continue
        low, high = binomtest(n, of).proportion_ci(method="exact")
        told.append(f"{n} of {of}: {100 * n / of:.3g} [{100 * low:.3g}, {100 * high:.3g}]")
    return told


def in_common(group: Group, labels: Sequence[str]) -> list[list[str]]:
    """What a seed does to all runs of a variant's sweep alike, as rows of a table.

    A run's deviation is that of its CE degradation at equal L0 from the mean over seeds of its
    configuration, in per cent: of the logarithms, along the slope of a parabola through the means.
    """
    rows, means = [], []
    for label in labels:
        deviations = _deviations(group, label)
        n, n_seeds = deviations.shape
        mean = deviations.mean(0)
        within = np.square(deviations - mean).sum() / (n - 1) / (n_seeds - 1)
        ratio = n * np.square(mean).sum() / (n_seeds - 1) / within
        chance = f.sf(ratio, n_seeds - 1, (n - 1) * (n_seeds - 1))
        common = np.sqrt(max(0.0, ratio - 1) * within / n)
        means.append(mean)
        rows.append([
            label, ", ".join(f"{value:+.1f}" for value in mean), f"{common:.1f}",
            f"{np.sqrt(within):.1f}", f"{chance:.1g}",
        ])  # fmt: skip
    alike = np.corrcoef(means)[np.triu_indices(len(labels), 1)]
    rows.append(["correlation between two variants", f"{alike.min():.2f} to {alike.max():.2f}",
                 "", "", ""])  # fmt: skip
    return rows


def _deviations(group: Group, label: str) -> NDArray[np.float64]:
    """Each run's deviation from its configuration's mean, %. [n_configurations, n_seeds]"""
    own = group.table[group.table["label"] == label]
    l0, ce = (np.log(own.pivot_table(index="coefficient", columns="seed", values=key)).to_numpy()
              for key in KEYS)  # fmt: skip
    slope = np.polyval(np.polyder(np.polyfit(l0.mean(1), ce.mean(1), 2)), l0.mean(1))
    off = ce - slope[:, None] * l0
    return np.asarray(100 * (off - off.mean(1, keepdims=True)))
