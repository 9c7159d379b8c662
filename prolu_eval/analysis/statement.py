"""The answer in a sentence or two, and a refusal where the data does not support one."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from prolu_eval.analysis.frontiers import Frontier
from prolu_eval.analysis.savings import Lead, Range, Saving
from prolu_eval.estimates import number
from prolu_eval.metrics import METRICS

if TYPE_CHECKING:
    from prolu_eval.analysis.answers import AtBudget, RunPlace

_RIVALS = 3
_THREE = (
    "No lead or saving is stated over three objectives: both are read along the line that joins "
    "neighbouring runs of a frontier, as are attainment surfaces; over three metrics a frontier is "
    "no line. Hypervolumes, their shares, members and epsilon indicators are there."
)


def statement(answer: Frontier, best: str | None = None, others: list[str] | None = None) -> str:
    """What the frontier says of its best variant, against those that follow it.

    Args:
        answer: the frontier.
        best: the variant to speak of; the first of the ranking if None.
        others: those to compare it with, in order.
    """
    ranked = [place.label for place in answer.ranking]
    if len(ranked) < 2:
        return f"{ranked[0]} is the only variant here: there is nothing to compare it with."
    if len(answer.keys) > 2:
        return _THREE
    if not answer.n_replicates:
        return (
            f"No variant is stated to be better: these results hold no sums over sequences of "
            f"{_title(answer.x)} and {_title(answer.y)} to tell it from chance."
        )
    best = best or ranked[0]
    others = [label for label in ranked if label != best] if others is None else others
    sentences = [against(answer, best, other) for other in others[:_RIVALS]]
    if len(others) > _RIVALS:
        sentences.append(f"{len(others) - _RIVALS} further variants are in the table.")
    return " ".join(sentences)


def against(answer: Frontier, one: str, other: str) -> str:
    """What is known of two variants, in one sentence."""
    lead = next(lead for lead in answer.leads if {lead.first, lead.second} == {one, other})
    ahead, behind = _sides(lead, one)
    saved = {s.metric: s for s in answer.savings if (s.first, s.second) == (one, other)}
    shown = saved[answer.x] if saved[answer.x].range else saved[answer.y]
    if all(s.status == "no shared range" for s in saved.values()):
        return _incomparable(answer, one, other)
    if any(s.status in ("certain", "likely") for s in saved.values()):
        if not _is_better(shown):
            one, other, ahead, behind = other, one, behind, ahead
            shown = next(s for s in answer.savings if (s.first, s.second, s.metric)
                         == (one, other, shown.metric))  # fmt: skip
        where = f" for {_title(answer.x)} {ranges(ahead)}" if ahead else ""
        reverse = f"; {other} is better for {_title(answer.x)} {ranges(behind)}" if behind else ""
        said = "" if shown.amount.value is None else f": {amount(shown)}{_equal(shown)}"
        return f"{one} is better than {other}{where}{said}{reverse}."
    if ahead or behind:
        parts = [
            f"{label} is better for {_title(answer.x)} {ranges(spans)}"
            for label, spans in ((one, ahead), (other, behind))
            if spans
        ]
        return f"{one} and {other} are tied on average; {', '.join(parts)}."
    return f"{one} and {other} {tied(one, list(saved.values()), shown)}."


def tied(one: str, saved: Sequence[Saving], shown: Saving) -> str:
    """What there is to say of two that are tied, of whom ``one`` has ``shown`` of all savings.

    An interval of it that excludes zero is explained: that alone makes no lead.
    """
    if shown.amount.value is None:
        return "are tied within what these runs can tell"
    text = f"are tied within what these runs can tell: {one} has {amount(shown)}{_equal(shown)}"
    if not shown.amount.excludes_zero:
        return text
    known = [s for s in saved if s is not shown and s.amount.value is not None]
    for other in known:
        equal = f"at equal {_title(other.at_equal)}"
        if not other.amount.excludes_zero:
            return f"{text}, but {equal} they are not told apart: {amount(other)}"
        if _is_better(other) != _is_better(shown):
            return f"{text}, but {equal} {amount(other)}"
    return f"{text}, which is not certain once all comparisons are counted"


def _incomparable(answer: Frontier, one: str, other: str) -> str:
    text = f"{one} and {other} are not comparable along their frontiers: no shared range"
    for first, second in ((one, other), (other, one)):
        found = [d for d in answer.dominations if (d.first, d.second) == (first, second)]
        if found:
            return f"{text}; {found[0].better} is better than {found[0].worse} on both."
    return f"{text}; no run of either is better than one of the other on both."


def _is_better(saving: Saving) -> bool:
    return (saving.amount.value or 0) > 0


def _sides(lead: Lead, one: str) -> tuple[list[Range], list[Range]]:
    sides = lead.first_ahead, lead.second_ahead
    return sides if lead.first == one else (sides[1], sides[0])


def amount(saving: Saving) -> str:
    """A saving in words: ``31 % [26, 35] fewer active features``, signs as the metric has them."""
    if saving.amount.value is None:
        return "-"
    metric = METRICS[saving.metric]
    less = "fewer active features" if metric.key == "l0" else f"less {metric.title}"
    more = "more active features" if metric.key == "l0" else f"more {metric.title}"
    if metric.direction == "max":
        gained = saving.amount.value >= 0
        shown = saving.amount if gained else saving.amount.scaled(-1)
        return f"{shown} {more if gained else less}"
    saved = saving.amount.value >= 0
    shown = saving.amount if saved else saving.amount.scaled(-1)
    return f"{shown:%} {less if saved else more}"


def at_budgets(keys: Sequence[str], parts: "Sequence[AtBudget]") -> list[str]:
    """What is best at each budget, and the best run near it, in a sentence or two each.

    Args:
        keys: the objectives, in the order of runs' values.
        parts: variants at budgets, of each budget the best first.
    """
    found = []
    for (metric, budget), those in groupby(parts, key=lambda part: (part.metric, part.budget)):
        variants = list(those)
        place = f"{_title(metric)} {number(budget)}"
        best = variants[0]
        if best.rank is None:
            axis = keys.index(metric)
            runs = [part.nearest for part in variants]
            run = min(runs, key=lambda run: abs((run.values[axis].value or 0.0) - budget))
            found.append(
                f"No variant has runs on both sides of {place}; the nearest run is "
                f"{_place(run, keys)}."
            )
            continue
        tied = [part.label for part in variants[1:] if part.rank == 1]
        value = f"{_title(best.other)} {best.value}"
        if tied:
            said = f"{best.label}, {value}, is not told from {', '.join(tied)}"
        else:
            said = f"{best.label} {'is best:' if variants[1:] else 'has'} {value}"
        found.append(f"At {place}, {said}. Best run near {place}: {_place(best.nearest, keys)}.")
    return found


def _place(run: "RunPlace", keys: Sequence[str]) -> str:
    """A run and its values."""
    values = zip(keys, run.values, strict=True)
    return f"{run.name} ({', '.join(f'{_title(key)} {value:v}' for key, value in values)})"


def _equal(saving: Saving) -> str:
    """At equal values of what, and over which."""
    title = _title(saving.at_equal)
    return f" at equal {title}" + (f" ({ranges([saving.range])})" if saving.range else "")


def _title(key: str) -> str:
    return METRICS[key].title


def ranges(spans: list[Range]) -> str:
    """Stretches in words: ``3 to 12 and 40 to 68``."""
    return " and ".join(
        f"{number(low, abs(low) / 2)} to {number(high, abs(high) / 2)}" for low, high in spans
    )
