"""Comparing runs with a baseline from stored results alone, without torch or a model.

A regression is a worsening that is both beyond its tolerance and statistically significant. Runs
and metrics that cannot be compared are reported as such, and fail the comparison too.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from prolu_eval.arguments import as_texts, of_type
from prolu_eval.comparison.frontier_tests import (
    comparable_pairs,
    frontier_axes,
    hypervolume_tests,
    points_to_draw,
    with_movement,
)
from prolu_eval.comparison.judging import DifferenceTest, judge, metric_test
from prolu_eval.comparison.pairs import MATCHES, MatchedRuns, configurations, match_runs, obstacle
from prolu_eval.comparison.tolerance import DEFAULT, HYPERVOLUME, Tolerance, parse_tolerances
from prolu_eval.comparison.verdicts import Comparison, Judgement
from prolu_eval.errors import UsageError
from prolu_eval.results import Result

__all__ = ["DEFAULT", "Comparison", "ComparisonOptions", "compare_results", "parse_tolerances"]

MOST_ALPHA = 0.5
_ALPHA = ("--alpha", "give a number")


@dataclass(frozen=True)
class ComparisonOptions:
    """How to compare.

    Attributes:
        tolerances: the tolerance of each metric to be judged; `hypervolume` counts as a metric.
        frontier: two metrics `x,y`, whose frontier is judged if both have tolerances; None or
            `none` to judge no frontier.
        match: `name`, `configuration`, or a regular expression whose groups identify a run.
        only: one or several shell patterns of run names; runs that match none of them are left out
            on both sides.
        unpaired: compare results on different tokens as independent samples.
        alpha: the error rate of the whole family of tests.
    """

    tolerances: dict[str, Tolerance] = field(default_factory=parse_tolerances)
    frontier: str | None = "l0,ce_degradation"
    match: str = "name"
    only: str | Sequence[str] = ()
    unpaired: bool = False
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse values that make no sense, such as an error rate of 2."""
        if self.frontier is not None:
            of_type(self.frontier, str, "--frontier", "write x,y or none")
        of_type(self.match, str, "--match", f"write {', '.join(MATCHES)} or a pattern")
        as_texts(self.only, "--only", "name runs, or patterns of their names")
        of_type(self.unpaired, bool, "--unpaired", "give True or False")
        alpha = self.alpha if isinstance(self.alpha, int) else of_type(self.alpha, float, *_ALPHA)
        if not 0 < alpha <= MOST_ALPHA:
            remedy = f"choose a number above 0 and at most {MOST_ALPHA}"
            raise UsageError("--alpha", f"{self.alpha:g} is not an error rate", remedy)


def compare_results(
    current: Sequence[Result],
    baseline: Sequence[Result],
    options: ComparisonOptions | None = None,
    unevaluated: Callable[[Sequence[str]], Collection[str]] = lambda _: (),
) -> Comparison:
    """Judge every run of a baseline by its current result.

    Args:
        current: the current results.
        baseline: the results of the baseline.
        options: how to compare.
        unevaluated: a function that gives, of the names of runs without a current result, those
            that are there and can be evaluated.

    Raises:
        UsageError: if options make no sense or runs cannot be told apart.
    """
    options = options or ComparisonOptions()
    axes = frontier_axes(options.frontier, options.tolerances)
    matched = match_runs(current, baseline, options.match, only=options.only)
    there = unevaluated([run.run.name for run in matched.missing])
    rows = [_missing(run, matched, there) for run in matched.missing]
    pairs, tests = [], []
    for pair in matched.pairs:
        if problem := obstacle(*pair, unpaired=options.unpaired):
            name = pair[1].run.name
            rows.append(
                Judgement(name, None, "incomparable", reason=problem.reason, remedy=problem.remedy)
            )
            continue
        pairs.append(pair)
        for key, tolerance in options.tolerances.items():
            if key != HYPERVOLUME:
                outcome = metric_test(*pair, tolerance)
                if isinstance(outcome, DifferenceTest):
                    tests.append(outcome)
                else:
                    rows.append(outcome)
    # Chance baselines are judged by their metrics only, and are on no frontier.
    ranked = [pair for pair in pairs if pair[1].run.chance is None]
    found = comparable_pairs(ranked, axes) if axes else []
    areas = hypervolume_tests(found, axes, options.tolerances.get(HYPERVOLUME)) if axes else []
    judged = judge([*tests, *areas], options.alpha)
    runs, frontiers = judged[: len(tests)], judged[len(tests) :]
    if axes:
        runs, places = with_movement(runs, found, axes)
        frontiers += places
    return Comparison(
        runs=rows + runs,
        frontiers=frontiers,
        new_runs=[run.run.name for run in matched.new],
        missing_runs=[run.run.name for run in matched.missing],
        unevaluated_runs=list(there),
        matched_by=options.match,
        method=_method(len(judged), pairs, options),
        points=points_to_draw(ranked, [r for r in matched.new if r.run.chance is None], axes)
        if axes
        else (),
        axes=(axes[0].key, axes[1].key) if axes else None,
        provenance={**_provenance("baseline", baseline), **_provenance("current", current)},
    )


# The names of both in version 0.1.0.
Options, compare = ComparisonOptions, compare_results


def _provenance(side: str, results: Sequence[Result]) -> dict[str, str]:
    """The tokens, models and environments with which one side's results were measured, in words."""
    settings = dict.fromkeys(
        f"{at.n_counted:,} tokens of {at.tokens} (version {at.tokens_fingerprint[:8]}) in "
        f"{at.n_sequences:,} sequences, model {at.model} (version {at.model_fingerprint[:8]})"
        for at in (result.setting for result in results)
    )
    made = dict.fromkeys(result.measured_with for result in results)
    return {
        f"{side}, measured on": "; ".join(settings),
        f"{side}, measured with": "; ".join(filter(None, made)) or "unknown",
    }


def _missing(run: Result, matched: MatchedRuns, unevaluated: Collection[str]) -> Judgement:
    if run.run.name in unevaluated:
        reason = "is there, but has changed since it was evaluated, or never was"
        remedy = "evaluate it with `prolu-eval evaluate`, and compare again"
        return Judgement(run.run.name, None, "incomparable", reason=reason, remedy=remedy)
    remedy = (
        "evaluate it, or leave it out with --only; from a baseline's file, drop it with "
        "`prolu-eval baseline update --prune`"
    )
    configuration = configurations(
        [*matched.new, *(current for current, _ in matched.pairs)], [run]
    )
    for other in matched.new:
        if configuration(other.run) == configuration(run.run):
            remedy = (
                f"{other.run.name} has the same configuration: compare with --match configuration"
            )
    reason = "is in the baseline but has no current result"
    return Judgement(run.run.name, None, "incomparable", reason=reason, remedy=remedy)


def _method(n_tests: int, pairs: list[tuple[Result, Result]], options: ComparisonOptions) -> str:
    counts = sorted({current.setting.n_sequences for current, _ in pairs})
    if not counts:
        return "Nothing could be tested."
    sequences = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return (
        f"One-sided t tests on {sequences} sequences: paired by sequence where the tokens are the "
        "same, Welch's test otherwise. Standard errors of ratios and hypervolumes are clustered by "
        f"sequence and use the delta method. Holm's correction is over {n_tests} tests at level "
        f"{options.alpha:g}. A regression is worse by more than its tolerance and significantly "
        "worse than no change."
    )
