"""Stored results answered: groups that can be compared, and the frontier of each."""

from collections.abc import Mapping, Sequence

from prolu_eval.analysis.bootstrap import N_REPLICATES, resample
from prolu_eval.analysis.frontiers import Frontier, frontier
from prolu_eval.analysis.groups import Group, comparable
from prolu_eval.results import Result

# Groups of more runs are resampled less often, in proportion.
_RUNS_RESAMPLED_IN_FULL = 200


def answer_results(
    results: Sequence[Result],
    keys: tuple[str, ...] = ("l0", "ce_degradation"),
    splits: Mapping[str, Sequence[float]] | None = None,
    reference: Mapping[str, float] | None = None,
) -> list[tuple[Group, Frontier]]:
    """Results in groups that can be compared, each with its frontier.

    Raises:
        UsageError: if a key is no objective.
    """
    return [
        (
            group,
            frontier(
                group,
                *keys,
                replicates=resample(group, keys, n_replicates(group)),
                reference=reference,
                splits=splits,
            ),
        )
        for group in comparable(results)
    ]


def n_replicates(group: Group) -> int:
    """How often a group's sequences are resampled: less often where there are many runs."""
    runs = max(len(group.results), _RUNS_RESAMPLED_IN_FULL)
    return N_REPLICATES * _RUNS_RESAMPLED_IN_FULL // runs
