"""Verdicts: tolerances, matching, results that cannot be compared, and frontiers."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prolu_eval.analysis import hypervolume as moocore_hypervolume
from prolu_eval.analysis.pareto import beyond_worst
from prolu_eval.comparison import (
    Comparison,
    ComparisonOptions,
    compare_results,
    judging,
    parse_tolerances,
)
from prolu_eval.comparison.frontier_tests import hypervolume_and_gradient
from prolu_eval.comparison.verdicts import WEAK, Judgement
from prolu_eval.errors import UsageError
from prolu_eval.intervals import contrast
from prolu_eval.metrics import METRIC_VERSION
from prolu_eval.results import Result
from tests.helpers.synthetic import Sae, result, sweep

OTHERS = np.arange(1000, 1256)


def tolerating(text: str, **options: Any) -> ComparisonOptions:
    """Options with these tolerances."""
    return ComparisonOptions(tolerances=parse_tolerances([text]), **options)


def row_of(found: Comparison, run: str, metric: str | None) -> Judgement:
    """The one row about a metric of a run."""
    (row,) = [row for row in found.rows if (row.run, row.metric) == (run, metric)]
    return row


@pytest.mark.parametrize(
    ("text", "baseline", "limit", "shown"),
    [
        ("l0=+1", 40.0, 1.0, "+1"),
        ("l0=2.5%", 40.0, 1.0, "+2.5%"),
        ("explained_variance=-0.01", 0.9, 0.01, "-0.01"),
        ("explained_variance=1%", -0.5, 0.005, "-1%"),
        ("ce_clean=1e-2", 3.0, 0.01, "±0.01"),
        ("ce_degradation=+-2%", 3.0, 0.06, "±2%"),
        ("ce_clean=+-2%", 3.0, 0.06, "±2%"),
        ("l0=±1", 40.0, 1.0, "±1"),
        ("l0=0", 40.0, 4e-5, "+0"),
        ("hypervolume=-2%", 5.0, 0.1, "-2%"),
    ],
)
def test_tolerances(text: str, baseline: float, limit: float, shown: str) -> None:
    (tolerance,) = parse_tolerances([text]).values()
    assert tolerance.limit(baseline) == pytest.approx(limit)
    assert str(tolerance) == shown


@pytest.mark.parametrize(
    "text",
    [
        "", "l0", "l0=", "l0=x", "l0=+1,l0=2", "loss=+1", "l0=-1", "explained_variance=+1%",
        "l0=1e999", "l0=+1;mse=2", "l0=nan",
    ],
)  # fmt: skip
def test_tolerances_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--tolerance"):
        parse_tolerances([text])


def test_nothing_changed_passes_with_zero_tolerance() -> None:
    runs = sweep()
    found = compare_results(runs, runs, tolerating("l0=0,ce_degradation=0,nmse=0,hypervolume=0"))
    assert found.verdict == "pass"
    assert {row.verdict for row in found.rows} == {"pass"}
    assert len(found.runs) == 30
    assert len(found.frontiers) == 3


def test_a_difference_is_a_regression_if_beyond_the_tolerance_and_there() -> None:
    base, worse = result(Sae()), result(Sae(encoder_noise=0.02))
    change = worse.metrics["nmse"].value - base.metrics["nmse"].value  # type: ignore[operator]
    for tolerance, verdict in ((change / 2, "regression"), (change * 2, "pass")):
        found = compare_results([worse], [base], tolerating(f"nmse={tolerance}"))
        assert found.verdict == verdict
        assert found.exit_code == (verdict == "regression")
        difference = row_of(found, "prolu/0.3", "nmse").difference
        assert difference is not None
        assert difference.value == pytest.approx(change)
    few = np.arange(4)  # a difference of the same size, on too few sequences to be sure
    unsure = compare_results(
        [result(Sae(encoder_noise=0.02), few)], [result(Sae(), few)], tolerating("ce_degradation=0")
    )
    assert unsure.verdict == "pass"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_so_few_sequences_cannot_pass(n: int) -> None:
    runs = sweep(np.arange(n))
    found = compare_results(runs, runs)
    assert (found.verdict, found.exit_code) == ("incomparable", 1)
    (row, *_) = found.runs
    assert f"{n} sequence" in (row.reason or "")
    assert "evaluate on at least 4 sequences" in (row.remedy or "")
    assert compare_results(sweep(np.arange(4)), sweep(np.arange(4))).verdict == "pass"


def test_what_is_detectable_of_a_proportional_worsening_is_caught() -> None:
    rng, n = np.random.default_rng(0), 20
    few = np.arange(n)
    base = result(Sae(), few)
    sums = base.per_sequence()
    hard = rng.gamma(8, 1 / 8, n)
    old = {**base.arrays, "per_sequence/l0": sums["n"] * 5 * hard}
    then = base.model_copy(update={"arrays": old})

    def worse(by: float) -> Result:
        own = sums["n"] * 5 * hard * (1 + by / 5) * (1 + 0.05 * rng.normal(0, 1, n))
        return base.model_copy(update={"arrays": {**base.arrays, "per_sequence/l0": own}})

    rows = [compare_results([worse(0)], [then], tolerating("l0=+2%")).rows[0] for _ in range(100)]
    detectable = float(np.mean([row.detectable for row in rows]))
    caught = [compare_results([worse(detectable)], [then], tolerating("l0=+2%")).exit_code
              for _ in range(300)]  # fmt: skip
    assert np.mean(caught) > 0.9


def test_what_passes_for_want_of_tokens_says_so() -> None:
    few = np.arange(5)
    base, worse = [result(Sae(), few)], [result(Sae(encoder_noise=0.01), few)]
    (row,) = compare_results(worse, base, tolerating("ce_degradation=+1%")).rows
    assert (row.verdict, row.reason) == ("pass", WEAK)
    assert row.detectable is not None
    assert row.limit is not None
    assert row.detectable > 2 * row.limit
    (row,) = compare_results(worse, base, tolerating("ce_degradation=+500%")).rows
    assert row.reason is None


@pytest.mark.parametrize("tolerance", ["ce_degradation=+3%", "ce_degradation=0.001"])
def test_what_these_tokens_are_too_few_for_is_said_with_how_many_would_do(tolerance: str) -> None:
    few = np.arange(5)
    damages = [(0.3, 0.01), (0.5, 0.001)]
    weak = [result(Sae(threshold=t, encoder_noise=noise), few) for t, noise in damages]
    base = [result(Sae(threshold=t), few) for t, _ in damages]
    found = compare_results(weak, base, tolerating(tolerance))
    (sentence,) = found.too_few_tokens
    worst = row_of(found, "prolu/0.3", "ce_degradation")
    assert worst.detectable is not None
    assert worst.limit is not None
    assert f"of prolu/0.3 is detected reliably only from {worst.shown_detectable} on" in sentence
    assert worst.shown_detectable.endswith("%") == tolerance.endswith("%")
    (times,) = re.findall(r"evaluate on ([\d.]+) times as many", sentence)
    # With so many times the tokens, every change of twice the tolerance is sure to be found.
    at_most = worst.detectable / np.sqrt(float(times))
    assert at_most <= 2 * worst.limit
    assert at_most == pytest.approx(2 * worst.limit, rel=0.05)
    hopeless = compare_results(weak, base, tolerating("ce_degradation=0"))
    assert [s.rsplit("; ")[-1] for s in hopeless.too_few_tokens] == ["choose a larger tolerance"]
    assert compare_results(weak, base, tolerating("ce_degradation=+500%")).too_few_tokens == []


@pytest.mark.parametrize("alpha", [0.0, -1.0, 0.6, float("nan")])
def test_an_error_rate_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match="--alpha"):
        ComparisonOptions(alpha=alpha)


def test_what_is_sure_to_be_caught_is_caught_in_95_of_100_cases() -> None:
    rng, n, limit = np.random.default_rng(0), 64, 0.05
    few = np.arange(n)
    base = result(Sae(), few)
    sums = base.per_sequence()

    def shifted(by: float) -> Result:
        moved = sums["l0"] + sums["n"] * (by + rng.normal(0, 1, n))
        arrays = {**base.arrays, "per_sequence/l0": moved}
        return base.model_copy(update={"arrays": arrays})

    rows = [
        compare_results([shifted(0)], [base], tolerating(f"l0={limit}")).rows[0] for _ in range(200)
    ]
    detectable = float(np.mean([row.detectable for row in rows]))
    caught = [compare_results([shifted(detectable)], [base], tolerating(f"l0={limit}")).exit_code
              for _ in range(400)]  # fmt: skip
    assert 0.9 < np.mean(caught) < 0.99


def test_a_tolerance_either_way_judges_improvements_as_changes() -> None:
    base, better = result(Sae(encoder_noise=0.05)), result(Sae())
    assert compare_results([better], [base], tolerating("nmse=±1%")).verdict == "regression"
    assert compare_results([better], [base], tolerating("nmse=+1%")).verdict == "pass"
    now = [
        result(Sae(r.run.variant, (r.run.coefficient or 0) * 1.1), name=r.run.name) for r in sweep()
    ]
    found = compare_results(now, sweep(), tolerating("l0=±1%,ce_degradation=±1%"))
    assert "moved" not in {row.verdict for row in found.rows}


def test_better_is_an_improvement_in_a_metrics_own_direction() -> None:
    base, worse = result(Sae()), result(Sae(encoder_noise=0.05))
    text = "nmse=+1%,explained_variance=-0.0001"
    assert {r.verdict for r in compare_results([worse], [base], tolerating(text)).rows} == {
        "regression"
    }
    found = compare_results([base], [worse], tolerating(text))
    assert {row.verdict for row in found.rows} == {"improvement"}
    assert found.exit_code == 0


def test_a_metric_without_direction_may_change_neither_way() -> None:
    base, other = result(Sae()), result(Sae(decoder_scale=0.9))
    for now, then in ((base, other), (other, base)):
        assert compare_results([now], [then], tolerating("l2_ratio=1%")).verdict == "regression"


def test_a_metric_without_sums_is_compared_exactly_on_the_same_tokens_alone() -> None:
    options = tolerating("dead_fraction=+0.01")
    base, worse = result(Sae(), dead_fraction=0.2), result(Sae(), dead_fraction=0.22)
    assert compare_results([worse], [base], options).verdict == "regression"
    assert compare_results([result(Sae(), dead_fraction=0.205)], [base], options).verdict == "pass"
    elsewhere = result(Sae(), OTHERS, dead_fraction=0.2)
    found = compare_results([elsewhere], [base], tolerating("dead_fraction=+0.01", unpaired=True))
    assert found.verdict == "incomparable"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"setting": {"model_fingerprint": "other"}}, "the model changed from tiny (mmmmmmmm)"),
        ({"setting": {"metric_version": 99}}, f"metric version changed from {METRIC_VERSION} to"),
        (
            {"setting": {"weight_processing": "processed"}},
            "the processing of the model's weights changed from none to processed",
        ),
        ({"setting": {"dtype": "bfloat16"}}, "--dtype changed from float32 to bfloat16"),
        ({"setting": {"special_tokens": "include"}}, "--special-tokens changed"),
        ({"setting": {"context_length": 8}}, "the context length changed from 16 to 8"),
        ({"hook": "blocks.2.hook_resid_post"}, "the hook changed"),
        ({"sequences": OTHERS}, "the tokens changed"),
    ],
)
def test_what_changed_beneath_is_incomparable_with_a_remedy(
    change: dict[str, Any], reason: str
) -> None:
    found = compare_results([result(Sae(), **change)], [result(Sae())])
    (row,) = found.rows
    assert (found.verdict, row.verdict, found.exit_code) == ("incomparable", "incomparable", 1)
    assert reason in (row.reason or "")
    assert "evaluate" in (row.remedy or "")


def test_where_model_and_tokens_lie_does_not_matter() -> None:
    moved = result(Sae(), setting={"model": "elsewhere", "tokens": "/other/text.txt"})
    assert compare_results([moved], [result(Sae())]).verdict == "pass"


def test_other_tokens_are_compared_unpaired_on_request() -> None:
    options = tolerating("nmse=+2%", unpaired=True)
    base = result(Sae())
    assert compare_results([result(Sae(), OTHERS)], [base], options).verdict == "pass"
    worse = result(Sae(encoder_noise=0.1), OTHERS)
    assert compare_results([worse], [base], options).verdict == "regression"


def test_undefined_metrics_never_pass_silently() -> None:
    base = result(Sae(), dead_fraction=None)
    found = compare_results([result(Sae())], [base], tolerating("dead_fraction=0"))
    assert (found.verdict, found.rows[0].reason) == (
        "incomparable", "dead_fraction is undefined in the baseline",
    )  # fmt: skip
    single = [result(Sae(), np.arange(1))]
    assert compare_results(single, single, tolerating("l0=0")).verdict == "incomparable"


def test_missing_runs_fail_and_new_ones_are_named() -> None:
    base = [result(Sae(threshold=t)) for t in (0.1, 0.2)]
    now = [result(Sae(threshold=t)) for t in (0.2, 0.5)]
    found = compare_results(now, base)
    assert found.verdict == "incomparable"
    assert "--prune" in (row_of(found, "prolu/0.1", None).remedy or "")
    assert found.new_runs == ["prolu/0.5"]
    assert found.missing_runs == ["prolu/0.1"]
    assert compare_results(now, base, ComparisonOptions(only=["*/0.2"])).verdict == "pass"
    assert compare_results(now, base, ComparisonOptions(only="*/0.2")).verdict == "pass"


def renamed(runs: list[Result], prefix: str) -> list[Result]:
    """The same runs with other names."""
    return [r.model_copy(update={"run": r.run.model_copy(update={"name": prefix + r.run.name})})
            for r in runs]  # fmt: skip


def test_runs_are_matched_by_name_configuration_or_pattern() -> None:
    base, now = renamed(sweep(), "monday/"), renamed(sweep(), "tuesday/")
    by_name = compare_results(now, base)
    assert by_name.verdict == "incomparable"
    assert "--match configuration" in (by_name.rows[0].remedy or "")
    for by in ("configuration", r"day/(.*)"):
        found = compare_results(now, base, ComparisonOptions(match=by))
        assert (found.verdict, found.matched_by) == ("pass", by)


@pytest.mark.parametrize("by", ["(", "no group", r"(prolu)"])
def test_matching_that_tells_nothing_apart_is_refused(by: str) -> None:
    with pytest.raises(UsageError, match="--match"):
        compare_results(sweep(), sweep(), ComparisonOptions(match=by))


def test_a_pattern_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="--only"):
        compare_results(sweep(), sweep(), ComparisonOptions(only=["nothing*"]))


def test_a_regression_goes_before_what_cannot_be_compared() -> None:
    base = [result(Sae(threshold=t)) for t in (0.2, 0.5)]
    found = compare_results([result(Sae(threshold=0.2, encoder_noise=0.2))], base)
    assert found.verdict == "regression"
    assert {row.verdict for row in found.rows} >= {"regression", "incomparable"}


def test_moving_along_the_frontier_is_no_regression() -> None:
    now = [
        result(Sae(r.run.variant, (r.run.coefficient or 0) * 1.1), name=r.run.name) for r in sweep()
    ]
    found = compare_results(now, sweep())
    assert found.verdict == "pass"
    assert row_of(found, "prolu/0.5", "ce_degradation").verdict == "moved"
    for none in (None, "none"):
        without = compare_results(now, sweep(), ComparisonOptions(frontier=none))
        assert row_of(without, "prolu/0.5", "ce_degradation").verdict == "regression"


def test_a_run_that_falls_behind_its_former_place_is_newly_dominated() -> None:
    runs = sweep()
    now = [result(Sae("prolu", 0.35, encoder_noise=0.05)) if r.run.name == "prolu/0.35" else r
           for r in runs]  # fmt: skip
    found = compare_results(now, runs)
    place = row_of(found, "prolu/0.35", "place on (l0, ce_degradation)")
    assert place.reason == "is now dominated by its own result in the baseline"
    # A trade that another run of the baseline beats: fewer features, but more damage than a run
    # with fewer still.
    traded = [result(Sae("prolu", 0.36, decoder_scale=0.6), name="prolu/0.35")
              if r.run.name == "prolu/0.35" else r for r in runs]  # fmt: skip
    found = compare_results(traded, runs)
    assert row_of(found, "prolu/0.35", "ce_degradation").verdict == "regression"
    place = row_of(found, "prolu/0.35", "place on (l0, ce_degradation)")
    assert place.reason == "is now dominated by prolu/0.5 of the baseline"


def test_hypervolume_lost_is_a_regression_of_the_frontier() -> None:
    now = [result(Sae(r.run.variant, r.run.coefficient or 0, encoder_noise=0.08)) for r in sweep()]
    found = compare_results(now, sweep(), tolerating("l0=+9,ce_degradation=+9,hypervolume=-2%"))
    lost = row_of(found, "frontier of prolu+l1", "hypervolume(l0, ce_degradation)")
    assert (lost.verdict, found.verdict) == ("regression", "regression")
    assert {row.verdict for row in found.runs} == {"pass"}


def test_two_runs_span_no_frontier() -> None:
    base = [result(Sae(threshold=t)) for t in (0.2, 0.5)]
    assert not compare_results(base, base).frontiers


def test_a_hypervolume_needs_both_axes() -> None:
    with pytest.raises(UsageError, match="ce_degradation too"):
        compare_results(sweep(), sweep(), tolerating("l0=1,hypervolume=-1%"))


@pytest.mark.parametrize("axes", ["l0", "l0,l0", "l0,l2_ratio", "l0,nothing", "l0,mse,kl"])
def test_axes_that_make_no_sense(axes: str) -> None:
    with pytest.raises(UsageError, match="--frontier"):
        compare_results(sweep(), sweep(), ComparisonOptions(frontier=axes))


POINTS = arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(-4, 8))


@given(POINTS)
def test_hypervolumes_are_moocores(points: np.ndarray[Any, Any]) -> None:
    reference = np.array([5.0, 6.0])
    area, _ = hypervolume_and_gradient(points, reference)
    frame = pd.DataFrame(points, columns=["l0", "ce_degradation"])
    expected = moocore_hypervolume(frame, "l0", "ce_degradation", reference=(5.0, 6.0))
    assert area == pytest.approx(expected)


def test_the_gradient_of_a_hypervolume_is_that_of_small_moves() -> None:
    points = np.random.default_rng(5).normal(size=(9, 2))
    reference = beyond_worst(points)
    area, gradient = hypervolume_and_gradient(points, reference)
    for i, k in np.ndindex(*points.shape):
        moved = points.copy()
        moved[i, k] += 1e-6
        change = hypervolume_and_gradient(moved, reference)[0] - area
        assert change == pytest.approx(1e-6 * gradient[i, k], abs=1e-11)


@pytest.mark.parametrize("paired", [True, False])
def test_the_error_of_a_worse_run_is_that_of_its_grown_influences(paired: bool) -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(0, 0.01, 40), rng.normal(0, 0.012, 40 if paired else 25)
    new[:25] += 0.7 * old[:25]
    current, baseline = judging.Quantity(-2.0, new), judging.Quantity(1.9, old)
    error_at = judging._error_at(current, baseline, paired=paired)
    for worse in (0.0, 0.1, 2.0):
        grown, _ = contrast(0.0, new * (1 + worse / 2), old, paired=paired)
        assert error_at(worse) == pytest.approx(grown.standard_error)
    alone = judging.Quantity(1.0, np.zeros(1))
    assert judging._error_at(alone, alone, paired=paired)(0.1) == 0
