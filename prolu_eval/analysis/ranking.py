"""The ranking of variants by savings at equal quality, in which ties stay ties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prolu_eval.analysis.dominations import Domination


@dataclass(frozen=True)
class Rank:
    """A variant's rank.

    ``rank`` is one more than the number of variants that are better. ``tied_with`` are the variants
    that are neither known to be better nor known to be worse.
    """

    label: str
    rank: int
    tied_with: tuple[str, ...]


def ranking(
    labels: Sequence[str],
    better: Mapping[tuple[str, str], int],
    gaps: Mapping[tuple[str, str], float],
    known: Sequence[Domination],
    runs: Mapping[str, int],
) -> list[Rank]:
    """Rank variants by how many others are better than each, then by mean gaps to all others.

    Variants with the same number of better ones are ordered by scores, which least squares computes
    from the gaps of pairs (Jiang et al., Statistical ranking and combinatorial Hodge theory,
    Mathematical Programming 127, 2011). Where two variants share no range, one is better if its
    runs dominate every run on the other's frontier.

    Args:
        labels: the variants.
        better: by pair, -1 if the first is better, 1 if the second is, 0 if neither is known to be.
        gaps: by pair that shares a range, the mean gap; negative where the first is better.
        known: the certain dominations between runs.
        runs: by variant, how many configurations are on its frontier.
    """
    ahead = {label: set[str]() for label in labels}  # the variants that are better than each
    for (first, second), sign in better.items():
        if not sign and (first, second) not in gaps:
            sign = by_dominations(first, second, known, runs)
        if sign:
            one, other = (first, second) if sign < 0 else (second, first)
            ahead[other].add(one)
    scores = _scores(labels, gaps)
    order = sorted(labels, key=lambda label: (len(ahead[label]), scores[label], label))
    return [
        Rank(
            label,
            1 + len(ahead[label]),
            tuple(
                other
                for other in order
                if other != label and other not in ahead[label] and label not in ahead[other]
            ),
        )
        for label in order
    ]


def by_dominations(
    first: str, second: str, known: Sequence[Domination], runs: Mapping[str, int]
) -> int:
    """-1 if the first's runs dominate all of the second's frontier, 1 if vice versa, else 0."""
    for sign, (one, other) in ((-1, (first, second)), (1, (second, first))):
        beaten = {d.worse for d in known if (d.first, d.second) == (one, other)}
        if beaten and len(beaten) == runs.get(other, 0):
            return sign
    return 0


def _scores(labels: Sequence[str], gaps: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Scores whose differences fit the gaps by least squares; 0 for variants without gaps."""
    rows = np.zeros((len(gaps), len(labels)))
    for row, (first, second) in zip(rows, gaps, strict=True):
        row[labels.index(first)], row[labels.index(second)] = 1, -1
    values = np.linalg.lstsq(rows, np.array(list(gaps.values()), float), rcond=None)[0]
    return dict(zip(labels, values.tolist() if len(gaps) else [0.0] * len(labels), strict=True))
