"""The tests of differences, and when one is a regression: significant and beyond the tolerance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from prolu_eval.comparison.tolerance import Tolerance
from prolu_eval.comparison.verdicts import WEAK, Judgement, Verdict
from prolu_eval.estimates import Estimate
from prolu_eval.intervals import contrast, holm, p_above_zero, value_and_influence
from prolu_eval.metrics import METRICS
from prolu_eval.results import Result

# The fewest sequences. With fewer, a standard error is itself too uncertain to judge anything by.
FEWEST_SEQUENCES = 4
# How often the detectable worsening is refined with the standard error at that worsening.
_ROUNDS = 30
# If noise grows by more than this share of a worsening, no worsening can be detected reliably.
_STEEPEST = 0.9


@dataclass(frozen=True)
class Quantity:
    """A value, and the influence of each sequence or task on it.

    ``influence`` [n_sequences] is None where the result holds no sums to compute it from.
    """

    value: float
    influence: NDArray[np.float64] | None


@dataclass(frozen=True)
class DifferenceTest:
    """A difference to be judged: its row, its size as a worsening, and its p-values both ways.

    ``sides`` is 2 where a change in either direction is a worsening, else 1. ``standard_error_at``
    gives the standard error that the difference would have if the current run were worse by an
    amount, with every sequence worse in proportion.
    """

    row: Judgement
    worse: float
    limit: float
    p_worse: float
    p_better: float
    standard_error_at: Callable[[float], float]
    degrees_of_freedom: int
    sides: int


def quantity_of(result: Result, key: str) -> Quantity | None:
    """A metric of a result, from its sums per sequence if it has them; None if undefined."""
    metric = METRICS[key]
    sums = result.sums(metric.over)
    if metric.denominator and sums.keys() >= metric.numerator.keys() | metric.denominator.keys():
        value, influence = value_and_influence(metric, sums)
        return Quantity(value, influence) if np.isfinite(value) else None
    stored = result.metrics.get(key)
    return None if stored is None or stored.value is None else Quantity(stored.value, None)


def metric_test(
    current: Result, baseline: Result, tolerance: Tolerance
) -> DifferenceTest | Judgement:
    """The test of one metric of a run, or the row that says why there is none."""
    new, old = (quantity_of(result, tolerance.key) for result in (current, baseline))
    row = Judgement(baseline.run.name, tolerance.key, "incomparable", tolerance=str(tolerance))
    if new is None or old is None:
        row = replace(row, baseline=old.value if old else None, current=new.value if new else None)
        where = "the baseline" if old is None else "the current run"
        remedy = f"leave {tolerance.key} out of --tolerance, or mend the run"
        return replace(row, reason=f"{tolerance.key} is undefined in {where}", remedy=remedy)
    over = METRICS[tolerance.key].over
    paired = current.same_units(baseline, over)
    if over != "sequences" and not paired:
        row = replace(row, baseline=old.value, current=new.value)
        remedy = (
            "evaluate on the tasks of the baseline, or accept the change with "
            "`prolu-eval baseline update`"
        )
        return replace(row, reason=f"the tasks of {tolerance.key} changed", remedy=remedy)
    return difference_test(row, new, old, tolerance, paired=paired)


def difference_test(
    row: Judgement, current: Quantity, baseline: Quantity, tolerance: Tolerance, *, paired: bool
) -> DifferenceTest | Judgement:
    """The test of a difference of two measurements, or the row that says why there is none."""
    difference = current.value - baseline.value
    if current.influence is not None and baseline.influence is not None:
        fewest = min(len(current.influence), len(baseline.influence))
        if fewest < FEWEST_SEQUENCES:
            of_tasks = tolerance.key in METRICS and METRICS[tolerance.key].over != "sequences"
            unit = "task" if of_tasks else "sequence"
            reason = f"{fewest} {unit}{' is' if fewest == 1 else 's are'} too few to tell a change "
            reason += "from chance"
            more = "more tasks" if of_tasks else "a larger --n-tokens or more text"
            remedy = f"evaluate on at least {FEWEST_SEQUENCES} {unit}s, with {more}"
            return replace(row, reason=reason, remedy=remedy)
        change, freedom = contrast(difference, current.influence, baseline.influence, paired=paired)
        if freedom < 1 or change.standard_error is None:
            reason = "there are too few sequences for a standard error"
            return replace(row, reason=reason, remedy="evaluate on more tokens")
    elif paired:
        change, freedom = Estimate(value=difference, standard_error=0.0), 1
        row = replace(row, reason="compared exactly, because it has no standard error")
    else:
        reason = f"{tolerance.key} has no standard error, and the tokens differ"
        remedy = f"leave {tolerance.key} out of --tolerance, or evaluate on the same tokens"
        return replace(row, reason=reason, remedy=remedy)

    error_at = _error_at(current, baseline, paired=paired)
    above = p_above_zero(change, freedom)
    below = p_above_zero(change.scaled(-1), freedom)
    worse, p_worse, p_better = {
        1: (difference, above, below),
        -1: (-difference, below, above),
        0: (abs(difference), min(1.0, 2 * min(above, below)), 1.0),
    }[tolerance.worse]
    row = replace(
        row, verdict="pass", baseline=baseline.value, current=current.value, difference=change,
        tolerance=str(tolerance),
    )  # fmt: skip
    limit, sides = tolerance.limit(baseline.value), 1 if tolerance.worse else 2
    return DifferenceTest(row, worse, limit, p_worse, p_better, error_at, freedom, sides)


def _error_at(current: Quantity, baseline: Quantity, *, paired: bool) -> Callable[[float], float]:
    """The standard error of the difference as a function of how much worse the current run is.

    If the run is worse by a factor of 1 + g, so are its sequences' influences, and the variance is
    quadratic in g.
    """
    new, old, value = current.influence, baseline.influence, abs(current.value)
    if new is None or old is None or min(len(new), len(old)) < 2:
        return lambda worse: 0.0
    unbiased = [len(influence) / (len(influence) - 1) for influence in (new, old)]
    own = unbiased[0] * float(new @ new)
    if paired:
        change = new - old
        constant, linear = (unbiased[0] * float(change @ other) for other in (change, new))
    else:
        constant, linear = own + unbiased[1] * float(old @ old), own

    def error_at(worse: float) -> float:
        g = worse / value if value else 0.0
        return math.sqrt(max(0.0, constant + 2 * g * linear + g * g * own))

    return error_at


def judge(tests: Sequence[DifferenceTest], alpha: float) -> list[Judgement]:
    """The rows of a family of tests with their verdicts, by Holm's correction for its size."""
    worse, better = holm([t.p_worse for t in tests]), holm([t.p_better for t in tests])
    rows = []
    for test, p_worse, p_better in zip(tests, worse, better, strict=True):
        verdict = _verdict(test, p_worse, p_better, alpha)
        p_value = float(p_better if verdict == "improvement" else p_worse)
        row = replace(
            test.row, verdict=verdict, p_value=p_value, limit=test.limit,
            detectable=_detectable(test, alpha / len(tests)),
        )  # fmt: skip
        if row.could_miss:
            row = replace(row, reason=WEAK)
        rows.append(row)
    return rows


