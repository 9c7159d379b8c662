"""The result in a sentence or two, and a refusal where the data does not support one."""

from prolu_eval.analysis.frontiers import Frontier
from prolu_eval.analysis.savings import Lead, Saving
from prolu_eval.metrics import METRICS

_RIVALS = 3
_THREE = (
    "No lead or saving is stated over three objectives: both are read along the line that joins "
    "neighbouring runs of a frontier, as are attainment surfaces; over three metrics a frontier is "
    "no line. Hypervolumes, their shares, members and epsilon indicators are there."
)


def statement(answer: Frontier) -> str:
    """What the frontier says of the variant that covers most, against those that follow it.

    A lead is stated only where simultaneous bands show it; else the sentence says what is
    missing.
    """
    variants = [variant.label for variant in answer.variants]
    if len(variants) < 2:
        return f"{variants[0]} is the only variant here: there is nothing to compare it with."
    if len(answer.keys) > 2:
        return _THREE
    if not answer.n_replicates:
        return (
            f"No lead of any variant is stated: these results hold no sums over sequences of "
            f"{_title(answer.x)} and {_title(answer.y)} to tell it from chance."
        )
    best, *others = variants
    sentences = [_against(answer, best, other) for other in others[:_RIVALS]]
    if len(others) > _RIVALS:
        sentences.append(f"{len(others) - _RIVALS} further variants are in the table.")
    if answer.seeds_resampled:
        sentences.append("Intervals are over evaluated sequences and training seeds.")
    else:
        sentences.append(
            "Intervals are over evaluated sequences alone: one seed says nothing of how another "
            "training would turn out."
        )
    return " ".join(sentences)


def _against(answer: Frontier, best: str, other: str) -> str:
    lead = next(lead for lead in answer.leads if {lead.first, lead.second} == {best, other})
    ahead, behind = _sides(lead, best)
    if lead.range is None:
        return (
            f"{best} and {other} share no range of {_title(answer.x)} along their frontiers, so "
            "neither is stated to lead."
        )
    if not ahead and not behind:
        return (
            f"The data does not tell {best} and {other} apart anywhere in their common range of "
            f"{_title(answer.x)}, {_range(lead.range)}."
        )
    if not ahead:
        return f"{other} dominates {best} for {_title(answer.x)} in {_ranges(behind)}." + _saved(
            answer, other, best
        )
    reverse = f", but {other} leads in {_ranges(behind)}" if behind else ""
    return (
        f"{best} dominates {other} for {_title(answer.x)} in {_ranges(ahead)}{reverse}."
        + _saved(answer, best, other)
    )


def _sides(lead: Lead, best: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    sides = lead.first_ahead, lead.second_ahead
    return sides if lead.first == best else (sides[1], sides[0])


def _saved(answer: Frontier, first: str, second: str) -> str:
    """What the first saves of x at equal y, where its interval leaves no doubt of the sign."""
    for saving in answer.savings:
        if (saving.first, saving.second, saving.metric) == (first, second, answer.x):
            low, high = saving.amount.ci95
            if low is None or high is None or low * high <= 0:
                return ""
            return (
                f" It uses {amount(saving)} at equal {_title(answer.y)} (over "
                f"{_range(saving.range)})."
            )
    return ""


def amount(saving: Saving) -> str:
    """A saving in words: ``31 % [26, 35] less L0``."""
    value, (low, high) = saving.amount.value, saving.amount.ci95
    if value is None:
        return "-"
    metric = METRICS[saving.metric]
    if metric.direction == "max":
        interval = "" if low is None else f" [{low:.3g}, {high:.3g}]"
        return f"{value:+.3g}{interval} {metric.title}"
    word, flip = ("less", 1) if value >= 0 else ("more", -1)
    bounds = sorted(flip * 100 * bound for bound in (low, high) if bound is not None)
    interval = f" [{bounds[0]:.3g}, {bounds[1]:.3g}]" if bounds else ""
    return f"{abs(100 * value):.3g} %{interval} {word} {metric.title}"


def _title(key: str) -> str:
    return METRICS[key].title


def _range(span: tuple[float, float] | None) -> str:
    return "no range" if span is None else f"[{span[0]:.3g}, {span[1]:.3g}]"


def _ranges(spans: list[tuple[float, float]]) -> str:
    return " and ".join(_range(span) for span in spans)
