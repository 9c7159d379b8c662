"""Tests of whole frontiers: hypervolume lost, runs newly dominated, runs moved along them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.pareto import beyond_worst
from prolu_eval.comparison.judging import DifferenceTest, Quantity, difference_test, quantity_of
from prolu_eval.comparison.tolerance import HYPERVOLUME, Tolerance, parse_tolerances
from prolu_eval.comparison.verdicts import DrawnRun, FrontierPoints, Judgement
from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS, metric_key
from prolu_eval.results import Result

Pair = tuple[Result, Result]
Axes = tuple[Tolerance, Tolerance]
Points = NDArray[np.float64]

# Fewer runs than this do not form a frontier that a run could move along.
FEWEST = 3


@dataclass(frozen=True)
class Side:
    """The places of one side's runs on the axes.

    ``points`` [n, 2] are costs, of which less is better; ``influence`` [n, 2, n_sequences] is the
    influence of each sequence on them.
    """

    points: Points
    influence: Points


@dataclass(frozen=True)
class ComparablePairs:
    """The comparable pairs of one hook point and setting, with their places on both axes."""

    pairs: list[Pair]
    current: Side
    baseline: Side

    @property
    def paired(self) -> bool:
        """Whether both sides were measured on the same tokens."""
        current, baseline = self.pairs[0]
        return current.same_units(baseline, "sequences")


def comparable_pairs(pairs: Iterable[Pair], axes: Axes) -> list[ComparablePairs]:
    """The pairs with places on both axes, grouped by hook point and setting.

    Groups of fewer than three pairs are left out.
    """
    members: dict[object, list[Pair]] = defaultdict(list)
    for pair in pairs:
        new, old = pair
        members[old.comparison_key(), new.comparison_key()].append(pair)
    found = []
    for together in members.values():
        places = [(_place(new, axes), _place(old, axes)) for new, old in together]
        kept = [
            (p, new, old) for p, (new, old) in zip(together, places, strict=True) if new and old
        ]
        if len(kept) >= FEWEST:
            current = _side([place for _, place, _ in kept], axes)
            baseline = _side([place for _, _, place in kept], axes)
            found.append(ComparablePairs([pair for pair, _, _ in kept], current, baseline))
    return found


def _place(result: Result, axes: Axes) -> list[Quantity] | None:
    place = [m for axis in axes if (m := quantity_of(result, axis.key)) and m.influence is not None]
    return place if len(place) == len(axes) else None


def _side(places: Sequence[list[Quantity]], axes: Axes) -> Side:
    signs = np.array([1.0 if METRICS[axis.key].direction == "min" else -1.0 for axis in axes])
    points = np.array([[m.value for m in place] for place in places])
    influence = np.array([[m.influence for m in place] for place in places])
    return Side(points * signs, influence * signs[:, None])


def hypervolume_and_gradient(points: Points, reference: Points) -> tuple[float, Points]:
    """The area that points dominate up to a reference point, and its gradient.

    Args:
        points: costs, of which less is better in both columns. [n, 2]
        reference: the reference point; points that are not better than it in both columns
            contribute nothing. [2]

    Returns:
        The area, and its derivative by each coordinate [n, 2], which is zero for dominated points.
    """
    gradient = np.zeros_like(points)
    inside = np.flatnonzero((points < reference).all(1))
    order = inside[np.lexsort(points[inside].T[::-1])]
    best = np.minimum.accumulate(points[order, 1])
    front = (
        order[np.concatenate(([True], points[order[1:], 1] < best[:-1]))] if len(order) else order
    )
    x, y = points[front].T
    widths = np.diff(np.append(x, reference[0]))
    heights = -np.diff(np.insert(y, 0, reference[1]))
    gradient[front, 0], gradient[front, 1] = -heights, -widths
    return float((widths * (reference[1] - y)).sum()), gradient


def hypervolume_tests(
    found: Sequence[ComparablePairs], axes: Axes, tolerance: Tolerance | None
) -> list[DifferenceTest]:
    """One test for each label with enough runs, and one for each group of several labels."""
    tolerance = tolerance or parse_tolerances()[HYPERVOLUME]
    tests = []
    for group in found:
        reference = beyond_worst(group.baseline.points)
        labels = np.array([baseline.run.label for _, baseline in group.pairs])
        hook = f" at {group.pairs[0][1].run.site}" if len(found) > 1 else ""
        parts = {f"frontier of {label}": labels == label for label in dict.fromkeys(labels)}
        if len(parts) > 1:
            parts = {"overall frontier": labels == labels} | parts
        for name, chosen in parts.items():
            if chosen.sum() >= FEWEST:
                row = Judgement(name + hook, f"hypervolume({axes[0].key}, {axes[1].key})", "pass")
                new = _area(group.current, chosen, reference)
                old = _area(group.baseline, chosen, reference)
                outcome = difference_test(row, new, old, tolerance, paired=group.paired)
                tests += [outcome] if isinstance(outcome, DifferenceTest) else []
    return tests


def _area(side: Side, chosen: NDArray[np.bool_], reference: Points) -> Quantity:
    """The hypervolume with each sequence's influence on it, to first order (the delta method)."""
    area, gradient = hypervolume_and_gradient(side.points[chosen], reference)
    return Quantity(area, np.einsum("ka,kas->s", gradient, side.influence[chosen]))


