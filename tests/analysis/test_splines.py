"""Likelihoods and predictions of a curve's shape agree with the densities that they represent."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from prolu_eval.analysis.seeds import Repeated
from prolu_eval.analysis.splines import _EXACT, Reading, _Fit, _kernel
from tests.analysis.simulated import Cell, Sweep, drawn, power


@pytest.mark.parametrize("seeds", [[1, 1, 1, 1, 1, 1], [4, 4, 4, 4, 4, 4], [1, 3, 1, 2, 2, 3]])
def test_likelihoods_are_those_of_the_runs_contrasts(seeds: list[int]) -> None:
    """Restricted likelihood is, up to a constant, the density of deviations from straight lines."""
    rng = np.random.default_rng(0)
    u = np.sort(rng.random(6))
    v = 1 - u + 0.1 * rng.standard_normal(6)
    shape = rng.uniform(0.6, 3, 6)
    repeats = Repeated(
        np.zeros((1, 1)),
        np.zeros(1, bool),
        0,
        0.0,
        np.zeros((0, 1)),
        sum(seeds) - 6,
        is_parted=False,
    )
    fit = _Fit(u, v, np.zeros((0, 6)), np.array(seeds), np.ones((6, 1)), shape, repeats)
    curvatures, scatters, sampling = np.array([0.01, 0.5, 3.0]), np.array([1e-3, 0.02, 0.3]), 1e-4
    trend = np.stack([np.ones(6), u], 1)
    contrasts = np.linalg.svd(trend)[0][:, 2:]
    expected = np.empty((3, 3))
    for i, curvature in enumerate(curvatures):
        for j, scatter in enumerate(scatters):
            noise = np.diag(scatter**2 * shape / np.array(seeds) + sampling + _EXACT**2)
            covariance = curvature**2 * _kernel(u - u[0], u - u[0]) + noise
            spread = contrasts.T @ covariance @ contrasts
            expected[i, j] = multivariate_normal(np.zeros(4), spread).logpdf(contrasts.T @ v)
            # Repeated trainings have a variance of their own, which is zero here.
            n_repeats = sum(n - 1 for n in seeds)
            expected[i, j] -= 0.5 * n_repeats * np.log(scatter**2 + sampling + _EXACT**2)
    found = fit.log_likelihoods(curvatures, scatters, sampling)
    assert found - found[0, 0] == pytest.approx(expected - expected[0, 0], abs=1e-7)


def test_a_reading_has_the_quantiles_of_its_mixture() -> None:
    """For two equally likely settings, compared with draws from them."""
    chances, means, errors = np.array([0.5, 0.5]), np.array([0.0, 0.4]), np.array([1.0, 3.0])
    reading = Reading(0.2, np.array([5.04, 0, 0]), 7.0, chances, means, errors)
    rng = np.random.default_rng(0)
    which = rng.integers(2, size=400_000)
    drawn = means[which] + errors[which] * rng.standard_t(7, len(which))
    assert reading.interval() == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), rel=0.02)
    assert reading.p_value == pytest.approx(2 * (drawn < 0).mean(), abs=0.01)


def test_thousands_of_runs_are_merged_and_say_the_same() -> None:
    """Merged runs give the same savings as all runs, and any number of runs takes little time."""
    rng = np.random.default_rng(5)
    cell = Cell({"a": Sweep(power, 160, factor=0.9), "b": Sweep(power, 160)}, noise=0.05)
    state = rng.bit_generator.state
    merged = drawn(cell, rng)
    assert max(len(one.points) for one in merged.observed.values()) <= 100
    rng.bit_generator.state = state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prolu_eval.analysis.savings._MOST", 1000)
        every = drawn(cell, rng)
    assert max(len(one.points) for one in every.observed.values()) > 100
    for over in (0, 1):
        one, all_of = merged.gap("a", "b", over), every.gap("a", "b", over)
        assert one is not None
        assert all_of is not None
        assert abs(one.value - all_of.value) < 0.25 * all_of.error
        assert 0.8 < one.error / all_of.error < 1.25
