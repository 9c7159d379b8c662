"""How often intervals hold the truth, and how often a lead is claimed that is not there.

They take a few minutes: `nox -s slow` runs them. ``PROLU_EVAL_SIMULATIONS`` is how many evaluations
of each cell are simulated, 40 by default; docs/statistics.md has the rates of more.
"""

import os

import numpy as np
import pytest
from scipy.stats import binom

from prolu_eval.analysis.savings import Curves
from tests.analysis.simulated import CURVES, Cell, Sweep, concave, drawn, power, true_gap

pytestmark = pytest.mark.slow

SIMULATIONS = int(os.environ.get("PROLU_EVAL_SIMULATIONS", "40"))

NULLS = {
    f"{name}, {title}": cell
    for name, curve in CURVES.items()
    for title, cell in {
        "6 runs at other L0 each": Cell(
            {"a": Sweep(curve, 6), "b": Sweep(curve, 6, ends=(4, 85))}, 1024
        ),
        "8 random runs each": Cell(
            {"a": Sweep(curve, 8, random=True), "b": Sweep(curve, 8, random=True)}, 1024
        ),
        "12 runs against 4": Cell({"a": Sweep(curve, 12), "b": Sweep(curve, 4)}),
        "3 seeds against 1": Cell({"a": Sweep(curve, 8, 3), "b": Sweep(curve, 8)}, noise=0.05),
    }.items()
} | {
    "3 variants of 4 runs, 2 seeds": Cell({k: Sweep(power, 4, 2) for k in "abc"}, noise=0.1),
    "1 seed, trainings vary": Cell({"a": Sweep(concave, 8), "b": Sweep(concave, 8)}, noise=0.05),
    "10 sequences": Cell({"a": Sweep(power, 6), "b": Sweep(power, 6)}, 10),
    "64 sequences, heavy tail": Cell(
        {"a": Sweep(concave, 6), "b": Sweep(concave, 6, random=True)}, 64, heavy=True
    ),
}


def claims(curves: Curves) -> bool:
    """Whether one of the variants is said to be better, on average or somewhere."""
    return any(sign for sign, _ in curves.statuses.values()) or any(
        lead.first_ahead or lead.second_ahead for lead in curves.leads()
    )


@pytest.mark.parametrize("cell", NULLS.values(), ids=NULLS.keys())
def test_leads_and_intervals_where_variants_are_equal(cell: Cell) -> None:
    rng = np.random.default_rng(12)
    claimed, covered = 0, [0, 0]
    for _ in range(SIMULATIONS):
        curves = drawn(cell, rng)
        claimed += claims(curves)
        for over in (0, 1):
            gap = curves.gap("a", "b", over)
            assert gap is not None
            low, high = gap.interval()
            covered[over] += low <= true_gap(cell, curves, "a", "b", over) <= high
    shares = [n / SIMULATIONS for n in covered]
    print(f"claimed {claimed / SIMULATIONS:.1%}, covered {shares[1]:.1%} of L0, {shares[0]:.1%}")
    # What a rate of 5 % exceeds in 1 of 1,000 sets of simulations.
    most = binom.ppf(0.999, SIMULATIONS, 0.05)
    assert claimed <= most
    assert SIMULATIONS - min(covered) <= most


@pytest.mark.parametrize(("runs", "factor"), [(6, 0.8), (8, 0.85), (12, 0.9)])
def test_a_lead_that_is_there_is_found(runs: int, factor: float) -> None:
    rng = np.random.default_rng(13)
    cell = Cell({"a": Sweep(power, runs, factor=factor), "b": Sweep(power, runs)})
    found = sum(
        drawn(cell, rng).statuses["a", "b"][0] == -1 for _ in range(max(1, SIMULATIONS // 2))
    )
    print(f"{runs} runs, {1 - factor:.0%} less CE degradation: found in {found} of "
          f"{SIMULATIONS // 2}")  # fmt: skip
    assert found >= 0.9 * (SIMULATIONS // 2)
