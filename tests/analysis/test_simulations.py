"""How often intervals contain the truth, and how often a lead is claimed where there is none.

`nox -s slow` runs these simulations, which take some 3 minutes of one core. By default, 50
evaluations are simulated of each cell, 60 for curves, and 40 for the intervals of hypervolumes,
epsilon indicators and attainment surfaces. The environment variable
``PROLU_EVAL_SIMULATIONS`` sets all of these numbers: 250 gives the table of docs/statistics.md.
`-rP` prints the rates.

Each bound is a number of misses that a true rate of 5 % exceeds once in 1,000 sets of as many
simulations: 7 of 40 (18 %), 8 of 50 or 24 of 250 (10 %). A smaller excess cannot be distinguished
from chance here.
"""

import itertools
import os
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import binom

from prolu_eval.analysis import Frontier, Surface, comparable, group_frontier, resample
from prolu_eval.analysis.attainment import attained
from prolu_eval.analysis.epsilon import epsilons
from prolu_eval.analysis.pareto import volume
from prolu_eval.analysis.savings import Curves
from prolu_eval.metrics import COLUMNS
from prolu_eval.results import PER_SEQUENCE, Result
from tests.analysis.simulated import (
    CURVES,
    KEYS,
    Cell,
    Sweep,
    concave,
    convex,
    drawn,
    power,
    true_gap,
)
from tests.helpers.made_results import result

pytestmark = pytest.mark.slow

SIMULATIONS = int(os.environ.get("PROLU_EVAL_SIMULATIONS", "0"))

NULLS = {
    f"{name}: {title}": cell
    for name, curve in CURVES.items()
    for title, cell in {
        "6 runs each": Cell({k: Sweep(curve, 6) for k in "ab"}),
        "6 runs each, other L0": Cell(
            {"a": Sweep(curve, 6), "b": Sweep(curve, 6, ends=(4, 85))}, 1024
        ),
        "8 runs each at random L0": Cell(
            {k: Sweep(curve, 8, random=True) for k in "ab"}, 1024
        ),
        "12 runs against 4": Cell({"a": Sweep(curve, 12), "b": Sweep(curve, 4)}),
        "8 runs, 1 seed, trainings vary 5 %": Cell(
            {k: Sweep(curve, 8) for k in "ab"}, noise=0.05
        ),
        "8 runs, 3 seeds against 1, trainings vary 5 %": Cell(
            {"a": Sweep(curve, 8, 3), "b": Sweep(curve, 8)}, noise=0.05
        ),
    }.items()
} | {
    "power law: 8 runs, 3 seeds, trainings vary 5 %": Cell(
        {k: Sweep(power, 8, 3) for k in "ab"}, noise=0.05
    ),
    "power law: 3 variants of 4 runs and 2 seeds, trainings vary 10 %": Cell(
        {k: Sweep(power, 4, 2) for k in "abc"}, noise=0.1
    ),
    "power law: 12 runs, 1 seed, trainings vary 10 %": Cell(
        {k: Sweep(power, 12) for k in "ab"}, noise=0.1
    ),
    "power law: 8 runs, 1 seed, trainings vary 2 %": Cell(
        {k: Sweep(power, 8) for k in "ab"}, noise=0.02
    ),
    "convex: 3 variants of 6 runs and 1 seed, trainings vary 5 %": Cell(
        {k: Sweep(convex, 6) for k in "abc"}, noise=0.05
    ),
    "power law: 3 runs, trainings vary 5 %": Cell(
        {k: Sweep(power, 3) for k in "ab"}, noise=0.05
    ),
    "concave: 3 runs, trainings vary 5 %": Cell(
        {k: Sweep(concave, 3) for k in "ab"}, noise=0.05
    ),
    "power law: 2 runs, trainings vary 5 %": Cell(
        {k: Sweep(power, 2) for k in "ab"}, noise=0.05
    ),
    "power law: 8 runs, 3 seeds, which vary 8 %, trainings 3 %": Cell(
        {k: Sweep(power, 8, 3) for k in "ab"}, noise=0.03, common=0.08
    ),
    "power law: 8 runs, 2 seeds and 2 others, which vary 5 %, trainings 5 %": Cell(
        {"a": Sweep(power, 8, 2), "b": Sweep(power, 8, 2, first_seed=2)}, noise=0.05, common=0.05
    ),
    "concave: 8 runs, 3 seeds against 1 of them, which vary 8 %, trainings 3 %": Cell(
        {"a": Sweep(concave, 8, 3), "b": Sweep(concave, 8)}, noise=0.03, common=0.08
    ),
    "convex: 8 runs, 3 seeds against 1 other, which vary 8 %, trainings 3 %": Cell(
        {"a": Sweep(convex, 8, 3), "b": Sweep(convex, 8, first_seed=3)}, noise=0.03, common=0.08
    ),
    "k: 7 runs, 1 seed, trainings vary 5 %": Cell(
        {k: Sweep(power, 7, exact=True) for k in "ab"}, noise=0.05
    ),
    "k: 7 runs, 3 seeds, trainings vary 5 %": Cell(
        {k: Sweep(power, 7, 3, exact=True) for k in "ab"}, noise=0.05
    ),
    "k, concave: 7 runs, 1 seed, trainings vary 5 %": Cell(
        {k: Sweep(concave, 7, exact=True) for k in "ab"}, noise=0.05
    ),
    "power law: 6 runs, 10 sequences": Cell({k: Sweep(power, 6) for k in "ab"}, 10),
    "power law: 6 runs, 10 sequences, heavy tail": Cell(
        {k: Sweep(power, 6) for k in "ab"}, 10, heavy=True
    ),
    "concave: 6 runs against 6 at random L0, heavy tail": Cell(
        {"a": Sweep(concave, 6), "b": Sweep(concave, 6, random=True)}, 64, heavy=True
    ),
}  # fmt: skip


