"""How often a comparison is right, over simulated re-evaluations of a sweep."""

import numpy as np
import pytest
from numpy.typing import NDArray

from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result
from tests.helpers.drawing import DEFAULTS, On, share_of
from tests.helpers.synthetic import POOL, Sae, pool_sums, result

RUNS = [Sae(variant, threshold) for variant in ("prolu", "relu") for threshold in (0.2, 0.35, 0.5)]
DAMAGED = RUNS[2]
# Each damage, and the metric in which it must be found: changes of 4 to 5 % of the normalised
# error, and larger changes of the much noisier cross-entropy.
DAMAGES = {
    "encoder noise": (Sae("prolu", 0.5, encoder_noise=0.01), "nmse"),
    "shifted threshold": (Sae("prolu", 0.51), "nmse"),
    "rescaled decoder": (Sae("prolu", 0.5, decoder_scale=0.97), "nmse"),
    "encoder noise in CE": (Sae("prolu", 0.5, encoder_noise=0.06), "ce_degradation"),
    "shifted threshold in CE": (Sae("prolu", 0.57), "ce_degradation"),
}


def on(damage: Sae = DAMAGED) -> On:
    """The sweep's results on drawn sequences, with one run damaged."""

    def results(drawn: NDArray[np.int64]) -> list[Result]:
        return [
            result(damage if sae == DAMAGED else sae, drawn, name=sae.name, scalars=False)
            for sae in RUNS
        ]

    return results


def true_change(damage: Sae, metric: str) -> float:
    """By how much a damage worsens a metric, over the whole pool."""
    now, then = (estimate(METRICS[metric], pool_sums(sae)).value for sae in (damage, DAMAGED))
    assert now is not None
    assert then is not None
    return now - then


def test_the_same_sequences_again_always_pass() -> None:
    assert share_of(on(), on(), DEFAULTS, pool=POOL, paired=True) == 0


@pytest.mark.parametrize("tolerance", [DEFAULTS, "l0=0,ce_degradation=0,nmse=0,hypervolume=0"])
def test_other_sequences_of_the_same_distribution_pass(tolerance: str) -> None:
    assert share_of(on(), on(), tolerance, pool=POOL, paired=False) <= 0.05


@pytest.mark.parametrize(("damage", "metric"), DAMAGES.values(), ids=DAMAGES)
def test_twice_the_tolerance_is_caught(damage: Sae, metric: str) -> None:
    tolerance = f"{metric}={true_change(damage, metric) / 2}"
    assert share_of(on(damage), on(), tolerance, pool=POOL, paired=True) >= 0.95


@pytest.mark.parametrize(("damage", "metric"), DAMAGES.values(), ids=DAMAGES)
def test_half_the_tolerance_does_not_fail(damage: Sae, metric: str) -> None:
    tolerance = f"{metric}={true_change(damage, metric) * 2}"
    assert share_of(on(damage), on(), tolerance, pool=POOL, paired=True) == 0
