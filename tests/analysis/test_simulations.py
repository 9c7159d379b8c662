"""How often intervals hold the truth, and how often the sentence claims a lead that is not there.

They take a few minutes: `nox -s slow` runs them.

Simulated sweeps of two variants whose true L0 and CE degradation are known: sequences share what is
hard about them, and runs add noise of their own; with seeds, training adds more.
"""

import itertools

import numpy as np
import pytest

from prolu_eval.analysis import Frontier, comparable, frontier, resample, statement
from prolu_eval.analysis.attainment import attained
from prolu_eval.analysis.curves import Lines, mean_over, shared_levels
from prolu_eval.analysis.epsilon import epsilons
from prolu_eval.analysis.pareto import volume
from prolu_eval.metrics import COLUMNS
from prolu_eval.results import PER_SEQUENCE, Result
from tests.helpers.made_results import result

pytestmark = pytest.mark.slow

SIMULATIONS, FEWER = 500, 200
SEQUENCES = 256
KEYS = ("l0", "ce_degradation")
REFERENCE = {"l0": 120.0, "ce_degradation": 2.0}
L0 = np.geomspace(3, 100, 8)


def curve(factor: float) -> np.ndarray:
    """True L0 and CE degradation of a variant. [n, 2]"""
    return np.stack([L0, factor * 3 * L0**-0.8], 1)


def sweep(
    rng: np.random.Generator, truth: dict[str, np.ndarray], n_seeds: int = 1, noise: float = 0.0
) -> list[Result]:
    """Results of runs with given expected L0 and CE degradation, as estimated from sequences."""
    length = rng.integers(60, 128, SEQUENCES).astype(float)
    hard, dense = rng.gamma(8, 1 / 8, SEQUENCES), rng.gamma(30, 1 / 30, SEQUENCES)

    results = []
    for label, points in truth.items():
        for i, seed in itertools.product(range(len(points)), range(n_seeds)):
            l0, ce = points[i] * rng.lognormal(-(noise**2) / 2, noise, 2)
            own = rng.gamma(20, 1 / 20, (2, SEQUENCES))
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


def analysed(results: list[Result], seed: int, n_replicates: int = 200) -> Frontier:
    (group,) = comparable(results)
    replicates = resample(group, KEYS, n_replicates, seed)
    return frontier(group, *KEYS, replicates=replicates, reference=REFERENCE)


def covers(interval: tuple[float | None, float | None], truth: float) -> bool:
    low, high = interval
    assert low is not None
    assert high is not None
    return low <= truth <= high


@pytest.mark.parametrize(("n_seeds", "noise"), [(1, 0.0), (3, 0.05)])
def test_intervals_cover_the_truth(n_seeds: int, noise: float) -> None:
    truth = {"a": curve(0.8), "b": curve(1.0)}
    reference = np.array(list(REFERENCE.values()))
    volumes = {label: volume(points, reference) for label, points in truth.items()}
    total = volume(np.concatenate(list(truth.values())), reference)
    a, b = (Lines.through(np.log(points)[None]) for points in truth.values())
    gaps = []
    for first, second in ((a.turned, b.turned), (a, b)):
        levels = shared_levels(first, second)
        gaps.append(float(mean_over(levels, first.at(levels)[0] - second.at(levels)[0])))
    hits: dict[str, int] = dict.fromkeys(
        ("volume", "share", "total", "exclusive", "l0 saved", "ce saved"), 0
    )
    rng = np.random.default_rng(11)
    for seed in range(SIMULATIONS):
        found = analysed(sweep(rng, truth, n_seeds, noise), seed)
        variant = next(v for v in found.variants if v.label == "b")
        hits["volume"] += covers(variant.hypervolume_ci95, volumes["b"])
        hits["share"] += covers(variant.hypervolume_share_ci95, volumes["b"] / total)
        hits["total"] += covers(found.hypervolume_ci95, total)
        ahead = next(v for v in found.variants if v.label == "a")
        hits["exclusive"] += covers(ahead.exclusive_share_ci95, 1 - volumes["b"] / total)
        for metric, gap in zip(KEYS, gaps, strict=True):
            (saving,) = (s for s in found.savings if s.first == "a" and s.metric == metric)
            hits["l0 saved" if metric == "l0" else "ce saved"] += covers(
                saving.amount.ci95, 1 - float(np.exp(gap))
            )
    print({name: count / SIMULATIONS for name, count in hits.items()})
    for name, count in hits.items():
        assert 0.93 <= count / SIMULATIONS <= 0.97, f"{name}: {count / SIMULATIONS:.3f}"


