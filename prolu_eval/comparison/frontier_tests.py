"""Frontiers as wholes: hypervolume lost, runs newly dominated, and runs that moved along."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis.pareto import beyond_worst
from prolu_eval.comparison.judging import Finding, Quantity, quantity_of, weigh
from prolu_eval.comparison.tolerance import HYPERVOLUME, Tolerance, parse_tolerances
from prolu_eval.comparison.verdicts import DrawnRun, FrontierPoints, Judgement
from prolu_eval.errors import UsageError
from prolu_eval.metrics import METRICS, metric_key
from prolu_eval.results import Result

Pair = tuple[Result, Result]
Axes = tuple[Tolerance, Tolerance]
Points = NDArray[np.float64]

# Fewer runs span no frontier that one could move along.
FEWEST = 3


@dataclass(frozen=True)
class Side:
    """Some runs' places: points [n, 2] to be minimised, influences [n, 2, n_sequences]."""

    points: Points
    influence: Points


@dataclass(frozen=True)
class ComparablePairs:
    """Comparable pairs of one hook and setting, on both axes."""

    pairs: list[Pair]
    current: Side
    baseline: Side

    @property
    def paired(self) -> bool:
        """Whether both sides were measured on the same tokens."""
        current, baseline = self.pairs[0]
        return current.same_units(baseline, "sequences")


def comparable_pairs(pairs: Iterable[Pair], axes: Axes) -> list[ComparablePairs]:
    """Pairs whose places can be compared, by hook and setting; groups too small are left out."""
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
    """Area that points dominate up to a reference, and its derivative by each coordinate.

    Args:
        points: [n, 2], both coordinates to be minimised.
        reference: [2]; points that are not better than it in both contribute nothing.

    Returns:
        The area, and its gradient [n, 2], which is zero for dominated points.
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
) -> list[Finding]:
    """One test per label with enough runs, and one per group of several labels."""
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
                outcome = weigh(row, new, old, tolerance, paired=group.paired)
                tests += [outcome] if isinstance(outcome, Finding) else []
    return tests


def _area(side: Side, chosen: NDArray[np.bool_], reference: Points) -> Quantity:
    """The hypervolume with each sequence's pull on it, to first order (the delta method)."""
    area, gradient = hypervolume_and_gradient(side.points[chosen], reference)
    return Quantity(area, np.einsum("ka,kas->s", gradient, side.influence[chosen]))


def with_movement(
    rows: list[Judgement], found: Sequence[ComparablePairs], axes: Axes
) -> tuple[list[Judgement], list[Judgement]]:
    """Metric rows with those excused that only moved along the frontier, and rows of new places.

    A run has moved along if it is worse on one axis, better on the other, and no run of the
    baseline's frontier dominates it by more than the tolerances: the overall frontier if the run
    was on it, else that of its label. One that is worse on an axis and behind a frontier that it
    was on is newly dominated. An axis that may change neither way excuses nothing.
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
    """The baseline's runs whose frontier a run is held to, and whether it was on that frontier.

    All of the group for a run that no run of the baseline dominated; else those of its own label.
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
        reason=f"is now behind {whose}: better on neither axis",
    )  # fmt: skip


def _dominating(point: Points, others: Points, axes: Axes) -> int | None:
    """Which of others is no worse on both axes and better by more than a tolerance on one."""
    limits = np.array(
        [[axis.limit(value) for axis, value in zip(axes, other, strict=True)] for other in others]
    )
    worse = point - others
    behind = (worse >= 0).all(1) & (worse > limits).any(1)
    return int(np.argmax(np.where(behind, worse[:, 1], -np.inf))) if behind.any() else None


def points_to_draw(
    pairs: Sequence[Pair], new: Sequence[Result], axes: Axes
) -> tuple[FrontierPoints, ...]:
    """Both sides' runs on the axes, by label."""
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
    """The axes to judge frontiers on; None where a tolerance for one of them is lacking."""
    if names is None or names == "none":
        return None
    keys = [metric_key(name.strip(), "--frontier") for name in names.split(",")]
    if len(keys) != 2 or keys[0] == keys[1]:
        raise UsageError("--frontier", f"{names!r} is no pair of metrics", "write x,y or none")
    if any(METRICS[key].direction == "none" for key in keys):
        raise UsageError("--frontier", f"{names!r} has an axis without direction", "name another")
    if any(METRICS[key].over != "sequences" for key in keys):
        raise UsageError("--frontier", f"{names!r} has an axis over tasks", "name another")
    lacking = [key for key in keys if key not in tolerances]
    if lacking and HYPERVOLUME in tolerances:
        remedy = f"name tolerances for {', '.join(lacking)} too, or other axes with --frontier"
        raise UsageError("--tolerance", f"{HYPERVOLUME} is that of {names}", remedy)
    if lacking:
        return None
    return tolerances[keys[0]], tolerances[keys[1]]
