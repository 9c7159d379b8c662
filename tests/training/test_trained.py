"""The results that training achieves for every variant; ``nox -s slow`` takes minutes for them.

Activations are sparse combinations of known directions, in training units.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import t
from torch import Tensor

from prolu_eval.saes import SparseAutoencoder
from prolu_eval.training.config import Plan, Shared, Sweep
from prolu_eval.training.initial import measure_statistics
from prolu_eval.training.objectives import OBJECTIVES
from prolu_eval.training.stack import Stack
from tests.helpers.once import made_once

pytestmark = pytest.mark.slow

D_IN, D_SAE, BATCH, STEPS = 64, 192, 256, 400
SEEDS = (0, 1, 2)
SWEEPS = {
    "relu+l1": Sweep(variant="relu", coefficients=[0.3, 1, 3]),
    "relu+sqrt_l1": Sweep(variant="relu", penalty="sqrt_l1", coefficients=[0.2, 0.6, 1.8]),
    "prolu/relu": Sweep(
        variant="prolu", options={"gradient": "relu"}, coefficients=[0.1, 0.5, 2.5]
    ),
    "prolu/ste": Sweep(variant="prolu", coefficients=[0.1, 0.5, 2.5]),
    "prolu/rectangle": Sweep(
        variant="prolu", options={"estimator": "rectangle"}, coefficients=[0.1, 0.4, 1.6]
    ),
    "prolu_relu_hybrid": Sweep(variant="prolu_relu_hybrid", coefficients=[0.1, 0.5, 2.5]),
    "trec": Sweep(variant="trec", options={"theta": 0.5}, coefficients=[0.05, 0.5, 2.5]),
    "tlin": Sweep(variant="tlin", options={"theta": 0.5}, coefficients=[0.05, 0.5, 2.5]),
    "gated": Sweep(variant="gated", coefficients=[0.5, 1.5, 4.5]),
    "jumprelu+l0": Sweep(
        variant="jumprelu", options={"bandwidth": 0.5}, coefficients=[0.05, 0.3, 1.8]
    ),
    "jumprelu+tanh": Sweep(
        variant="jumprelu", penalty="tanh", options={"bandwidth": 0.5}, coefficients=[0.05, 0.3, 1]
    ),
    **{
        name: Sweep(variant=name, options=options, k=[8, 4, 2])
        for name, options in (
            ("topk", {}),
            ("abstopk", {}),
            ("batchtopk", {}),
            ("matryoshka", {"group_sizes": [16, 48, 128]}),
        )
    },
    "groupmax": Sweep(variant="groupmax", k=[16, 8, 4]),
}


def test_every_variant_is_here() -> None:
    assert {sweep.variant for sweep in SWEEPS.values()} == OBJECTIVES.keys()


def made(seed: int, n: int) -> Tensor:
    """Three of 144 directions at a time, with magnitudes that vary, in training units."""
    directions = torch.randn(144, D_IN, generator=torch.Generator().manual_seed(99))
    directions = directions / directions.norm(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n, 144, generator=generator) < 3 / 144
    x: Tensor = (chosen * (0.5 + torch.rand(n, 144, generator=generator))) @ directions
    scale: float = 0.6 * math.sqrt(D_IN)
    return x * scale


def trained(name: str) -> list[list[SparseAutoencoder]]:
    """The sweep's autoencoders: by value, then by seed."""
    settings = Shared(
        hook="", n_tokens=BATCH * STEPS, d_sae=D_SAE, batch_size=BATCH, normalisation="none",
        dead_after=20 * BATCH,
    )  # fmt: skip
    sweep = SWEEPS[name]
    values = sweep.k or sweep.coefficients
    plans = [Plan(sweep, value, 5e-3, seed) for value in values for seed in SEEDS]
    stack = Stack(plans, settings, measure_statistics(made(0, 4096), settings))
    for step in range(STEPS):
        stack.step(made(1000 + step, BATCH))
    found = [stack.autoencoder(i, 1.0).requires_grad_(False).eval() for i in range(len(plans))]
    return [found[i : i + len(SEEDS)] for i in range(0, len(found), len(SEEDS))]