def shifted(factor: float) -> np.ndarray:
    """True L0 and CE degradation of a variant whose runs lie between the others'. [n, 2]"""
    return np.stack([factor * L0, 3 * L0**-0.8], 1)


@pytest.mark.parametrize(("n_seeds", "noise"), [(1, 0.0), (3, 0.05)])
@pytest.mark.parametrize(
    "truth",
    [
        {"a": curve(0.8), "b": curve(1.0)},
        {"a": curve(1.0), "b": curve(1.0)},
        {"a": shifted(1.2), "b": curve(1.0)},
    ],
    ids=["all gaps equal", "variants equal", "between"],
)
def test_epsilon_intervals_cover_the_truth(
    truth: dict[str, np.ndarray], n_seeds: int, noise: float
) -> None:
    measured = {label: points[None] for label, points in truth.items()}
    truths = epsilons(measured, 0)
    hits = dict.fromkeys([(e.first, e.second) for e in truths], (0, 0))
    rng = np.random.default_rng(14)
    for seed in range(FEWER):
        answer = analysed(sweep(rng, truth, n_seeds, noise), seed, n_replicates=500)
        found = {(e.first, e.second): e for e in answer.epsilons}
        for true in truths:
            pair = true.first, true.second
            both = [(found[pair].multiplicative, true.multiplicative),
                    (found[pair].additive, true.additive)]  # fmt: skip
            covered = [covers(f.ci95, t.value or 0.0) for f, t in both]
            hits[pair] = hits[pair][0] + covered[0], hits[pair][1] + covered[1]
    shares = {pair: [n / FEWER for n in both] for pair, both in hits.items()}
    print(shares)
    # Where several gaps may be the greatest the interval holds the truth more often than it says.
    assert min(map(min, shares.values())) >= 0.93


def test_attainment_bands_cover_what_as_many_seeds_attain() -> None:
    truth, n_seeds = {"a": curve(0.8), "b": curve(1.0)}, 3
    rng = np.random.default_rng(15)
    places = np.log(truth["b"])
    unit = np.ptp(places, axis=0)
    marks = places.min(0) / unit + np.linspace([-1, 0], [1, 0], 129)
    bands, gaps = [], []
    for seed in range(FEWER):
        results = sweep(rng, truth, n_seeds, 0.05)
        bands.append(analysed(results, seed).surfaces["b"])
        own = [r for r in results if r.run.label == "b"]
        points = np.log([[r.metrics[key].value or np.nan for key in KEYS] for r in own])
        sets = np.array([r.run.seed for r in own])
        gaps.append(attained(points[None] / unit, sets, marks)[:, 0])
    expected = np.mean(gaps, 0)
    for name, gap in zip(("best", "median", "worst"), expected, strict=True):
        x, y = ((marks + gap[:, None]) * unit).T
        hits = [
            np.log(better[1]) <= np.interp(np.log(better[0]), x, y)
            and np.log(worse[1]) >= np.interp(np.log(worse[0]), x, y)
            for band in bands
            for better, worse in zip(band[name].better[8:57], band[name].worse[8:57], strict=True)
        ]
        print(f"{name} of {n_seeds} seeds: {np.mean(hits):.3f}")
        assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize(("n_seeds", "noise"), [(1, 0.0), (3, 0.05)])
def test_no_lead_is_claimed_where_there_is_none(n_seeds: int, noise: float) -> None:
    truth = dict.fromkeys("abc", curve(1.0))
    rng = np.random.default_rng(12)
    wrong = sum(
        " dominates " in statement(analysed(sweep(rng, truth, n_seeds, noise), seed))
        for seed in range(SIMULATIONS)
    )
    print(f"a lead is claimed in {wrong / SIMULATIONS:.1%} of null simulations")
    assert wrong / SIMULATIONS <= 0.05


def test_a_lead_that_is_there_is_claimed() -> None:
    rng = np.random.default_rng(13)
    truth = {"a": curve(0.8), "b": curve(1.0)}
    found = statement(analysed(sweep(rng, truth), 0))
    assert "a dominates b for L0 in [3" in found
