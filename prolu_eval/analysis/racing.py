"""Which runs of a race need no more tokens, because another is surely better in every objective.

One run beats another if it is better in every objective by a one-sided t test over the same
sequences (an intersection-union test: Berger, Technometrics 24, 1982), at a level that is divided
by the number of pairs of runs and of looks (Bonferroni).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from prolu_eval.analysis.pareto import nondominated, signs
from prolu_eval.estimates import CONFIDENCE
from prolu_eval.intervals import estimate, value_and_influence
from prolu_eval.metrics import METRICS, improves_with_tokens, measured_by
from prolu_eval.results import PER_SEQUENCE, Array, Result

Sums = Mapping[str, NDArray[np.float64]]


def beaten(keys: Sequence[str], sums: Sequence[Sums], n_runs: int, n_looks: int) -> dict[int, int]:
    """The runs that another run surely beats, each with the run that beats it most surely.

    Args:
        keys: the objectives.
        sums: each run's sums per sequence, all over the same sequences. [n_sequences] by column
        n_runs: how many runs the race began with.
        n_looks: how often in total runs may be dropped.

    Returns:
        By position of a run that is beaten, the position of the run whose lead is the surest.
    """
    found = [[value_and_influence(METRICS[key], own) for key in keys] for own in sums]
    costs = np.array([[value for value, _ in own] for own in found]) * signs(keys)
    influences = np.stack([np.stack([i for _, i in own], -1) for own in found], 1) * signs(keys)
    n = len(influences)
    front = np.flatnonzero(nondominated(costs))
    if n < 2 or n_runs < 2 or not len(front):
        return {}
    factor = -float(stdtrit(n - 1, (1 - CONFIDENCE) / (n_runs * (n_runs - 1)) / n_looks))
    surest = np.full((len(front), len(costs)), np.inf)
    for key, values in enumerate(costs.T):
        own, best = influences[..., key], influences[:, front, key]
        variance = np.square(best).sum(0)[:, None] + np.square(own).sum(0) - 2 * best.T @ own
        error = np.sqrt(n / (n - 1) * np.maximum(variance, 0))
        gap = values - values[front][:, None]
        # A value that does not vary over sequences is exact up to rounding; a difference within
        # rounding error must not count as a lead.
        least = 1e-9 * np.maximum(np.abs(values), np.abs(values[front])[:, None])
        surest = np.minimum(surest, gap - least - factor * error)
    winners = surest.argmax(0)
    lost = np.flatnonzero(surest.max(0) > 0)
    return {int(i): int(front[winners[i]]) for i in lost}


# Sums that depend on the mean of all activations measured, and so on the number of sequences.
_OF_THE_MEAN = ("squared_deviation", "ce_mean")


class _FirstRows(Mapping[str, Array]):
    """The arrays of a result, with those per sequence cut to the first sequences.

    Args:
        arrays: the arrays of the result.
        fewest: the arrays of a result measured on ``n`` sequences, from which the sums that depend
            on the sequences' mean are taken.
        n: how many sequences to keep.
    """

    def __init__(self, arrays: Mapping[str, Array], fewest: Mapping[str, Array], n: int) -> None:
        self._arrays, self._fewest, self._n = arrays, fewest, n

    def __getitem__(self, key: str) -> Array:
        if key.removeprefix(PER_SEQUENCE) in _OF_THE_MEAN and key in self._fewest:
            return self._fewest[key]
        array = self._arrays[key]
        return array[: self._n] if key.startswith(PER_SEQUENCE) else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def first_sequences(result: Result, fewest: Result) -> Result:
    """A result as if it had been measured on as few sequences as another one of the same race.

    Metrics that are computed from sums over tokens are computed again for those sequences; others
    are unchanged.
    """
    n = fewest.setting.n_sequences
    if result.setting.n_sequences == n:
        return result
    arrays = _FirstRows(result.arrays, fewest.arrays, n)
    cut = result.model_copy(update={"setting": fewest.setting, "arrays": arrays})
    sums = cut.per_sequence()
    metrics = {
        key: estimate(METRICS[key], sums)
        if key in METRICS and improves_with_tokens(METRICS[key]) and measured_by(METRICS[key], sums)
        else value
        for key, value in result.metrics.items()
    }
    return cut.model_copy(update={"metrics": metrics})
