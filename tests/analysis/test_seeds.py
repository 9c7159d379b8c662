"""What runs of a seed have in common is told from the variation of single trainings."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from prolu_eval.analysis.bootstrap import over_seeds, with_resampled_seeds
from prolu_eval.analysis.groups import Group, comparable
from prolu_eval.analysis.savings import Curves
from prolu_eval.analysis.seeds import MOST_SEEDS, Repeated, SeedVariances
from prolu_eval.analysis.splines import Observations
from tests.analysis.simulated import KEYS, Cell, Sweep, drawn, power
from tests.helpers.made_results import result


def parted(values: np.ndarray) -> Repeated:
    """The parts of values by configuration and seed. [n_configurations, n_seeds]"""
    n, k = values.shape
    deviations = (values - values.mean(1, keepdims=True)).reshape(-1, 1)
    return Repeated.of(deviations, np.repeat(np.arange(n), k), np.tile(np.arange(k), n), k)


def test_deviations_are_parted_into_seeds_and_rest() -> None:
    values = np.array([[1.0, 2, 6], [3, 2, 4], [0, 1, 2], [5, 5, 8]])
    found = parted(values)
    means = (values - values.mean(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found.effects[:, 0], means)
    rest = values - values.mean(1, keepdims=True) - means
    np.testing.assert_allclose(found.rest[:, 0], rest.ravel(), atol=1e-12)
    assert (found.freedom, found.n_effects) == (3 * 2, 2)
    assert found.leaked == pytest.approx(1 / 4)
    assert found.single() == pytest.approx((rest**2).sum() / 6)


def test_parting_is_least_squares_where_seeds_are_missing() -> None:
    """Configurations with seeds 0 and 1, 1 and 2, all three, and seed 3 alone."""
    configuration_of = np.array([0, 0, 1, 1, 2, 2, 2, 3])
    seed_of = np.array([0, 1, 1, 2, 0, 1, 2, 3])
    values = np.array([1.0, 3, 2, 7, 0, 4, 5, 9])
    means = np.bincount(configuration_of, values) / np.bincount(configuration_of)
    found = Repeated.of((values - means[configuration_of])[:, None], configuration_of, seed_of, 4)
    dummies = np.concatenate([np.eye(4)[configuration_of], np.eye(4)[seed_of][:, 1:]], 1)
    fitted = dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0]
    np.testing.assert_allclose(found.rest[:, 0], values - fitted, atol=1e-12)
    assert (found.freedom, found.n_effects) == (7 - 3 - 2, 2)
    assert found.present.tolist() == [True, True, True, False]
    assert found.effects[3, 0] == 0


def test_variances_by_hand() -> None:
    """Two variants of two configurations and two seeds."""
    first = parted(np.array([[0.0, 2], [0, 4]]))  # effects -1.5 and 1.5, rest 0.5 everywhere
    second = parted(np.array([[0.0, 4], [0, 8]]))  # effects -3 and 3, rest 1 everywhere
    single = [4 * 0.25 / 1, 4 * 1 / 1]
    noise = [0.5 * variance for variance in single]
    gaps = 2 * 1.5**2
    own = (gaps - sum(noise)) / 2
    total = np.mean([2 * 1.5**2 - noise[0], 2 * 3.0**2 - noise[1]])
    typical = np.median(single)
    found = SeedVariances.of([first, second])
    assert found.common == pytest.approx([(3 * 2 * typical + total - own) / 4])
    assert found.own == pytest.approx([(3 * 0.05 * typical + own) / 4])
    assert (found.common_freedom, found.own_freedom) == (3 + 1, 3 + 1)


def test_many_seeds_give_the_true_variances() -> None:
    rng = np.random.default_rng(0)
    n, k = 6, 250
    common = 0.5 * rng.standard_normal(k)
    variants = [
        parted(common + 0.2 * rng.standard_normal(k) + scale * rng.standard_normal((n, k)))
        for scale in (0.1, 0.3, 0.8)
    ]
    found = SeedVariances.of(variants)
    for variant, scale in zip(variants, (0.1, 0.3, 0.8), strict=True):
        assert np.sqrt(variant.single()) == pytest.approx(scale, rel=0.05)
    assert np.sqrt(found.common) == pytest.approx(0.5, rel=0.12)
    assert np.sqrt(found.own) == pytest.approx(0.2, rel=0.25)
    assert (found.common_freedom, found.own_freedom) == (3 + k - 1, 3 + 2 * (k - 1))


def test_a_single_configuration_cannot_tell_seeds_from_trainings() -> None:
    found = parted(np.array([[1.0, 2, 3]]))
    np.testing.assert_allclose(found.rest[:, 0], [-1, 0, 1])
    assert (found.freedom, found.is_parted) == (2, False)
    # Nothing but the prior, which counts as 3 degrees of freedom beside the 2 of three seeds.
    assert SeedVariances.of([found]).common == pytest.approx([3 * 2 / 5])
    assert SeedVariances.of([found]).own == pytest.approx([0])


def test_without_repeats_nothing_is_common() -> None:
    found = Repeated.of(np.zeros((4, 2)), np.arange(4), np.zeros(4, np.int64), 1)
    assert (found.freedom, found.n_effects) == (0, 0)
    np.testing.assert_array_equal(SeedVariances.of([found]).common, [0, 0])
    assert SeedVariances.of([]).common == pytest.approx([0])


def test_very_many_seeds_count_as_single_trainings() -> None:
    n = MOST_SEEDS + 1
    deviations = np.tile([[-1.0], [1.0]], (n // 2, 1))
    found = Repeated.of(deviations, np.repeat(np.arange(n // 2), 2), np.arange(n - 1), n)
    assert (found.freedom, found.n_effects) == (n // 2, 0)
    assert found.single() == pytest.approx([2])


def of_seeds(curves: Curves, label: str, seeds: Sequence[int]) -> Curves:
    """The same curves if the runs of a variant had been trained with other seeds."""
    runs = curves._runs
    own = np.concatenate([r for r, name in zip(runs.configurations, runs.labels, strict=True)
                          if name == label])  # fmt: skip
    seed_of = runs.seed_of.copy()
    seed_of[own] = np.array(seeds)[seed_of[own]]
    return Curves(replace(runs, seed_of=seed_of), curves.keys)


def test_what_is_common_cancels_between_curves_of_the_same_seeds() -> None:
    cell = Cell({k: Sweep(power, 8, 3) for k in "ab"}, noise=0.03, common=0.2)
    same = drawn(cell, np.random.default_rng(0))
    others = of_seeds(same, "b", [3, 4, 5])
    one = of_seeds(same, "b", [2, 3, 4])
    gaps = [curves.gap("a", "b", 0) for curves in (same, one, others)]
    errors = []
    for gap in gaps:
        assert gap is not None
        errors.append(gap.error)
    assert errors[0] < 0.03 < 0.1 < errors[1] < errors[2]
    # A curve by itself moves with its seeds, in whichever company.
    for curves in (same, others):
        _, reading = curves.over[0].curve("a")[20]
        assert 0.05 < reading.error < 0.3
        assert reading.variances[1] > 0.8 * reading.variances.sum()
    band, other = (curves.over[0].band("a", "b") for curves in (same, others))
    assert band.error.max() < 0.05 < 0.1 < other.error.min()
    assert other.freedom < 10 < band.freedom


def test_readings_hold_the_variance_of_seeds() -> None:
    """For parallel curves, the error is that of the seeds' common part, in units of the range."""
    cell = Cell({k: Sweep(power, 8, 2) for k in "ab"}, noise=0.0, common=0.1)
    curves = drawn(cell, np.random.default_rng(3))
    splines = curves.over[0]
    variances = splines._seeds
    for label in "ab":
        observed: Observations = splines._observed[label]
        assert observed.shares.shape == (8, 2)
        np.testing.assert_array_equal(observed.shares, np.full((8, 2), 0.5))
    _, reading = splines.curve("a")[len(splines.curve("a")) // 2]
    shape = splines._fits["a"].shape.mean()
    expected = (variances.common[0] + variances.own[0]) / 2 * shape * splines._unit[1] ** 2
    assert reading.variances[1] == pytest.approx(expected, rel=0.1)


def group_of(values: np.ndarray) -> Group:
    """Runs of variants a and b. [2, n_configurations, n_seeds]"""
    made = []
    for label, part in zip("ab", values, strict=True):
        for i, row in enumerate(part):
            for seed, value in enumerate(row):
                one = result(f"{label}-{i}-{seed}", label, {"l0": value, "ce_degradation": 2.0},
                             coefficient=0.1 * (i + 1))  # fmt: skip
                made.append(one.model_copy(
                    update={"run": one.run.model_copy(update={"seed": seed})}
                ))  # fmt: skip
    (group,) = comparable(made)
    return group


def test_drawn_seeds_move_all_runs_alike() -> None:
    """Both variants' deviations are those of seeds, but for 1 % of each run's own."""
    rng = np.random.default_rng(0)
    moved = np.array([0.7, 1.0, 1.3])
    values = np.array([10.0, 40.0])[:, None, None] * moved * rng.normal(1, 0.01, (2, 5, 3))
    group = group_of(values)
    tiled = np.tile(group.table[list(KEYS)].to_numpy(float), (4000, 1, 1))
    again = with_resampled_seeds(group, tiled, np.random.default_rng(1))
    np.testing.assert_array_equal(again[..., 1], tiled[..., 1])
    assert (again > 0).all()
    of = {(r.run.label, r.run.coefficient, r.run.seed): i for i, r in enumerate(group.results)}
    relative = again[..., 0] / tiled[0, :, 0].reshape(-1, 3).mean(1).repeat(3)
    one, two = (relative[:, of[label, 0.1, 0]] for label in "ab")
    assert np.corrcoef(one, two)[0, 1] > 0.97
    other = relative[:, of["a", 0.1, 1]]
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    # The variance is a mean of what was found, with 2 degrees of freedom, and of the prior's 3,
    # which is near zero beside it; t with 5 degrees of freedom has 5 / 3 of it.
    expected = np.sqrt((2 * 0.3**2 / 5) * 5 / 3)
    assert np.std(one) == pytest.approx(expected, rel=0.1)
    # Means over seeds, from which hypervolumes are computed, move as well.
    means = over_seeds(group, tiled, np.random.default_rng(1))
    assert np.std(means[:, 0, 0]) == pytest.approx(10 * expected / np.sqrt(3), rel=0.1)


def test_runs_without_a_seed_share_one_of_their_own() -> None:
    made = [result(f"{label}{i}", label, {"l0": 1.0 + i}) for label in "abc" for i in range(2)]
    unknown = [
        one.model_copy(update={"run": one.run.model_copy(update={"seed": None})})
        if one.run.label != "a"
        else one
        for one in made
    ]
    (group,) = comparable(unknown)
    named = dict(zip(group.table["name"], group.seed_of.tolist(), strict=True))
    assert named["a0"] == named["a1"]
    assert named["b0"] == named["b1"]
    assert len(set(named.values())) == 3
