"""The answer in a sentence or two, which says so where the data supports no conclusion."""

from collections.abc import Sequence
from itertools import combinations, groupby
from typing import TYPE_CHECKING

from prolu_eval.analysis.frontiers import Frontier
from prolu_eval.analysis.savings import Lead, Range, Saving
from prolu_eval.estimates import number
from prolu_eval.metrics import METRICS

if TYPE_CHECKING:
    from prolu_eval.analysis.answers import BudgetReading, RunPlace

_RIVALS = 3
# The headline names this many of the variants that follow the leaders.
_FOLLOWING = 2
_TIED = "are tied within what these runs can tell"
_THREE = (
    "No lead, saving or attainment surface is stated for three objectives, because all of them are "
    "read along a curve and a frontier over three metrics is a surface. Hypervolumes, their "
    "shares, the runs on the frontier and epsilon indicators are given."
)


def statement(answer: Frontier, best: str | None = None, others: list[str] | None = None) -> str:
    """What the frontier says about its best variant, compared with those that follow it.

    Args:
        answer: the frontier.
        best: the variant to compare with the others; None for the first of the ranking.
        others: the variants to compare it with, in order; None for all others of the ranking.
    """
    ranked = [place.label for place in answer.ranking]
    if len(ranked) < 2:
        return f"{ranked[0]} is the only variant here: there is nothing to compare it with."
    if len(answer.keys) > 2:
        return _THREE
    if not answer.n_replicates:
        return (
            f"No variant is stated to be better: these results lack the sums per sequence of "
            f"{_title(answer.x)} and {_title(answer.y)} that tell a difference from chance."
        )
    best = best or ranked[0]
    others = [label for label in ranked if label != best] if others is None else others
    sentences = [against(answer, best, other) for other in others[:_RIVALS]]
    if len(others) > _RIVALS:
        sentences.append(_further(len(others) - _RIVALS))
    return " ".join(sentences)


def _further(n: int) -> str:
    return f"{n} further variant{'s are' if n > 1 else ' is'} in the table."


def headline(answer: Frontier) -> str:
    """The answer at a glance: which variants lead, and by how much, compared with the next two.

    Where that cannot be said in one comparison, the headline is what :func:`statement` says about
    the best variant and the next two: where a single leader is not known to be better than every
    other variant, where leaders share no range, and where there are only two variants, both tied.
    """
    ranked = [place.label for place in answer.ranking]
    if len(ranked) < 2 or len(answer.keys) > 2 or not answer.n_replicates:
        return statement(answer)
    leaders = [place.label for place in answer.ranking if place.rank == 1]
    following = {
        label: [saving for leader in leaders if (saving := _lead_over(answer, leader, label))]
        for label in ranked
        if label not in leaders
    }
    comparable = all(_stated(answer, *pair).range for pair in combinations(leaders, 2))
    if len(leaders) > 1 and len(ranked) > 2 and comparable:
        sentences = [f"{listed(leaders)} {_TIED}."]
        behind = {label: savings for label, savings in following.items() if savings}
        sentences += [_led(leaders, label, behind[label]) for label in list(behind)[:_FOLLOWING]]
    elif len(leaders) == 1 and all(following.values()):
        behind = following
        sentences = [_best(leaders[0], [savings[0] for savings in behind.values()][:_FOLLOWING])]
    else:
        return statement(answer, others=ranked[1 : 1 + _FOLLOWING])
    if len(behind) > _FOLLOWING:
        sentences.append(_further(len(behind) - _FOLLOWING))
    return " ".join(sentences)


def _lead_over(answer: Frontier, one: str, other: str) -> Saving | None:
    """The saving of a variant that is known to be better than another; None if it is not."""
    saving = _stated(answer, one, other)
    return saving if saving.status in ("certain", "likely") and _is_better(saving) else None


def _best(one: str, savings: Sequence[Saving]) -> str:
    """The sentence that a variant is better than all others, with the savings given."""
    than = [f"{amount(saving)} than {saving.second}" for saving in savings]
    equal = [f"at equal {_title(saving.at_equal)}" for saving in savings]
    if len(set(equal)) == 1:
        return f"{one} is best: {equal[0]} it has {listed(than)}."
    return (
        f"{one} is best: it has {listed([f'{a} {b}' for a, b in zip(than, equal, strict=True)])}."
    )