# Unequal variants, of which the first has less CE degradation at equal L0.
UNEQUAL = {
    "power law: 8 runs, 20 % ahead, trainings vary 5 %": Cell(
        {"a": Sweep(power, 8, factor=0.8), "b": Sweep(power, 8)}, noise=0.05
    ),
    "power law: 8 runs at random L0 and 3 seeds, 10 % ahead, trainings vary 5 %": Cell(
        {"a": Sweep(power, 8, 3, 0.9, random=True), "b": Sweep(power, 8, 3)}, noise=0.05
    ),
    "concave: 6 runs, 20 % ahead, other L0": Cell(
        {"a": Sweep(concave, 6, factor=0.8), "b": Sweep(concave, 6, ends=(4, 85))}
    ),
    "convex: 8 runs, 10 % ahead, trainings vary 5 %": Cell(
        {"a": Sweep(convex, 8, factor=0.9), "b": Sweep(convex, 8)}, noise=0.05
    ),
    "k: 7 runs, 10 % ahead, trainings vary 5 %": Cell(
        {"a": Sweep(power, 7, factor=0.9, exact=True), "b": Sweep(power, 7, exact=True)}, noise=0.05
    ),
}  # fmt: skip


def excesses(counts: Mapping[str, float], n: int) -> dict[str, float]:
    """The counts of misses that are too large for a rate of 5 % in n evaluations."""
    most = binom.ppf(0.999, n, 0.05)
    return {name: count for name, count in counts.items() if count > most}


def claims(curves: Curves) -> bool:
    """Whether one of the variants is said to be better, on average or somewhere."""
    return any(sign for sign, _ in curves.statuses.values()) or any(
        lead.first_ahead or lead.second_ahead for lead in curves.leads()
    )


def wrongly(curves: Curves, truth: float) -> bool:
    """Whether the first variant is said to be worse on average, or better if it is not."""
    said = curves.statuses["a", "b"][0]
    return said != 0 and said != np.sign(truth)


