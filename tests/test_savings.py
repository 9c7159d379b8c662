"""Savings, leads, stretches, seeds and the sentence: by hand, and against slow computations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolu_eval.analysis import (
    Frontier,
    comparable,
    frontier,
    ratios,
    resample,
    slack,
    statement,
)
from prolu_eval.analysis.curves import Lines
from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import epsilon, nondominated
from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS
from prolu_eval.results import PER_SEQUENCE, Result
from prolu_eval.statistics import estimate
from tests.made_results import drawn, result

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
    found = frontier(group_of(a, b), *KEYS)
    assert saving(found, "a", "b", "l0") == pytest.approx(0.5)
    assert saving(found, "a", "b", "ce_degradation") == pytest.approx(0.5)
    assert saving(found, "b", "a", "l0") == pytest.approx(-1.0)
    ranges = {s.metric: s.range for s in found.savings if s.first == "a"}
    assert ranges["l0"] == pytest.approx((1, 4))
    assert ranges["ce_degradation"] == pytest.approx((2, 8))


def test_savings_where_the_gap_changes_by_hand() -> None:
    # At equal L0 the ratio of CE is 1 at L0 1 and 1/4 at L0 4, on a line in logarithms.
    a, b = runs("a", (1, 4), (4, 1)), runs("b", (1, 4.0), (4, 3.999999999))
    found = frontier(group_of(a, b), *KEYS)
    assert saving(found, "a", "b", "ce_degradation") == pytest.approx(1 - math.sqrt(1 / 4))


def test_savings_of_a_maximised_metric_are_differences() -> None:
    a = runs("a", (1, 0.5), (4, 0.9), key="explained_variance")
    b = runs("b", (1, 0.3), (4, 0.7), key="explained_variance")
    found = frontier(group_of(a, b), "l0", "explained_variance")
    assert saving(found, "a", "b", "explained_variance") == pytest.approx(0.2)
    # a reaches 0.5 at L0 1 and 0.7 at L0 2; b at L0 2 and 4.
    assert saving(found, "a", "b", "l0") == pytest.approx(0.5)


@pytest.mark.parametrize(
    "points",
    [[(1, 1)], [(100, 3), (200, 2)], [(2.0, None), (3.0, None)], [(5, -1), (4, 0)]],
    ids=["single run", "no shared range", "undefined", "nothing lost"],
)
def test_no_saving_without_a_shared_range(points: list[tuple[float, float | None]]) -> None:
    found = frontier(group_of(runs("a", *points), runs("b", (2, 8), (4, 4))), *KEYS)
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
def test_epsilon_equals_brute_force(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    a, b = np.array(first, float), np.array(second, float)
    span = np.ptp(np.concatenate([a, b]), axis=0)
    span[span == 0] = 1
    multiplicative, additive = epsilon(a, b)
    ratios = [[max(p / q) for p in a] for q in b]
    gaps = [[max((p - q) / span) for p in a] for q in b]
    assert multiplicative == pytest.approx(max(min(row) for row in ratios))
    assert additive == pytest.approx(max(min(row) for row in gaps))
    assert epsilon(a - 1, b)[0] is None or (a - 1 > 0).all()


def test_stretches_are_analysed_apart() -> None:
    group = group_of(runs("a", (10, 4), (30, 1)), runs("b", (20, 3), (40, 2)))
    found = frontier(group, *KEYS, splits={"l0": [25]})
    below, above = found.stretches["l0 < 25"], found.stretches["l0 >= 25"]
    assert (below.frontier, below.reference) == (["a0", "b0"], (20, 4))
    assert (above.frontier, above.reference) == (["a1"], (40, 2))
    with pytest.raises(UsageError, match="not measured"):
        frontier(group, *KEYS, splits={"scale_consistency_additivity_x": [1]})
    three = frontier(group, *KEYS, splits={"l0": [25, 15]}).stretches
    assert {title: part.frontier for title, part in three.items()} == {
        "l0 < 15": ["a0"], "l0 >= 15 and l0 < 25": ["b0"], "l0 >= 25": ["a1"],
    }  # fmt: skip


def test_a_reference_of_ones_own() -> None:
    group = group_of(runs("a", (10, 4), (30, 1)))
    assert frontier(group, *KEYS, reference={"l0": 40}).reference == (40, 4)
    assert frontier(group, *KEYS, reference={"l0": 40}).hypervolume == 10 * 3
    for keys in (("l0",), ("l0", "l0"), ("l0", "mse", "l1", "kl")):
        with pytest.raises(UsageError, match="two or three"):
            frontier(group, *keys)


def repeated(label: str, *points: tuple[float, float, int]) -> list[Result]:
    """Runs of one configuration with given seeds."""
    made = []
    for x, y, seed in points:
        r = result(f"{label}-s{seed}", label, {"l0": x, "ce_degradation": y})
        made.append(r.model_copy(update={"run": r.run.model_copy(update={"seed": seed})}))
    return made


def test_seeds_count_once_by_their_mean() -> None:
    group = group_of(repeated("a", (2, 4, 0), (4, 2, 1)), repeated("b", (6, 6, 0)))
    found = frontier(group, *KEYS)
    assert [rows.tolist() for rows in group.configurations] == [[0, 1], [2]]
    assert (found.hypervolume, found.variants[0].runs) == ((6 - 3) * (6 - 3), 2)
    assert found.frontier == ["a-s0", "a-s1"], "members are single runs"
    surfaces = found.surfaces["a"]
    assert surfaces["best"] == [(2, 4), (4, 2)]
    assert surfaces["worst"] == [(4, 4)]
    assert "b" not in found.surfaces
    twice = group_of(repeated("a", (2, 4, 0)), repeated("a", (4, 2, 0)))
    assert len(twice.configurations) == 2, "the same seed again is no repetition"


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
    found = frontier(group, *KEYS, replicates=resample(group, KEYS, 200))
    tied = found.membership.pop("b0")
    assert 0 < tied < 1, "b0 ties with a0 in L0: either may be lower"
    assert found.membership == {"a0": 1, "a1": 1, "a2": 1, "b1": 0, "b2": 0}
    (best, _) = found.variants
    low, high = best.hypervolume_ci95
    assert low is not None
    assert high is not None
    assert low < best.hypervolume < high
    (l0,) = (s for s in found.savings if s.first == "a" and s.metric == "l0")
    low, high = l0.amount.ci95
    assert low is not None
    assert high is not None
    assert low < (l0.amount.value or 0) < high
    assert high - low < 0.02


def test_the_sentence_states_a_lead_with_its_size() -> None:
    a = with_sequences(runs("a", (2, 4), (4, 2), (8, 1)), 0.02)
    b = with_sequences(runs("b", (2, 8), (4, 4), (8, 2)), 0.02, seed=1)
    group = group_of(a, b)
    text = statement(frontier(group, *KEYS, replicates=resample(group, KEYS, 200)))
    assert text.startswith("a dominates b for L0 in [2, 8]. It uses 50 % [49")
    assert "less L0 at equal CE degradation (over [2, 4])." in text
    assert "sequences alone: one seed" in text


def test_the_sentence_says_who_leads_where_frontiers_cross() -> None:
    a = with_sequences(runs("a", (2, 4), (32, 1)), 0.02)
    b = with_sequences(runs("b", (2, 8), (32, 0.5)), 0.02, seed=1)
    group = group_of(a, b)
    (lead,) = frontier(group, *KEYS, replicates=resample(group, KEYS, 200)).leads
    assert lead.first_ahead[0][0] == pytest.approx(2)
    assert lead.first_ahead[-1][1] < 8 < lead.second_ahead[0][0], "they cross at L0 8"
    assert lead.second_ahead[-1][1] == pytest.approx(32)


def test_the_sentence_refuses_what_the_data_does_not_support() -> None:
    alone = group_of(runs("a", (2, 4), (4, 2)))
    assert "only variant" in statement(frontier(alone, *KEYS))
    bare = group_of(runs("a", (2, 4), (4, 2)), runs("b", (2, 8), (4, 4)))
    assert "no sums over sequences" in statement(frontier(bare, *KEYS))
    noisy = group_of(
        with_sequences(runs("a", (2, 4), (4, 2)), 1.5),
        with_sequences(runs("b", (2, 4.1), (4, 2.1)), 1.5, seed=1),
        with_sequences(runs("c", (300, 0.1)), 0.1, seed=2),
    )
    text = statement(frontier(noisy, *KEYS, replicates=resample(noisy, KEYS, 200)))
    assert "does not tell" in text or "share no range" in text
    assert "dominates" not in text
    assert "three objectives" in statement(frontier(bare, "l0", "ce_degradation", "mse"))


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