def _led(leaders: Sequence[str], other: str, savings: Sequence[Saving]) -> str:
    """The sentence that tied leaders are better than another, with the least and most saving."""
    if len(savings) == len(leaders):
        subject = "Both are" if len(savings) == 2 else "All of them are"
    else:
        subject = listed([s.first for s in savings]) + (" is" if len(savings) == 1 else " are")
    alike = [saving for saving in savings if saving.metric == savings[0].metric]
    least, most = (end(alike, key=lambda s: s.amount.value or 0.0) for end in (min, max))
    said = amount(most)
    if least.first != most.first:
        said = f"{_amount(least)[0]} ({least.first}) to {_amount(most)[0]} ({most.first}) "
        said += _amount(most)[1]
    return f"{subject} better than {other}, with {said} at equal {_title(most.at_equal)}."


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence: ``a, b and c``; if they are too many, the first ones and a count."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _stated(answer: Frontier, one: str, other: str) -> Saving:
    """The saving to state for two variants: of the first metric if known, else of the second."""
    saved = {s.metric: s for s in answer.savings if (s.first, s.second) == (one, other)}
    return saved[answer.x] if saved[answer.x].range else saved[answer.y]


def against(answer: Frontier, one: str, other: str) -> str:
    """The comparison of two variants in one sentence."""
    lead = next(lead for lead in answer.leads if {lead.first, lead.second} == {one, other})
    saved = [s for s in answer.savings if (s.first, s.second) == (one, other)]
    shown = _stated(answer, one, other)
    if all(s.status == "no shared range" for s in saved):
        return _incomparable(answer, one, other)
    if any(s.status in ("certain", "likely") for s in saved):
        if not _is_better(shown):
            one, other = other, one
            shown = _stated(answer, one, other)
        said = "" if shown.amount.value is None else f": {amount(shown)}{_equal(shown)}"
        places = _ahead(answer, lead, one, other)
        return f"{one} is better than {other}{said}{f'; {places}' if places else ''}."
    if places := _ahead(answer, lead, one, other):
        return f"{one} and {other} are tied on average; {places}."
    return f"{one} and {other} {tied(one, saved, shown)}."


def _ahead(answer: Frontier, lead: Lead, one: str, other: str) -> str:
    """The ranges in which each of two variants is surely ahead at every place; empty if none."""
    sides = zip((one, other), _sides(lead, one), strict=True)
    parts = [f"{label} is ahead at every single {_title(answer.x)} from {ranges(spans)}"
             for label, spans in sides if spans]  # fmt: skip
    return " and ".join(parts)


def tied(one: str, saved: Sequence[Saving], shown: Saving) -> str:
    """The end of a sentence about two tied variants, which gives ``shown``, the saving of ``one``.

    If the interval of ``shown`` excludes zero, the sentence also explains why the two are tied
    nevertheless.
    """
    if shown.amount.value is None:
        return _TIED
    text = f"{_TIED}: {one} has {amount(shown)}{_equal(shown)}"
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
    """A saving in words, such as ``31 % [26, 35] fewer active features``; less or more by sign."""
    return "-" if saving.amount.value is None else " ".join(_amount(saving))


def _amount(saving: Saving) -> tuple[str, str]:
    """A saving's number with its interval, and the words for what there is less or more of."""
    metric = METRICS[saving.metric]
    less = "fewer active features" if metric.key == "l0" else f"less {metric.title}"
    more = "more active features" if metric.key == "l0" else f"more {metric.title}"
    if metric.direction == "max":
        less, more = more, less
    saved = (saving.amount.value or 0.0) >= 0
    shown = saving.amount if saved else saving.amount.scaled(-1)
    text = f"{shown}" if metric.direction == "max" else f"{shown:%}"
    return text, less if saved else more


def at_budgets(keys: Sequence[str], parts: "Sequence[BudgetReading]") -> list[str]:
    """Which variant is best at each budget, and the best run near it, in a sentence or two each.

    Args:
        keys: the objectives, in the order of runs' values.
        parts: the variants at budgets; those at one budget follow one another, the best first.
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
            said = f"{best.label} has {value} and cannot be told from {listed(tied)}"
        else:
            said = f"{best.label} {'is best:' if variants[1:] else 'has'} {value}"
        found.append(f"At {place}, {said}. Best run near {place}: {_place(best.nearest, keys)}.")
    return found


def _place(run: "RunPlace", keys: Sequence[str]) -> str:
    """A run's name and its values."""
    values = zip(keys, run.values, strict=True)
    return f"{run.name} ({', '.join(f'{_title(key)} {value:v}' for key, value in values)})"


def _equal(saving: Saving) -> str:
    """The words for the metric whose values are equal, and for the range."""
    over = f", on average over {ranges([saving.range])}" if saving.range else ""
    return f" at equal {_title(saving.at_equal)}{over}"


def _title(key: str) -> str:
    return METRICS[key].title


def ranges(spans: list[Range]) -> str:
    """Ranges in words: ``3 to 12 and 40 to 68``."""
    return " and ".join(
        f"{number(low, abs(low) / 2)} to {number(high, abs(high) / 2)}" for low, high in spans
    )