@pytest.mark.parametrize("name", NULLS | UNEQUAL)
def test_leads_and_intervals(name: str) -> None:
    cells = NULLS | UNEQUAL
    cell = cells[name]
    rng = np.random.default_rng([12, list(cells).index(name)])
    n = SIMULATIONS or 50
    wrong: Counter[str] = Counter()
    widths, without, found = [], 0, 0
    for _ in range(n):
        curves = drawn(cell, rng)
        for over, metric in ((1, "L0"), (0, "CE")):
            gap = curves.gap("a", "b", over)
            # With 10 heavy-tailed sequences places may be so uncertain that no curve is drawn.
            assert gap is not None or (cell.heavy and cell.sequences == 10)
            low, high = (-np.inf, np.inf) if gap is None else gap.interval()
            truth = 0.0 if gap is None else true_gap(cell, curves, "a", "b", over)
            wrong[f"{metric} missed"] += not low <= truth <= high
            without += gap is None
            widths += [(high - low) / 2] if over and gap is not None else []
        wrong["claimed wrongly"] += claims(curves) if name in NULLS else wrongly(curves, truth)
        found += curves.statuses["a", "b"][0] != 0
    shown = f"half width {np.mean(widths):.3f}, {without} without an interval, {found} told apart"
    print(n, dict(wrong), shown)
    assert excesses(wrong, n) == {}


def test_rankings_by_other_runs_flip_no_more_often_than_stated() -> None:
    """The same three variants are swept twice at random L0; few pairs are ranked differently."""
    cell = Cell(
        {label: Sweep(power, 8, factor=factor, random=True)
         for label, factor in {"a": 0.9, "b": 0.95, "c": 1.0}.items()},
        noise=0.05,
    )  # fmt: skip
    rng = np.random.default_rng(15)
    n = SIMULATIONS or 100
    counts: Counter[str] = Counter(flips=0, against=0)
    for _ in range(n):
        first, second = (drawn(cell, rng).statuses for _ in range(2))
        counts["flips"] += any(first[p][0] * second[p][0] < 0 for p in first)
        counts["against"] += any(sign > 0 for sign, _ in first.values())
        counts["told"] += sum(sign < 0 for sign, _ in first.values())
    print(n, dict(counts))
    assert excesses({key: counts[key] for key in ("flips", "against")}, n) == {}


@pytest.mark.parametrize(("runs", "factor"), [(6, 0.8), (8, 0.85), (12, 0.9)])
def test_a_lead_that_is_there_is_found(runs: int, factor: float) -> None:
    rng = np.random.default_rng([13, runs])
    cell = Cell({"a": Sweep(power, runs, factor=factor), "b": Sweep(power, runs)})
    n = SIMULATIONS or 25
    found = sum(drawn(cell, rng).statuses["a", "b"][0] == -1 for _ in range(n))
    print(f"{runs} runs, {1 - factor:.0%} less CE degradation: found in {found} of {n}")
    # Such leads must be found in at least 95 of 100 evaluations.
    assert n - found <= binom.ppf(0.999, n, 0.05)


L0 = np.geomspace(3, 100, 8)
# True L0 and CE degradation of runs, and the ratio of a's to b's CE degradation at equal L0.
TRUTHS = {
    "a ahead": (L0, 0.8 * power(L0), 0.8),
    "equal": (L0, power(L0), 1.0),
    "a behind, runs between": (1.2 * L0, power(L0), 1.2**0.8),
}


