"""Savings, leads, seeds and the sentence: by hand, and against slow computations."""

import math

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri, stdtrit

from prolu_eval.analysis import (
    Frontier,
    comparable,
    group_frontier,
    ratios,
    resample,
    slack,
    statement,
)
from prolu_eval.analysis.attainment import _corners, attained, surfaces
from prolu_eval.analysis.bootstrap import (
    over_seeds,
    training_variances,
    with_resampled_seeds,
)
from prolu_eval.analysis.curves import Lines
from prolu_eval.analysis.epsilon import epsilons
from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import nondominated
from prolu_eval.analysis.statement import headline, listed
from prolu_eval.errors import UsageError
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS
from prolu_eval.results import PER_SEQUENCE, Result
from tests.helpers.made_results import drawn, result

KEYS = ("l0", "ce_degradation")


def runs(label: str, *points: tuple[float, float | None], key: str = KEYS[1]) -> list[Result]:
    return [result(f"{label}{i}", label, {"l0": x, key: y}) for i, (x, y) in enumerate(points)]


def group_of(*results: list[Result]) -> Group:
    (group,) = comparable([r for part in results for r in part])
    return group


def with_sequences(results: list[Result], spread: float, seed: int = 0) -> list[Result]:
    """Results whose L0 and CE degradation vary from sequence to sequence around their values."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(9).lognormal(0, 0.3, 64)
    made = []
    for r in results:
        l0, ce = (r.metrics[key].value or 0.0 for key in KEYS)
        own = rng.lognormal(0, spread, (2, 64)) * shared
        own /= own.mean(1, keepdims=True)
        sums = {"n": np.ones(64), "n_next": np.ones(64), "l0": l0 * own[0],
                "ce_clean": np.full(64, 3.0), "ce_spliced": 3 + ce * own[1]}  # fmt: skip
        arrays = {PER_SEQUENCE + name: values for name, values in sums.items()}
        made.append(r.model_copy(update={"arrays": arrays}))
    return made


def saving(found: Frontier, first: str, second: str, metric: str) -> float:
    (chosen,) = (
        s for s in found.savings if (s.first, s.second, s.metric) == (first, second, metric)
    )
    assert chosen.amount.value is not None
    return chosen.amount.value


def test_savings_of_parallel_frontiers_by_hand() -> None:
    # CE = 8 / L0 for a and 16 / L0 for b: half the L0 at equal CE, half the CE at equal L0.
    a = runs("a", (2, 4), (4, 2), (8, 1), (8, 3))
    b = runs("b", (2, 8), (4, 4), (8, 2), (16, 1))
    found = group_frontier(group_of(a, b), *KEYS)
    assert saving(found, "a", "b", "l0") == pytest.approx(0.5)
    assert saving(found, "a", "b", "ce_degradation") == pytest.approx(0.5)
    assert saving(found, "b", "a", "l0") == pytest.approx(-1.0)
    ranges = {s.metric: s.range for s in found.savings if s.first == "a"}
    assert ranges["l0"] == pytest.approx((1, 4))
    assert ranges["ce_degradation"] == pytest.approx((2, 8))


def test_savings_where_the_gap_changes_by_hand() -> None:
    # At equal L0 the ratio of CE is 1 at L0 1 and 1/4 at L0 4, on a line in logarithms.
    a, b = runs("a", (1, 4), (4, 1)), runs("b", (1, 4.0), (4, 3.999999999))
    found = group_frontier(group_of(a, b), *KEYS)
    assert saving(found, "a", "b", "ce_degradation") == pytest.approx(1 - math.sqrt(1 / 4))


def test_savings_of_a_maximised_metric_are_differences() -> None:
    a = runs("a", (1, 0.5), (4, 0.9), key="explained_variance")
    b = runs("b", (1, 0.3), (4, 0.7), key="explained_variance")
    found = group_frontier(group_of(a, b), "l0", "explained_variance")
    assert saving(found, "a", "b", "explained_variance") == pytest.approx(0.2)
    # a reaches 0.5 at L0 1 and 0.7 at L0 2; b at L0 2 and 4.
    assert saving(found, "a", "b", "l0") == pytest.approx(0.5)


@pytest.mark.parametrize(
    "points",
    [[(1, 1)], [(100, 3), (200, 2)], [(2.0, None), (3.0, None)], [(5, -1), (4, 0)]],
    ids=["single run", "no shared range", "undefined", "nothing lost"],
)
def test_no_saving_without_a_shared_range(points: list[tuple[float, float | None]]) -> None:
    found = group_frontier(group_of(runs("a", *points), runs("b", (2, 8), (4, 4))), *KEYS)
    by_l0 = [s for s in found.savings if s.metric == "ce_degradation"]
    assert all(s.amount.value is None and s.range is None for s in by_l0)
    assert found.leads[0].range is None


numbers = st.one_of(st.integers(-3, 3).map(float), st.just(math.nan))


@given(
    st.lists(st.lists(st.tuples(numbers, numbers), min_size=6, max_size=6), min_size=1, max_size=4)
)
def test_lines_are_the_frontiers_and_interpolate_them(
    sets: list[list[tuple[float, float]]],
) -> None:
    lines = Lines.through(np.array(sets))
    turned = Lines.through(np.array(sets)[..., ::-1])
    np.testing.assert_array_equal(lines.turned.corners, turned.corners)
    for points, corners, n in zip(sets, lines.corners, lines.counts, strict=True):
        expected = sorted(
            {p for p, on in zip(points, nondominated(np.array(points)), strict=True) if on}
        )
        assert [tuple(c) for c in corners[:n]] == expected
        assert np.isnan(corners[n:]).all()
    levels = np.linspace(-3, 3, 13)
    for corners, n, values in zip(lines.corners, lines.counts, lines.at(levels), strict=True):
        if n < 2:
            assert np.isnan(values).all()
            continue
        x, y = corners[:n].T
        inside = (levels >= x[0]) & (levels <= x[-1])
        np.testing.assert_allclose(values[inside], np.interp(levels[inside], x, y), atol=1e-12)


points_ = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8)


@given(points_, points_)
def test_epsilon_equals_brute_force_and_moocore(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    a, b = np.array(first, float), np.array(second, float)
    span = np.ptp(np.concatenate([a, b]), axis=0)
    span[span == 0] = 1
    found, _ = epsilons({"a": a[None], "b": b[None]}, 0)
    ratios = [[max(p / q) for p in a] for q in b]
    gaps = [[max((p - q) / span) for p in a] for q in b]
    assert found.multiplicative.value == pytest.approx(max(min(row) for row in ratios))
    assert found.additive.value == pytest.approx(max(min(row) for row in gaps))
    assert found.multiplicative.value == pytest.approx(moocore.epsilon_mult(a, ref=b))
    assert found.additive.value == pytest.approx(moocore.epsilon_additive(a / span, ref=b / span))
    assert found.additive.ci95 == (None, None)
    shifted, _ = epsilons({"a": a[None] - 1, "b": b[None]}, 0)
    assert (shifted.multiplicative.value is None) == ((a - 1 <= 0).any())


def test_an_epsilon_interval_by_hand() -> None:
    # Against (2, 2) and (1, 4), (3, 3) needs e^g = 1.5 and 3; (4, 4) decides nothing.
    points = {"a": np.array([[[3.0, 3]]]), "b": np.array([[[2.0, 2], [1, 4], [4, 4]]])}
    factors = np.exp(np.array([-0.1, 0, 0.1]))[:, None, None]
    a = np.concatenate([points["a"], points["a"] * factors])
    b = np.repeat(points["b"], 4, axis=0)
    found, back = epsilons({"a": a, "b": b}, 1000)
    # Only one gap may be the greatest, ln 3 with a standard error of 0.1.
    assert found.multiplicative.value == pytest.approx(3)
    low, high = found.multiplicative.ci95
    quantile = stdtrit(1000, 0.975)  # of a normal deviate, widened for 1,000 degrees of freedom
    assert high == pytest.approx(3 * math.exp(0.1 * quantile))
    drawn = np.quantile([-1, 0, 1], 0.975) * quantile / ndtri(0.975)
    assert low == pytest.approx(3 * math.exp(-0.1 * drawn))
    # For (2, 2) and (1, 4) to dominate (3, 3): 2/3 and 4/3.
    assert back.multiplicative.value == pytest.approx(2 / 3)


def test_an_epsilon_that_several_gaps_may_decide_is_bounded_by_all() -> None:
    rng = np.random.default_rng(0)
    marks = np.stack([2.0 ** np.arange(8), 2.0 ** -np.arange(8)], 1)
    noise = np.exp(rng.normal(0, 0.1, (20_001, 8, 1)))
    noise[0] = 1
    found, _ = epsilons({"a": marks * noise, "b": np.tile(marks, (20_001, 1, 1))}, 10**6)
    low, high = found.multiplicative.ci95
    assert found.multiplicative.value == 1
    # The greatest of eight deviates is below 2.73 in 97.5 % of cases, one below 1.96.
    assert math.log(low or 0) == pytest.approx(-0.273, abs=0.01)
    assert math.log(high or 0) == pytest.approx(0.196, abs=0.01)


def test_what_varies_in_no_replicate_has_no_spread() -> None:
    points = {"a": np.ones((4, 1, 2)), "b": np.full((4, 1, 2), 2.0)}
    found, _ = epsilons(points, 9)
    assert found.multiplicative.ci95 == pytest.approx((0.5, 0.5))
    points["a"][2, 0, 0] = math.nan
    assert epsilons(points, 9)[0].additive.ci95 == (None, None)
    points["a"][:] = math.nan
    assert epsilons(points, 9)[0].additive.value is None


def test_a_reference_of_ones_own() -> None:
    group = group_of(runs("a", (10, 4), (30, 1)))
    found = group_frontier(group, *KEYS, reference={"l0": 40, "ce_degradation": 4})
    assert (found.reference, found.hypervolume.value) == ((40, 4), 10 * 3)
    assert group_frontier(group, *KEYS, reference={"l0": 40}).reference == pytest.approx((40, 4.3))
    for keys in (("l0",), ("l0", "l0"), ("l0", "mse", "l1", "kl")):
        with pytest.raises(UsageError, match="two or three"):
            group_frontier(group, *keys)


def repeated(label: str, *points: tuple[float, float, int]) -> list[Result]:
    """Runs of one configuration with given seeds."""
    made = []
    for x, y, seed in points:
        r = result(f"{label}-s{seed}", label, {"l0": x, "ce_degradation": y})
        made.append(r.model_copy(update={"run": r.run.model_copy(update={"seed": seed})}))
    return made


def test_seeds_count_once_by_their_mean() -> None:
    group = group_of(repeated("a", (2, 4, 0), (4, 2, 1)), repeated("b", (6, 6, 0)))
    found = group_frontier(group, *KEYS, reference=dict(zip(KEYS, (6, 6), strict=True)))
    assert [rows.tolist() for rows in group.configurations] == [[0, 1], [2]]
    assert (found.hypervolume.value, found.variants[0].runs) == ((6 - 3) * (6 - 3), 2)
    assert found.frontier == ["a-s0", "a-s1"], "members are single runs"
    surfaces = found.surfaces["a"]
    assert surfaces["best"].corners == [(2, 4), (4, 2)]
    assert surfaces["worst"].corners == [(4, 4)]
    assert surfaces["best"].better == [], "nothing to resample"
    assert "b" not in found.surfaces
    twice = group_of(repeated("a", (2, 4, 0)), repeated("a", (4, 2, 0)))
    assert len(twice.configurations) == 2, "the same seed again is no repetition"


def test_bands_of_surfaces_by_hand() -> None:
    # Two seeds at (1, e) and (e, 1): in logarithms (0, 1) and (1, 0). Along the middle diagonal
    # the best surface is crossed at (1, 1), as the worst; at the ends the best at the points.
    group = group_of(repeated("a", (1, math.e, 0), (math.e, 1, 1)))
    (runs,) = group.configurations
    costs = group.table[list(KEYS)].to_numpy(float)[runs]
    factors = np.exp(np.array([-0.1, 0, 0.1]))[:, None, None]
    found = surfaces(group, KEYS, costs * factors, 1)["a"]
    half = 0.1 * stdtrit(1, 0.975)
    for name in ("best", "median", "worst"):
        assert found[name].better[32] == pytest.approx([math.exp(1 - half)] * 2)
        assert found[name].worse[32] == pytest.approx([math.exp(1 + half)] * 2)
    assert found["best"].better[0] == pytest.approx((math.exp(-half), math.exp(1 - half)))
    assert found["best"].worse[-1] == pytest.approx((math.exp(1 + half), math.exp(half)))
    assert found["worst"].worse[0] == pytest.approx((math.exp(1 + half), math.exp(2 + half)))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=4, max_size=12))
def test_surfaces_are_crossed_at_their_corners(points: list[tuple[int, int]]) -> None:
    made = np.array(points, float)
    sets = np.arange(len(points)) % 4
    for k, level in ((1, 25.0), (2, 50.0), (4, 100.0)):
        corners = _corners(made, sets, level)
        np.testing.assert_array_equal(attained(made[None], sets, corners)[k - 1], 0)


def test_a_surface_is_of_seeds_whatever_the_order_of_runs() -> None:
    # Seed 0 reaches (1, 4) and (4, 1), seed 1 (2, 2) and (5, 5): the runs' order mixes them.
    made = []
    for i, (zero, one) in enumerate([((1, 4), (2, 2)), ((4, 1), (5, 5))]):
        for r in repeated(f"c{i}", (*zero, 0), (*one, 1)):
            changes = {"label": "a", "coefficient": 0.1 * (i + 1)}
            made.append(r.model_copy(update={"run": r.run.model_copy(update=changes)}))
    found = surfaces(group_of(made), KEYS)["a"]
    assert found["best"].corners == [(1, 4), (2, 2), (4, 1)]
    assert found["worst"].corners == [(2, 4), (4, 2)]


def test_a_variant_whose_trainings_vary_more_has_its_own_scatter() -> None:
    wide = repeated("a", (2, 4, 0), (8, 4, 1))  # L0 off its mean of 5 by 60 %
    narrow = [*repeated("b", (9, 4, 0), (11, 4, 1)), *repeated("c", (9, 2, 0), (11, 2, 1))]
    group = group_of(wide, narrow)
    values = group.table[list(KEYS)].to_numpy(float)
    found = training_variances(group, values)[:, 0]
    pooled = 2 * (0.6**2 + 0.1**2 + 0.1**2) / 3
    assert found == pytest.approx([5**2 * 2 * 0.6**2 / 2, 10**2 * pooled / 2, 10**2 * pooled / 2])


def test_other_seeds_keep_means_and_spread() -> None:
    made = [repeated(label, *[(m + d, 2 * m - d, s) for s, d in enumerate((-1, 0, 1))])
            for label, m in (("a", 10), ("b", 40))]  # fmt: skip
    group = group_of(*made, runs("c", (3, 3)))
    values = np.tile(group.table[list(KEYS)].to_numpy(float), (20_000, 1, 1))
    again = with_resampled_seeds(group, values, np.random.default_rng(0))
    np.testing.assert_array_equal(again[:, 6], values[:, 6])
    # Deviations -1, 0, 1 have a standard deviation of 1; those drawn are as large.
    np.testing.assert_allclose(again[:, :3].mean(0), [[10, 20]] * 3, atol=0.05)
    np.testing.assert_allclose(again[:, :6].std(0), 1, atol=0.05)
    over = over_seeds(group, values, np.random.default_rng(0))
    np.testing.assert_allclose(over[:, 0], again[:, :3].mean(1))


def test_replicates_are_metrics_of_resampled_sequences() -> None:
    rng = np.random.default_rng(0)
    group = group_of([drawn("a", "x", rng, 3, 1), drawn("b", "y", rng, 9, 0.5)])
    keys = ("l0", "ce_degradation", "explained_variance")
    found = resample(group, keys, n_replicates=20, seed=3)
    assert found is not None
    counts = np.random.default_rng(3).multinomial(31, np.full(32, 1 / 32), 20)
    for i, r in enumerate(group.results):
        for key in keys:
            for count, value in zip(counts, found.values[key][:, i], strict=True):
                sums = {k: v * count for k, v in r.per_sequence().items()}
                assert value == pytest.approx(estimate(METRICS[key], sums).value)
    assert resample(group_of(runs("a", (1, 1))), keys) is None, "no sums, no replicates"


def test_membership_and_intervals() -> None:
    a = with_sequences(runs("a", (2, 4), (4, 2), (8, 1)), 0.02)
    b = with_sequences(runs("b", (2, 9), (4, 5), (8, 2.5)), 0.02, seed=1)
    group = group_of(a, b)
    found = group_frontier(group, *KEYS, replicates=resample(group, KEYS, 200))
    tied = found.membership.pop("b0")
    assert 0 < tied < 1, "b0 ties with a0 in L0: either may be lower"
    assert found.membership == {"a0": 1, "a1": 1, "a2": 1, "b1": 0, "b2": 0}
    (best, _) = found.variants
    low, high = best.hypervolume.ci95
    assert low is not None
    assert high is not None
    assert low < (best.hypervolume.value or 0) < high
    (l0,) = (s for s in found.savings if s.first == "a" and s.metric == "l0")
    low, high = l0.amount.ci95
    assert low is not None
    assert high is not None
    assert low < (l0.amount.value or 0) < high
    # Three runs each leave what lies between them open: that is most of the interval.
    assert high - low < 0.2
    assert l0.shares[0] + l0.shares[1] > l0.shares[2]


def on_curve(label: str, factor: float, low: float, high: float, n: int) -> list[Result]:
    """Runs with CE degradation factor / L0, at L0 in equal ratios."""
    return runs(label, *[(x, factor / x) for x in np.geomspace(low, high, n)])


def stated(group: Group, *keys: str) -> str:
    return statement(group_frontier(group, *(keys or KEYS), replicates=resample(group, KEYS, 200)))


def test_the_sentence_states_who_is_better_with_its_size() -> None:
    group = group_of(
        with_sequences(on_curve("a", 8, 2, 32, 7), 0.02),
        with_sequences(on_curve("b", 16, 2, 32, 7), 0.02, seed=1),
    )
    text = stated(group)
    assert text.startswith("a is better than b: 50.")
    assert "fewer active features at equal CE degradation, on average over 0.50 to 4.0; " in text
    assert text.endswith("; a is ahead at every single L0 from 2.0 to 32.")
    assert "dominates" not in text, "of points alone"


def test_the_sentence_says_who_is_better_where_frontiers_cross() -> None:
    steep = [(x, 64 / x**1.5) for x in np.geomspace(2, 128, 9)]
    flat = [(x, 8 / x**0.5 / 2) for x in np.geomspace(2, 128, 9)]  # they cross at L0 16
    group = group_of(
        with_sequences(runs("a", *flat), 0.02), with_sequences(runs("b", *steep), 0.02, seed=1)
    )
    (lead,) = group_frontier(group, *KEYS, replicates=resample(group, KEYS, 200)).leads
    assert lead.first_ahead[0][0] == pytest.approx(2)
    assert lead.first_ahead[-1][1] < 16 < lead.second_ahead[0][0]
    assert lead.second_ahead[-1][1] == pytest.approx(128)
    text = stated(group)
    assert "a and b are tied on average; a is ahead at every single L0 from 2.0 to 1" in text
    assert " and b is ahead at every single L0 from 1" in text


def glance(factors: dict[str, float], n: int = 7) -> tuple[Frontier, str]:
    """The headline of variants on curves that are higher by a factor."""
    made = [with_sequences(on_curve(label, factor, 2, 64, n), 0.02, seed=i)
            for i, (label, factor) in enumerate(factors.items())]  # fmt: skip
    group = group_of(*made)
    found = group_frontier(group, *KEYS, replicates=resample(group, KEYS, 200))
    return found, headline(found)


def test_at_a_glance_the_best_is_named_with_what_it_saves() -> None:
    found, text = glance({"a": 8, "b": 10, "c": 16, "d": 20})
    saved = {s.second: s.amount for s in found.savings if (s.first, s.metric) == ("a", "l0")}
    assert text == (
        f"a is best: at equal CE degradation it has {saved['b']:%} fewer active features than b "
        f"and {saved['c']:%} fewer active features than c. 1 further variant is in the table."
    )


def test_at_a_glance_all_that_are_tied_are_named_and_what_all_of_them_save() -> None:
    found, text = glance({"a": 8, "b": 8, "c": 8.05, "d": 16})
    saved = {s.first: s.amount for s in found.savings if (s.second, s.metric) == ("d", "l0")}
    names = [place.label for place in found.ranking][:3]
    least, most = (end(names, key=lambda label: saved[label].value or 0) for end in (min, max))
    assert text == (
        f"{names[0]}, {names[1]} and {names[2]} are tied within what these runs can tell. "
        f"All of them are better than d, with {saved[least]:%} ({least}) to {saved[most]:%} "
        f"({most}) fewer active features at equal CE degradation."
    )
    _, text = glance({"a": 8, "b": 8})
    assert "are tied within what these runs can tell: " in text
    assert "fewer active features at equal CE degradation, on average over " in text


def test_at_a_glance_nothing_is_said_of_variants_that_share_no_range() -> None:
    group = group_of(
        with_sequences(on_curve("a", 8, 2, 32, 7), 0.02),
        with_sequences(on_curve("b", 16, 2, 32, 7), 0.02, seed=1),
        with_sequences(on_curve("c", 8, 200, 400, 3), 0.02, seed=2),
    )
    found = group_frontier(group, *KEYS, replicates=resample(group, KEYS, 200))
    text = headline(found)
    assert "a is better than b: 50." in text
    assert "not comparable along their frontiers" in text
    assert " is best" not in text


def test_names_are_listed_as_sentences_have_them() -> None:
    assert [listed(list("abcdef"[:n])) for n in (1, 2, 3, 6)] == [
        "a", "a and b", "a, b and c", "a, b, c and 3 more",
    ]  # fmt: skip


def test_the_sentence_refuses_what_the_data_does_not_support() -> None:
    alone = group_of(runs("a", (2, 4), (4, 2)))
    assert "only variant" in statement(group_frontier(alone, *KEYS))
    bare = group_of(runs("a", (2, 4), (4, 2)), runs("b", (2, 8), (4, 4)))
    assert "lack the sums per sequence" in statement(group_frontier(bare, *KEYS))
    noisy = group_of(
        with_sequences(runs("a", (2, 4), (4, 2)), 1.5),
        with_sequences(runs("b", (2, 4.1), (4, 2.1)), 1.5, seed=1),
    )
    assert stated(noisy).startswith("a and b are tied within what these runs can tell: a has ")
    three = statement(group_frontier(bare, "l0", "ce_degradation", "mse"))
    assert three.startswith("No lead, saving or attainment surface is stated for three objectives")


def test_a_run_that_is_better_on_both_is_said_to_be_where_no_range_is_shared() -> None:
    made = [with_sequences(runs(label, point), 0.05, seed=i) for i, (label, point) in
            enumerate({"a": (10, 1), "b": (20, 2), "c": (30, 3), "d": (5, 9)}.items())]  # fmt: skip
    group = group_of(*made)
    found = group_frontier(group, *KEYS, replicates=resample(group, KEYS, 200))
    assert {(d.better, d.worse) for d in found.dominations} == {
        ("a0", "b0"), ("a0", "c0"), ("b0", "c0"),
    }  # fmt: skip
    assert found.ranking[0].label in ("a", "d")
    text = statement(found, "a", ["b", "d"])
    assert "a and b are not comparable along their frontiers: no shared range; a0 is better" in text
    assert "no run of either is better than one of the other on both" in text
    ranks = {place.label: (place.rank, place.tied_with) for place in found.ranking}
    assert ranks["a"] == (1, ("d",))
    assert ranks["b"] == (2, ("d",))
    assert ranks["c"] == (3, ("d",))


def test_a_metric_at_equal_values_of_another_by_hand() -> None:
    # L1 is 2 L0 for a and L0 for b, which reach L0 1 to 8 and 2 to 16.
    made = [result(f"a{i}", "a", {"l0": x, "l1": 2 * x}) for i, x in enumerate((8, 1, 4))]
    made += [result(f"b{i}", "b", {"l0": x, "l1": x}) for i, x in enumerate((2, 16))]
    made += [result("c", "c", {"l0": 3, "l1": 3}), result("d", "d", {"l0": 3, "l1": None})]
    (found,) = ratios(group_of(made), "l1", "l0", ["a", "b", "c", "d"])
    assert (found.first, found.second) == ("a", "b")
    assert found.ratio.value == pytest.approx(2)
    assert found.range == pytest.approx((2, 8))
    assert found.ratio.ci95 == (None, None)
    assert str(found) == "At equal L0, a has 2 times the L1 of b (over [2, 8])."


def test_a_ratio_has_an_interval_where_sequences_can_be_resampled() -> None:
    rng = np.random.default_rng(1)
    made = [drawn(f"{label}{x}", label, rng, x, 1 / x) for label in "ab" for x in (3, 9, 27)]
    group = group_of(made)
    (found,) = ratios(group, "ce_degradation", "l0", ["a", "b"], resample(group, KEYS, 200))
    low, high = found.ratio.ci95
    assert low is not None
    assert high is not None
    assert low < (found.ratio.value or 0) < high
    assert 0.8 < low < high < 1.2, "both have about the same"


def test_slack_by_hand() -> None:
    values = {"a": (1, 4, 9, 9), "b": (2, 2, 1, 5), "c": (3, 3, 5, 1)}
    made = [
        result(name, name, {"l0": x, "ce_degradation": y, "l1": u, "mse": v})
        for name, (x, y, u, v) in values.items()
    ]
    found = slack(group_of(made))
    assert (found.on_target_only, found.on_proxy_only, found.on_both) == (["a"], ["c"], ["b"])