def with_movement(
    rows: list[Judgement], found: Sequence[ComparablePairs], axes: Axes
) -> tuple[list[Judgement], list[Judgement]]:
    """Tell runs that only moved along the frontier from runs that are newly dominated.

    A run has moved along the frontier if it is worse on one axis, better on the other, and no run
    of the baseline's frontier dominates it by more than the tolerances. That frontier is the
    overall one if the run was on it in the baseline, and else the one of its label. A run that is
    worse on an axis and is dominated by a frontier that it was on is newly dominated. A regression
    on an axis whose tolerance forbids changes either way is never excused.

    Returns:
        The rows of metrics, in which regressions of runs that moved along have the verdict
        ``moved``; and one row for each newly dominated run.
    """
    verdicts = {(row.run, row.metric): row.verdict for row in rows}
    excused: set[str] = set()
    places: list[Judgement] = []
    for group in found:
        for i, (_, baseline) in enumerate(group.pairs):
            name = baseline.run.name
            on_axes = {verdicts.get((name, axis.key)) for axis in axes}
            if "regression" not in on_axes:
                continue
            rivals, was_ahead = _rivals(group, i, axes)
            ahead = _dominating(group.current.points[i], group.baseline.points[rivals], axes)
            if ahead is None and "improvement" in on_axes:
                excused.add(name)
            elif ahead is not None and was_ahead:
                by = group.pairs[rivals[ahead]][1].run.name
                places.append(_newly_dominated(name, by, axes))
    keys = {axis.key for axis in axes if axis.worse}
    moved = [
        replace(row, verdict="moved")
        if row.verdict == "regression" and row.metric in keys and row.run in excused
        else row
        for row in rows
    ]
    return moved, places


def _rivals(group: ComparablePairs, i: int, axes: Axes) -> tuple[NDArray[np.intp], bool]:
    """The baseline's runs that a run is compared with, and whether it was on their frontier.

    They are all runs of the group if none of them dominated the run in the baseline, and else the
    runs of its own label.
    """
    everyone = np.arange(len(group.pairs))
    if _dominating(group.baseline.points[i], group.baseline.points, axes) is None:
        return everyone, True
    labels = np.array([baseline.run.label for _, baseline in group.pairs])
    own = everyone[labels == labels[i]]
    was_ahead = _dominating(group.baseline.points[i], group.baseline.points[own], axes) is None
    return own, was_ahead


def _newly_dominated(name: str, by: str, axes: Axes) -> Judgement:
    whose = "its own result in the baseline" if by == name else f"{by} of the baseline"
    return Judgement(
        name, f"place on ({axes[0].key}, {axes[1].key})", "regression",
        reason=f"is now dominated by {whose}",
    )  # fmt: skip


def _dominating(point: Points, others: Points, axes: Axes) -> int | None:
    """The one of ``others`` that dominates the point by the most on the second axis, if any does.

    To dominate it means to be no worse on both axes and better by more than the tolerance on one.
    """
    limits = np.array(
        [[axis.limit(value) for axis, value in zip(axes, other, strict=True)] for other in others]
    )
    worse = point - others
    behind = (worse >= 0).all(1) & (worse > limits).any(1)
    return int(np.argmax(np.where(behind, worse[:, 1], -np.inf))) if behind.any() else None


def points_to_draw(
    pairs: Sequence[Pair], new: Sequence[Result], axes: Axes
) -> tuple[FrontierPoints, ...]:
    """The places of both sides' runs on the axes, by label."""
    baseline, current = [old for _, old in pairs], [run for run, _ in pairs] + list(new)
    labels = sorted({result.run.label for result in [*baseline, *current]})
    return tuple(
        FrontierPoints(
            label,
            axes[0].key,
            axes[1].key,
            _drawn(baseline, label, axes),
            _drawn(current, label, axes),
        )
        for label in labels
    )


def _drawn(results: Iterable[Result], label: str, axes: Axes) -> list[DrawnRun]:
    found = []
    for result in (result for result in results if result.run.label == label):
        x, y = (quantity_of(result, axis.key) for axis in axes)
        if x is not None and y is not None:
            found.append((result.run.name, x.value, y.value))
    return found


def frontier_axes(names: str | None, tolerances: dict[str, Tolerance]) -> Axes | None:
    """The axes to judge frontiers on; None if one of them has no tolerance."""
    if names is None or names == "none":
        return None
    keys = [metric_key(name.strip(), "--frontier") for name in names.split(",")]
    if len(keys) != 2 or keys[0] == keys[1]:
        raise UsageError("--frontier", f"{names!r} is not a pair of metrics", "write x,y or none")
    if any(METRICS[key].direction == "none" for key in keys):
        reason = f"{names!r} has an axis without a better direction"
        raise UsageError("--frontier", reason, "name another metric")
    if any(METRICS[key].over != "sequences" for key in keys):
        reason = f"{names!r} has an axis that is measured over tasks"
        raise UsageError("--frontier", reason, "name a metric that is measured over tokens")
    lacking = [key for key in keys if key not in tolerances]
    if lacking and HYPERVOLUME in tolerances:
        remedy = f"name tolerances for {', '.join(lacking)} too, or other axes with --frontier"
        reason = f"{HYPERVOLUME} needs tolerances for both axes, {names}"
        raise UsageError("--tolerance", reason, remedy)
    if lacking:
        return None
    return tolerances[keys[0]], tolerances[keys[1]]