def sweep(
    rng: np.random.Generator,
    truth: dict[str, np.ndarray],
    n_seeds: int,
    noise: float,
    common: float,
) -> list[Result]:
    """Results of runs whose expected L0 and CE degradation are given, on 256 sequences.

    ``noise`` is how much trainings vary, and ``common`` how much a seed moves all runs alike.
    """
    n = 256
    length = rng.integers(60, 128, n).astype(float)
    hard, dense = rng.gamma(8, 1 / 8, n), rng.gamma(30, 1 / 30, n)
    results = []
    moved = rng.lognormal(-(common**2) / 2, common, n_seeds) if common else np.ones(n_seeds)
    for label, points in truth.items():
        for i, seed in itertools.product(range(len(points)), range(n_seeds)):
            l0, ce = points[i] * rng.lognormal(-(noise**2) / 2, noise, 2)
            ce *= moved[seed]
            own = rng.gamma(20, 1 / 20, (2, n))
            sums = dict.fromkeys(COLUMNS, length) | {
                "l0": length * l0 * dense * own[0],
                "ce_clean": length * 3.0,
                "ce_spliced": length * (3.0 + ce * hard * own[1]),
            }
            metrics = {
                "l0": float(sums["l0"].sum() / length.sum()),
                "ce_degradation": float(sums["ce_spliced"].sum() / length.sum() - 3),
            }
            made = result(f"{label}-{i}-{seed}", label, metrics, coefficient=0.1 * (i + 1))
            run = made.run.model_copy(update={"seed": seed})
            arrays = {PER_SEQUENCE + name: values for name, values in sums.items()}
            results.append(made.model_copy(update={"run": run, "arrays": arrays}))
    return results


def misses(interval: tuple[float | None, float | None], truth: float | None) -> bool:
    low, high = interval
    assert low is not None
    assert high is not None
    assert truth is not None
    return not low <= truth <= high


def misses_share(ends: tuple[float | None, float | None], truth: float) -> bool:
    """Whether an interval of a share misses the truth; at 0 or 1, by more than 0.01.

    A true share of 0 or 1 has ties that are broken by chance, so a measured share is always on the
    same side of it.
    """
    near = 0.01 if min(truth, 1 - truth) < 1e-9 else 0.0
    low, high = ends
    assert low is not None
    assert high is not None
    return not low - near <= truth <= high + near


def missed(found: Frontier, truth: dict[str, np.ndarray], ratio: float) -> dict[str, bool]:
    """Which intervals of a frontier miss the truth; hypervolumes use the frontier's reference."""
    reference = np.array(found.reference)
    volumes = {label: volume(points, reference) for label, points in truth.items()}
    total = volume(np.concatenate(list(truth.values())), reference)
    wrong = {"hypervolume of all": misses(found.hypervolume.ci95, total)}
    for variant in found.variants:
        label, own = variant.label, volumes[variant.label]
        (other,) = volumes.keys() - {label}
        wrong |= {
            f"hypervolume of {label}": misses(variant.hypervolume.ci95, own),
            f"share of {label}": misses_share(variant.hypervolume_share.ci95, own / total),
            f"exclusive share of {label}": misses_share(
                variant.exclusive_share.ci95, 1 - volumes[other] / total
            ),
        }
    true = {(e.first, e.second): e for e in epsilons({k: v[None] for k, v in truth.items()}, 0)}
    for e in found.epsilons:
        t, name = true[e.first, e.second], f"epsilon of {e.first} to {e.second}"
        wrong[name] = misses(e.multiplicative.ci95, t.multiplicative.value)
        wrong[f"additive {name}"] = misses(e.additive.ci95, t.additive.value)
    for saving in found.savings:
        if saving.first == "a":
            at_equal = ratio if saving.metric == "ce_degradation" else ratio ** (1 / 0.8)
            wrong[f"{saving.metric} saved"] = misses(saving.amount.ci95, 1 - at_equal)
    wrong["a certain domination"] = any(
        not np.all(place(truth, d.better) < place(truth, d.worse)) for d in found.dominations
    )
    wrong["a certain lead"] = any(
        (lead.first_certain and ratio >= 1) or (lead.second_certain and ratio <= 1)
        for lead in found.leads
    )
    return wrong


