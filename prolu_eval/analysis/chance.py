"""Do variants beat chance? Each variant is compared with each chance baseline.

The comparisons are paired: both sides are measured on the same sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from prolu_eval.analysis.bootstrap import Replicates
from prolu_eval.analysis.frontiers import Computation
from prolu_eval.analysis.groups import Group
from prolu_eval.analysis.pareto import nondominated
from prolu_eval.analysis.ranking import by_dominations
from prolu_eval.analysis.savings import Saving
from prolu_eval.analysis.statement import amount
from prolu_eval.metrics import METRICS

Standing = Literal["beats", "not told apart", "is behind", "not comparable"]


@dataclass(frozen=True)
class AgainstChance:
    """A variant compared with a chance baseline.

    ``saving`` is how much less of the first objective the variant needs at equal values of the
    second, or the other way round where only that is known. The standings ``beats`` and ``is
    behind`` hold for all pairs of a variant and a baseline at once (Holm). Where the two share no
    range, they follow from runs that dominate every run on the other's frontier.
    """

    variant: str
    baseline: str
    standing: Standing
    saving: Saving


def against_chance(
    group: Group, keys: tuple[str, ...], replicates: Replicates | None
) -> tuple[AgainstChance, ...]:
    """Compare every variant of a group with every one of its chance baselines.

    There are no comparisons if the group has no baselines, if there are three objectives (over
    which no curves are fitted), or if no sequences could be resampled.

    Args:
        group: the runs.
        keys: the objectives.
        replicates: the replicates of all of the group's results, its chance baselines last.
    """
    if group.chance is None or replicates is None or len(keys) != 2:
        return ()
    made = Computation(group.with_chance(), keys, replicates, {})
    curves = made.curves
    if curves is None:
        return ()
    pairs = list(product(group.labels, group.chance.labels))
    statuses = curves.statuses_of(pairs)
    front = {label: int(nondominated(made.points[made.labels == label]).sum())
             for label in curves.labels}  # fmt: skip
    found = []
    for pair in pairs:
        sign, status = statuses[pair]
        if status == "no shared range":
            sign = by_dominations(*pair, made.known, front)
        standing: Standing = "beats" if sign < 0 else "is behind" if sign > 0 else "not told apart"
        if status == "no shared range" and not sign:
            standing = "not comparable"
        over = 1 if curves.over[1].shared(*pair) else 0
        found.append(AgainstChance(*pair, standing, curves.saving(*pair, over, status)))
    return tuple(found)


def about_chance(parts: Sequence[AgainstChance]) -> list[str]:
    """One sentence for each variant that does not beat chance, or one saying that all do.

    Without comparisons there are no sentences.
    """
    if not parts:
        return []
    sentences = []
    for variant in dict.fromkeys(part.variant for part in parts):
        own = [part for part in parts if part.variant == variant]
        tied = [_against(part) for part in own if part.standing == "not told apart"]
        behind = [_name(part) for part in own if part.standing == "is behind"]
        said = [f"is behind {', '.join(behind)}"] if behind else []
        said += [f"cannot be told from {', '.join(tied)}"] if tied else []
        if said:
            sentences.append(f"{variant} does not beat chance: it {', and '.join(said)}.")
    if sentences:
        return sentences
    compared = dict.fromkeys(_name(part) for part in parts if part.standing == "beats")
    if not compared:
        return ["No variant shares a range with a chance baseline."]
    beyond = any(part.standing == "not comparable" for part in parts)
    where = ", wherever the two share a range" if beyond else ""
    return [f"Every variant beats chance ({', '.join(compared)}){where}."]


def _name(part: AgainstChance) -> str:
    return part.baseline.replace("chance: ", "", 1)


def _against(part: AgainstChance) -> str:
    """A baseline's name, with the variant's saving compared with it where that has a value."""
    saving = part.saving
    if saving.amount.value is None:
        return _name(part)
    return f"{_name(part)} ({amount(saving)} at equal {METRICS[saving.at_equal].title})"
