"""Frontiers and hypervolumes by hand, against brute force, and never across settings."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolu_eval.analysis import (
    comparable,
    group_frontier,
    hypervolume,
    is_nondominated,
    pareto_frontier,
    reference_point,
)
from prolu_eval.analysis.biases import bias_distribution
from prolu_eval.errors import UsageError
from tests.helpers.made_results import HOOK, result, setting

NAN = float("nan")
KEYS = ("l0", "ce_degradation")


def table(points: list[tuple[float, float]], y: str = "ce_degradation") -> pd.DataFrame:
    return pd.DataFrame(points, columns=["l0", y])


def test_frontier_by_hand_with_ties_duplicates_and_nan() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 1.0), (0.0, NAN)]
    frame = table(points)
    assert is_nondominated(frame, "l0", "ce_degradation").tolist() == [
        True, True, True, False, False, True, False,
    ]  # fmt: skip
    assert pareto_frontier(frame)["l0"].tolist() == [1, 2, 2, 4]
    # reference (4, 5): 2 x 2 for (2, 3), nothing for the rows at the edge
    # a tenth of the ranges, 3 and 4, beyond the worst, (4, 5)
    assert reference_point(frame, "l0", "ce_degradation") == pytest.approx((4.3, 5.4))
    assert hypervolume(frame, *KEYS, reference=(4, 5)) == 4
    assert hypervolume(frame, *KEYS, reference=(5, 6)) == 4 * 1 + 3 * 2 + 1 * 2


def test_direction_is_the_metrics_own() -> None:
    frame = table([(1.0, 0.5), (2.0, 0.9), (3.0, 0.8)], "explained_variance")
    assert pareto_frontier(frame, y="explained_variance")["l0"].tolist() == [1, 2]
    assert reference_point(frame, "l0", "explained_variance") == pytest.approx((3.2, 0.46))
    assert hypervolume(frame, "l0", "explained_variance", reference=(3, 0.5)) == pytest.approx(0.4)
    for key, message in (
        ("ce_clean", "no better direction"),
        ("speed", "is not a metric"),
        ("kl", "not measured"),
    ):
        with pytest.raises(UsageError, match=message):
            pareto_frontier(frame, y=key)


numbers = st.one_of(st.integers(0, 6).map(float), st.just(NAN))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30))
def test_frontier_equals_brute_force(points: list[tuple[float, float]]) -> None:
    got = is_nondominated(table(points), "l0", "ce_degradation")
    for i, (x, y) in enumerate(points):
        dominated = any(
            u <= x and v <= y and (u < x or v < y) for u, v in points if u == u and v == v
        )
        assert got[i] == (x == x and y == y and not dominated)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=30))
def test_frontier_of_three_equals_brute_force(points: list[tuple[float, float, float]]) -> None:
    frame = pd.DataFrame(points, columns=["l0", "mse", "explained_variance"])
    got = is_nondominated(frame, "l0", "mse", "explained_variance")
    signed = [(x, y, -z) for x, y, z in points]
    finite = [p for p in signed if all(v == v for v in p)]
    for on, p in zip(got, signed, strict=True):
        dominated = any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in finite)
        assert on == (p in finite and not dominated)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_hypervolume_of_three_equals_counting_cells(points: list[tuple[int, int, int]]) -> None:
    covered = np.zeros((5, 5, 5), bool)
    for x, y, z in points:
        covered[x:, y:, z:] = True
    keys = ("l0", "mse", "l1")
    frame = pd.DataFrame(np.array(points, float), columns=list(keys))
    assert hypervolume(frame, *keys, reference=(5, 5, 5)) == covered.sum()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_hypervolume_equals_counting_cells(points: list[tuple[int, int]]) -> None:
    covered = np.zeros((7, 7), bool)
    for x, y in points:
        covered[x:, y:] = True
    frame = table([(float(x), float(y)) for x, y in points])
    assert hypervolume(frame, *KEYS, reference=(7, 7)) == covered.sum()


def test_variants_of_a_group() -> None:
    results = [
        result("a1", "relu+l1", {"l0": 1, "ce_degradation": 4}),
        result("a2", "relu+l1", {"l0": 3, "ce_degradation": 3}),
        result("b1", "prolu/ste+l1", {"l0": 2, "ce_degradation": 2}),
        result("b2", "prolu/ste+l1", {"l0": 5, "ce_degradation": 1}),
        result("c", "alone", {"l0": 5, "ce_degradation": 4}),
        result("d", "unmeasured", {"l0": 5, "ce_degradation": None}),
    ]
    (group,) = comparable(results)
    assert group_frontier(group, *KEYS).reference == pytest.approx((5.4, 4.3)), (
        "a tenth beyond the worst"
    )
    found = group_frontier(group, *KEYS, reference={"l0": 5, "ce_degradation": 4})
    assert found.reference == (5, 4)
    assert found.frontier == ["a1", "b1", "b2"]
    assert found.hypervolume.value == 6
    by_label = {v.label: v for v in found.variants}
    assert [v.label for v in found.variants][:2] == ["prolu/ste+l1", "relu+l1"]
    relu = by_label["relu+l1"]
    assert (relu.frontier, relu.on_frontier, relu.hypervolume.value) == (["a1", "a2"], 1, 2)
    assert relu.hypervolume_share.value == pytest.approx(1 / 3)
    assert (by_label["alone"].hypervolume.value, by_label["alone"].frontier) == (0, ["c"])
    assert (by_label["unmeasured"].hypervolume.value, by_label["unmeasured"].frontier) == (0, [])
    # Without prolu/ste the others dominate 2 of 6, without relu still 6: b1 is at (2, 2).
    assert by_label["prolu/ste+l1"].exclusive_share.value == pytest.approx(2 / 3)
    assert relu.exclusive_share.value == 0
    assert found.hypervolume.ci95 == (None, None)


def test_different_settings_are_never_on_one_frontier() -> None:
    values = {"l0": 1.0, "ce_degradation": 1.0}
    results = [
        result("a", "x", values),
        result("b", "x", values),
        result("c", "x", values, at=setting(tokens_fingerprint="u" * 32)),
        result("d", "x", values, hook="blocks.2.hook_resid_post"),
        result("e", "x", values, at=setting(dtype="bfloat16")),
    ]
    groups = comparable(results)
    assert [[r.run.name for r in g.results] for g in groups] == [["a", "b"], ["c"], ["d"], ["e"]]
    named = f"{HOOK} of embedded on its own text, dtype float32, version tttttttt"
    assert groups[0].title == named
    assert len({group.title for group in groups}) == 4
    assert comparable(results[:2])[0].title == f"{HOOK} of embedded"
    assert comparable([]) == []


def test_bias_distribution_by_hand() -> None:
    found = bias_distribution(np.array([-2.0, -1.0, -1.0, 0.0, 2.0]), n_bins=4)
    assert found.negative_fraction == 0.6
    assert found.counts == (1, 2, 1, 1)
    assert found.edges == (-2, -1, 0, 1, 2)
    assert found.quantiles[2] == -1
    assert found.sketch == "▅█▅▅"