def place(truth: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The true L0 and CE degradation of a run of :func:`sweep`. [2]"""
    label, i, _ = name.split("-")
    return np.asarray(truth[label][int(i)])


@pytest.mark.parametrize(
    ("name", "n_seeds", "noise", "common"),
    [
        *itertools.product(TRUTHS, [1], [0.0], [0.0]),
        *itertools.product(TRUTHS, [3], [0.05], [0.0]),
        ("equal", 2, 0.04, 0.06),
        ("a ahead", 3, 0.04, 0.06),
    ],
)
def test_intervals_hold_the_truth(name: str, n_seeds: int, noise: float, common: float) -> None:
    x, y, ratio = TRUTHS[name]
    truth = {"a": np.stack([x, y], 1), "b": np.stack([L0, power(L0)], 1)}
    rng = np.random.default_rng([14, list(TRUTHS).index(name), n_seeds, *([9] if common else [])])
    n = SIMULATIONS or 40
    wrong: Counter[str] = Counter()
    bands: list[dict[str, Surface]] = []
    gaps = []
    marks, unit = diagonals(truth["b"])
    for seed in range(n):
        results = sweep(rng, truth, n_seeds, noise, common)
        (group,) = comparable(results)
        found = group_frontier(group, *KEYS, replicates=resample(group, KEYS, 200, seed))
        wrong.update({key: int(miss) for key, miss in missed(found, truth, ratio).items()})
        if n_seeds > 1:
            bands.append(found.surfaces["b"])
            own = group.table[group.table["label"] == "b"]
            places = np.log(own[list(KEYS)].to_numpy(float)) / unit
            gaps.append(attained(places[None], own["seed"].to_numpy(int), marks)[:, 0])
    counts: dict[str, float] = dict(wrong)
    attained_by = {1: (), 2: ("best", "worst"), 3: ("best", "median", "worst")}[n_seeds]
    for which, gap in zip(attained_by, np.mean(gaps, 0) if gaps else (), strict=True):
        # An average over places varies no more than one place does.
        counts[f"{which} of {n_seeds} seeds"] = n * outside(
            [band[which] for band in bands], marks + gap[:, None], unit
        )
    print(n, {key: f"{count / n:.1%}" for key, count in counts.items()})
    assert excesses(counts, n) == {}


def diagonals(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where diagonals across points start, in units of their range, and that unit. [129, 2], [2]"""
    places = np.log(points)
    unit = np.ptp(places, axis=0)
    return places.min(0) / unit + np.linspace([-1, 0], [1, 0], 129), unit


def outside(bands: list[Surface], surface: np.ndarray, unit: np.ndarray) -> float:
    """The share of places, away from the ends, where the bands do not contain a surface."""
    x, y = (surface * unit).T
    held = [
        np.log(better[1]) <= np.interp(np.log(better[0]), x, y)
        and np.log(worse[1]) >= np.interp(np.log(worse[0]), x, y)
        for band in bands
        for better, worse in zip(band.better[8:57], band.worse[8:57], strict=True)
    ]
    return 1 - float(np.mean(held))


@pytest.mark.parametrize("n_seeds", [2, 5])
def test_a_curve_holds_the_truth_over_seeds(n_seeds: int) -> None:
    """A variant's own curve, at the ends of its range and within, where seeds move all runs."""
    cell = Cell({k: Sweep(power, 8, n_seeds) for k in "ab"}, noise=0.03, common=0.08)
    rng = np.random.default_rng([16, n_seeds])
    n = SIMULATIONS or 60
    wrong: Counter[str] = Counter()
    widths = []
    for _ in range(n):
        splines = drawn(cell, rng).over[0]
        levels = [level for level, _ in splines.curve("a")]
        for where in (0, len(levels) // 2, -1):
            reading = splines.read("a", levels[where])
            low, high = reading.interval()
            wrong[f"place {where}"] += not low <= np.log(power(np.exp(levels[where]))) <= high
            widths.append((high - low) / 2)
    print(n, dict(wrong), f"half width {np.mean(widths):.3f}")
    assert excesses(wrong, n) == {}