def measured(sae: SparseAutoencoder) -> tuple[float, float]:
    """L0, and squared error over the activations' variance."""
    x = made(1, 4096)
    codes, x_hat, _ = sae.reconstruct(x)
    error = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    return (codes != 0).sum(1).float().mean().item(), error.item()


Measured = Callable[[str], NDArray[np.float64]]


@pytest.fixture(scope="module", params=SWEEPS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of a sweep; the tests of one follow each other, so one process has them mostly."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def measured_of(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A function from a sweep's name to what its autoencoders achieve: [values, seeds, 2].

    A sweep is trained by one process of the test run, when a test first needs it.
    """

    @cache
    def of(name: str) -> NDArray[np.float64]:
        def make(path: Path) -> None:
            np.save(path, [[measured(sae) for sae in saes] for saes in trained(name)])

        file = f"trained-{list(SWEEPS).index(name)}.npy"
        found: NDArray[np.float64] = np.load(made_once(tmp_path_factory, file, make))
        return found

    return of


def largest(rows: Tensor, centre: Tensor, l0: float) -> float:
    """The error of unit rows as a dictionary: the l0 largest projections, at their best scale."""
    x = made(1, 4096)
    z = torch.relu((x - centre) @ rows.T)
    kept = z * (z >= z.sort(1, descending=True).values[:, [max(0, round(l0) - 1)]])
    part = kept @ rows
    scale = ((x - centre) * part).sum() / part.square().sum()
    left = (x - centre - scale * part).square().sum()
    return (left / (x - x.mean(0)).square().sum()).item()


def test_training_beats_the_first_weights_and_a_random_dictionary(
    name: str, measured_of: Measured
) -> None:
    centre = made(0, 4096).mean(0)
    for of_value in measured_of(name):
        for seed, (l0, error) in enumerate(of_value):
            first = torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(seed))
            other = torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(100 + seed))
            for rows in (first, other):
                assert error < largest(rows / rows.norm(dim=1, keepdim=True), centre, l0)


def test_l0_falls_along_the_sweep(name: str, measured_of: Measured) -> None:
    l0 = measured_of(name)[:, :, 0].mean(axis=1)
    assert (np.diff(l0) < 0.02 * l0[:-1]).all(), l0
    assert l0[-1] < 0.8 * l0[0]


def test_seeds_agree_within_their_intervals(measured_of: Measured) -> None:
    """Each seed's L0 and error lie in the prediction interval that follows from the other seeds.

    The interval is a t interval in logarithms: the mean of the n others, plus or minus t times the
    root of s^2 (1 + 1 / n). Here s is the spread between the others at one coefficient or k, pooled
    over the sweep's values. All seeds are measured on the same tokens, whose error is part of s.
    The intervals are 95 % ones if spreads are equal. Nine in ten must contain their seed, and they
    must be narrow, because otherwise agreement would mean little.
    """
    # From the last to the first, towards a process that tests them from the first to the last.
    logs = np.log([measured_of(name) for name in reversed(SWEEPS)])
    n_values, n_others = logs.shape[1], len(SEEDS) - 1
    quantile = t.ppf(0.975, n_values * (n_others - 1))
    held, widths = [], []
    for seed in range(len(SEEDS)):
        others = np.delete(logs, seed, axis=2)
        variance = others.var(axis=2, ddof=1).mean(axis=1, keepdims=True)
        half = quantile * np.sqrt(variance * (1 + 1 / n_others))
        # Selecting variants have an L0 that no seed changes.
        held.append(np.abs(logs[:, :, seed] - others.mean(axis=2)) <= half + 1e-6)
        widths.append(half)
    assert (np.mean(held, axis=(0, 1, 2)) > 0.9).all(), np.mean(held, axis=(0, 2))
    assert (np.median(widths, axis=(0, 1, 2)) < 0.15).all(), np.median(widths, axis=(0, 2))