def _detectable(test: DifferenceTest, level: float) -> float:
    """The smallest worsening that would be called a regression in 95 % of cases.

    It must be significant at the level of the strictest test of the family, and beyond the
    tolerance. The worsening is assumed to be proportional: every sequence's value grows by the same
    factor, and the standard error of the difference grows with it. Where sequences are so few or
    differ so much that no proportional worsening would be detected reliably, the standard error is
    assumed to be constant.
    """
    freedom = test.degrees_of_freedom
    confirmed, caught = stdtrit(freedom, [1 - level / test.sides, 0.95])
    # The standard error is an estimate with a relative variance of 1 / (2 freedom). It enters
    # twice: when this worsening is computed, and when a future difference is tested.
    caught *= np.sqrt(1 + ((confirmed + caught) ** 2 + confirmed**2) / (2 * freedom))

    def sure(worse: float) -> float:
        error = test.standard_error_at(worse)
        return float(max(test.limit, confirmed * error) + caught * error)

    worse = first = sure(0.0)
    if sure(first) - first > _STEEPEST * first:
        return first
    for _ in range(_ROUNDS):
        worse = sure(worse)
    return worse


def _verdict(test: DifferenceTest, p_worse: float, p_better: float, alpha: float) -> Verdict:
    if test.worse > test.limit and p_worse <= alpha:
        return "regression"
    if -test.worse > test.limit and p_better <= alpha:
        return "improvement"
    return "pass"
