"""Choosing the number of tokens for runs: all of them, or more in each round until they suffice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Protocol

from prolu_eval.estimates import Estimate
from prolu_eval.evaluation.options import EvaluationOptions
from prolu_eval.evaluation.parts import looks
from prolu_eval.evaluation.records import Record
from prolu_eval.evaluation.sums import Sums
from prolu_eval.intervals import estimate
from prolu_eval.metrics import METRICS
from prolu_eval.results import Setting

# The search for enough tokens begins with this many shards, and multiplies each estimate of the
# number needed by this margin.
_FIRST_SHARDS, _MARGIN = 2, 1.1


class OnShards(Protocol):
    """Prepared conditions, such as :class:`~prolu_eval.evaluation.preparation.Prepared`."""

    @property
    def shards(self) -> Sequence[range]:
        """The rows in portions that are measured one by one."""
        ...

    @property
    def settings(self) -> Mapping[int, Setting]:
        """The setting of a result, by its number of shards."""
        ...

    def reference(self, n_shards: int) -> Sums:
        """Sums of the clean and ablated passes over the first shards."""
        ...


@dataclass(frozen=True)
class Round:
    """A number of shards on which runs are measured; after the last round, results are stored."""

    n_shards: int
    last: bool


def next_round(
    prepared: OnShards,
    records: Sequence[Record],
    options: EvaluationOptions,
    before: Round | None,
) -> Round:
    """The round that follows another, or the first.

    Args:
        prepared: the prepared conditions of the runs.
        records: the runs.
        options: options that may name standard errors to reach, or a race; without either, all
            shards are measured in one round.
        before: the round in which every run has been measured; None for the first round.

    Returns:
        The last round, on enough shards for every run to reach the standard errors, or on all
        shards; or, in a race, an earlier round on a number of shards after which runs are dropped.
    """
    most, targets = len(prepared.shards), options.target_se
    if options.race:
        first = 0 if before is None else before.n_shards
        following = next((n for n in looks(prepared.shards) if n > first), most)
        return Round(following, last=following == most)
    if not targets:
        return Round(most, last=True)
    for n in prepared.settings:
        stored = [record.result(n) for record in records]
        if all(result is not None and _excess(result.metrics, targets) <= 1 for result in stored):
            return Round(n, last=True)
    if before is None:
        return Round(min(_FIRST_SHARDS, most), last=False)
    n = before.n_shards
    cut = prepared.shards[:n]
    sums = prepared.reference(n)
    found = [_measured_excess(record, cut, sums, targets) for record in records]
    if None in found:  # another process finished a run and removed its parts
        done = [record.finished() for record in records]
        return Round(max((count for count in done if count is not None), default=n), last=True)
    worst = max((excess for excess in found if excess is not None), default=0)
    if worst <= 1 or n == most:
        return Round(n, last=True)
    more = max(n + 1, ceil(n * _MARGIN * worst**2)) if isfinite(worst) else n + 1
    return Round(min(most, more), last=False)


def _measured_excess(
    record: Record, shards: Sequence[range], sums: Sums, targets: Mapping[str, float]
) -> float | None:
    measured = record.measured(shards)
    if measured is None:
        return None
    found = {**sums, **measured.by_row}
    return _excess({key: estimate(METRICS[key], found) for key in targets}, targets)


def _excess(found: Mapping[str, Estimate], targets: Mapping[str, float]) -> float:
    """The largest ratio of a standard error to its target; infinite if there is none."""
    errors = {key: found[key].standard_error if key in found else None for key in targets}
    return max(inf if e is None else e / targets[key] for key, e in errors.items())
