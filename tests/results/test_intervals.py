"""Metrics from per-sequence sums: by hand, by property, and their standard errors by simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from prolu_eval.estimates import Estimate
from prolu_eval.intervals import (
    contrast,
    difference,
    estimate,
    holm,
    p_above_zero,
    with_interval,
)
from prolu_eval.metrics import (
    COLUMNS,
    CONSISTENCY_COLUMNS,
    LEGACY_COLUMNS,
    METRICS,
    TASK_COLUMNS,
    TRUTH_COLUMNS,
)
from tests.conftest import ROOT

Draw = Callable[[np.random.Generator], dict[str, NDArray[np.float64]]]

COUNTS = np.array([2.0, 3.0])


def test_a_mean_is_over_tokens_not_over_sequences() -> None:
    sums = {"l0": np.array([2.0, 13.0]), "n": COUNTS}
    scalar = estimate(METRICS["l0"], sums)
    assert scalar.value == 3  # 15 / 5; the mean of sequence means would be 2.67
    # residuals A_i - 3 B_i = -4, 4; variance 2/1 * 32 / 25
    assert scalar.standard_error == pytest.approx(math.sqrt(64 / 25))
    low, high = scalar.ci95
    assert low is not None
    assert high is not None
    assert high - 3 == pytest.approx(12.7062047 * 1.6)  # t with 1 degree of freedom
    assert 3 - low == pytest.approx(high - 3)


def test_ratios_by_hand() -> None:
    sums = {
        "n": COUNTS,
        "n_next": COUNTS,
        "squared_error": np.array([1.0, 1.0]),
        "squared_deviation": np.array([4.0, 4.0]),
        "ce_clean": np.array([2.0, 3.0]),
        "ce_spliced": np.array([4.0, 6.0]),
        "ce_zero": np.array([8.0, 12.0]),
        "ce_mean": np.array([6.0, 9.0]),
        "x_hat_squared": np.array([1.0, 2.0]),
        "x_hat_dot_x": np.array([2.0, 2.0]),
    }
    values = {
        key: estimate(metric, sums).value
        for key, metric in METRICS.items()
        if metric.numerator.keys() | metric.denominator.keys() <= sums.keys() and metric.numerator
    }
    assert values == pytest.approx(
        {
            "mse": 0.4,
            "nmse": 0.25,
            "explained_variance": 0.75,
            "relative_reconstruction_bias": 0.75,
            "ce_clean": 1,
            "ce_spliced": 2,
            "ce_zero": 4,
            "ce_mean": 3,
            "ce_degradation": 1,
            "bits_lost": 1 / math.log(2),
            "ce_recovered_zero": 2 / 3,
            "ce_recovered_mean": 1 / 2,
        }
    )


def test_the_legacy_explained_variance_by_hand() -> None:
    """The example of docs/explained_variance.md: four tokens, each a sequence of its own."""
    deviation, error = np.array([1.0, 4.0, 4.0, 16.0]), np.array([1.0, 1.0, 2.0, 2.0])
    sums = {"squared_error": error, "squared_deviation": deviation}
    ours = estimate(METRICS["explained_variance"], sums).value
    assert ours is not None
    assert ours == pytest.approx(0.76)
    ratio = error / deviation
    legacy = 1 - (1 + 0.25 + 0.5 + 0.125) / 4
    assert legacy == (1 - ratio).mean() == 0.53125
    covariance = (ratio * deviation).mean() - ratio.mean() * deviation.mean()
    assert covariance == -1.4296875
    assert legacy - ours == pytest.approx(covariance / deviation.mean()) == pytest.approx(-0.22875)
    page = (ROOT / "docs" / "explained_variance.md").read_text(encoding="utf-8")
    for number in ("= 0.76", "= 0.53125", "= -1.4296875", "-0.22875"):
        assert number in page


def test_every_metric_uses_known_columns() -> None:
    for key, metric in METRICS.items():
        assert metric.key == key
        known = COLUMNS | CONSISTENCY_COLUMNS | LEGACY_COLUMNS | TRUTH_COLUMNS
        if metric.over != "sequences":
            known = TASK_COLUMNS
        assert metric.numerator.keys() | metric.denominator.keys() <= known.keys()
        assert bool(metric.numerator) == bool(metric.denominator)


def test_one_sequence_has_no_standard_error_and_no_tokens_no_value() -> None:
    one = estimate(METRICS["l0"], {"l0": np.array([6.0]), "n": np.array([2.0])})
    assert (one.value, one.standard_error, one.ci95) == (3, None, (None, None))
    none = estimate(METRICS["l0"], {"l0": np.zeros(2), "n": np.zeros(2)})
    assert none.value is None
    assert with_interval(1.0, 0.5, 0).ci95 == (None, None)


positive = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0.5, 10), st.floats(0, 10)), min_size=2, max_size=12
)


@given(positive, st.permutations(range(12)), st.floats(0.1, 10))
def test_order_does_not_matter_and_scale_carries_through(
    rows: list[tuple[float, float, float]], order: list[int], scale: float
) -> None:
    table = np.array(rows)
    sums = {"l0": table[:, 0], "n": table[:, 1]}
    shuffled = {k: v[[i for i in order if i < len(rows)]] for k, v in sums.items()}
    scaled = {"l0": scale * table[:, 0], "n": table[:, 1]}
    first = estimate(METRICS["l0"], sums)
    second = estimate(METRICS["l0"], shuffled)
    third = estimate(METRICS["l0"], scaled)
    assert first.value is not None
    assert first.standard_error is not None
    assert second.value == pytest.approx(first.value)
    assert second.standard_error == pytest.approx(first.standard_error, abs=1e-12)
    assert third.value == pytest.approx(scale * first.value)
    assert third.standard_error == pytest.approx(scale * first.standard_error, abs=1e-12)


@given(positive)
def test_a_paired_difference_is_antisymmetric_and_zero_against_itself(
    rows: list[tuple[float, float, float]],
) -> None:
    table = np.array(rows)
    first = {"l0": table[:, 0], "n": table[:, 1]}
    second = {"l0": table[:, 2], "n": table[:, 1]}
    forth, back = (
        difference(METRICS["l0"], first, second),
        difference(METRICS["l0"], second, first),
    )
    assert forth.value is not None
    assert back.value == pytest.approx(-forth.value)
    assert back.standard_error == pytest.approx(forth.standard_error)
    nothing = difference(METRICS["l0"], first, first)
    assert (nothing.value, nothing.standard_error) == (0, 0)


def _coverage(key: str, truth: float, draw: Draw, simulations: int = 2000) -> float:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(simulations):
        low, high = estimate(METRICS[key], draw(rng)).ci95
        assert low is not None
        assert high is not None
        inside += low <= truth <= high
    return inside / simulations


def test_intervals_cover_the_truth_when_tokens_of_a_sequence_are_correlated() -> None:
    def draw(rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        lengths = rng.integers(20, 64, 60)
        level = rng.normal(5, 2, 60)  # shared by the tokens of a sequence
        return {"l0": lengths * level + rng.normal(0, np.sqrt(lengths)), "n": lengths.astype(float)}

    assert 0.93 <= _coverage("l0", 5.0, draw) <= 0.97


def test_intervals_of_a_ratio_cover_the_truth() -> None:
    def draw(rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        deviation = rng.gamma(8, 1, 80)
        return {
            "squared_error": deviation * rng.beta(2, 6, 80),
            "squared_deviation": deviation,
        }

    assert 0.93 <= _coverage("explained_variance", 0.75, draw) <= 0.97


def test_intervals_of_recovered_cross_entropy_cover_the_truth() -> None:
    def draw(rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        n = rng.integers(20, 64, 80)
        hardness = rng.gamma(20, 0.1, 80)  # a hard sequence is hard with anything spliced in
        noise = rng.normal(0, 0.2, (3, 80))
        return {
            "ce_clean": n * (hardness + noise[0]),
            "ce_spliced": n * (hardness + 1 + noise[1]),
            "ce_zero": n * (hardness + 5 + noise[2]),
        }

    assert 0.93 <= _coverage("ce_recovered_zero", 0.8, draw) <= 0.97


def test_intervals_of_a_mean_ratio_of_norms_cover_the_truth() -> None:
    def draw(rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        n = rng.integers(20, 64, 60)
        ratios = 0.7 + rng.normal(0, 0.1, 60) + rng.normal(0, 0.2, 60) / np.sqrt(n)
        return {"norm_ratio": n * ratios, "n": n.astype(float)}

    assert 0.93 <= _coverage("l2_ratio", 0.7, draw) <= 0.97


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1, made monotone.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.2, 0.02]), [0.06, 0.04, 0.2, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert len(holm([])) == 0


def test_one_sided_p_values_are_scipys() -> None:
    sample = np.random.default_rng(3).normal(0.3, 1, size=20)
    error = sample.std(ddof=1) / np.sqrt(20)
    difference = Estimate(value=float(sample.mean()), standard_error=float(error))
    expected = stats.ttest_1samp(sample, 0, alternative="greater").pvalue
    assert p_above_zero(difference, 19) == pytest.approx(expected)
    assert p_above_zero(Estimate(value=0.0, standard_error=0.0), 5) == 1
    assert p_above_zero(Estimate(value=1.0, standard_error=0.0), 5) == 0
    assert np.isnan(p_above_zero(Estimate(value=1.0), 5))


def test_contrasts_are_scipys_paired_and_welch_tests() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(1, 1, size=30), rng.normal(0, 3, size=30)
    influences = [(s - s.mean()) / len(s) for s in (a, b[:17])]
    welch = stats.ttest_ind(a, b[:17], equal_var=False).confidence_interval()
    found, _ = contrast(a.mean() - b[:17].mean(), *influences, paired=False)
    # Degrees of freedom are rounded down here.
    assert found.ci95 == pytest.approx((welch.low, welch.high), rel=0.02)
    assert found.value is not None
    assert found.ci95[0] is not None
    assert found.ci95[0] <= welch.low
    paired = stats.ttest_rel(a, b).confidence_interval()
    influences = [(s - s.mean()) / len(s) for s in (a, b)]
    found, freedom = contrast(a.mean() - b.mean(), *influences, paired=True)
    assert found.ci95 == pytest.approx((paired.low, paired.high))
    assert freedom == 29
    assert contrast(1.0, a[:1], b, paired=False)[1] == 0


def test_sequences_without_anything_to_measure_are_none_of_the_sample() -> None:
    """A sequence of padding changes neither values nor standard errors nor degrees of freedom."""
    sums = {"l0": np.array([2.0, 13.0, 4.0]), "n": np.array([2.0, 3.0, 1.0]),
            "kl": np.array([1.0, 4.0, 0.0]), "n_next": np.array([1.0, 2.0, 0.0])}  # fmt: skip
    more = {column: np.insert(values, [0, 2], 0.0) for column, values in sums.items()}
    other = {**sums, "l0": sums["l0"] + [1, 0, 2]}
    more_of_other = {column: np.insert(values, [0, 2], 0.0) for column, values in other.items()}
    assert estimate(METRICS["l0"], more) == estimate(METRICS["l0"], sums)
    assert difference(METRICS["l0"], more_of_other, more) == difference(METRICS["l0"], other, sums)
    # The third sequence has one counted position, and therefore no target.
    two = {column: values[:2] for column, values in sums.items()}
    assert estimate(METRICS["kl"], sums) == estimate(METRICS["kl"], two)
    zero = {**sums, "l0": np.zeros(3)}
    assert estimate(METRICS["l0"], zero).standard_error == 0
