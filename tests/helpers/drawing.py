"""Simulated re-evaluations: comparisons on sequences drawn from a pool that is measured once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from prolu_eval.comparison import Comparison, ComparisonOptions, compare_results, parse_tolerances
from prolu_eval.results import Result

SIMULATIONS = 200
SEQUENCES = 256
DEFAULTS = "l0=+2%,ce_degradation=+2%,nmse=+2%,hypervolume=-2%"

On = Callable[[NDArray[np.int64]], list[Result]]


def found_regression(found: Comparison) -> bool:
    """Whether a comparison's verdict is a regression."""
    return found.verdict == "regression"


def share_of(
    now: On,
    then: On,
    tolerance: str,
    *,
    pool: int,
    paired: bool,
    of: Callable[[Comparison], bool] = found_regression,
) -> float:
    """The fraction of simulations in which a comparison finds a regression, or satisfies ``of``.

    Args:
        now: a function from drawn sequences of the pool to the new results.
        then: the same for the baseline's results.
        tolerance: the value of `--tolerance`.
        pool: the number of sequences in the pool.
        paired: whether both sides use the same sequences, or each its own.
        of: the condition that is counted.
    """
    options = ComparisonOptions(tolerances=parse_tolerances([tolerance]), unpaired=not paired)
    rng = np.random.default_rng(7)
    counted = 0
    for _ in range(SIMULATIONS):
        drawn = rng.permutation(pool)[: 2 * SEQUENCES]
        before, others = drawn[:SEQUENCES], drawn[SEQUENCES:]
        after = before if paired else others
        counted += of(compare_results(now(after), then(before), options))
    return counted / SIMULATIONS
