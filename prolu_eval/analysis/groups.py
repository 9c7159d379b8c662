"""Results that can be compared: those measured at one hook point, in one setting."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from prolu_eval.analysis.pareto import hypervolume, is_nondominated, reference_point
from prolu_eval.results import Result, frame

# Columns of a results table that rows must share to be put on one frontier.
SETTING = [
    "model_fingerprint", "hook", "tokens_fingerprint", "special_tokens", "dtype", "metric_version",
]  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Comparable results, in order of label, coefficient and name, and the table of them."""

    results: tuple[Result, ...]
    table: pd.DataFrame

    @property
    def title(self) -> str:
        """The hook point and the model."""
        first = self.results[0]
        return f"{first.run.hook} of {first.setting.model}"


def comparable(results: Sequence[Result]) -> list[Group]:
    """Split results into groups within which they can be compared, the largest first."""
    if not results:
        return []
    table = frame(results)
    table["position"] = range(len(table))
    groups = []
    for _, rows in table.groupby(SETTING, sort=False):
        ordered = rows.sort_values(["label", "coefficient", "name"], kind="stable")
        members = tuple(results[i] for i in ordered["position"])
        groups.append(Group(members, ordered.drop(columns="position").reset_index(drop=True)))
    return sorted(groups, key=lambda group: -len(group.results))


@dataclass(frozen=True)
class VariantFrontier:
    """One variant's own frontier, and how it stands among all.

    ``hypervolume_share`` is its hypervolume over that of all runs together; ``on_frontier`` counts
    its runs on the frontier of all.
    """

    label: str
    runs: int
    frontier: list[str]
    hypervolume: float
    hypervolume_share: float
    on_frontier: int


@dataclass(frozen=True)
class Frontier:
    """The Pareto frontier of a group over two metrics: of all runs, and of each variant."""

    x: str
    y: str
    reference: tuple[float, float]
    hypervolume: float
    frontier: list[str]
    variants: list[VariantFrontier]


def frontier(group: Group, x: str, y: str) -> Frontier:
    """Compute the frontier of a group; hypervolumes are to the worst x and y of all its runs.

    Raises:
        UsageError: if a metric is unknown or has no better direction.
    """
    table = group.table.sort_values([x, y], kind="stable")
    on = table["name"][is_nondominated(table, x, y)]
    reference = reference_point(table, x, y)
    total = hypervolume(table, x, y, reference)
    variants = []
    for label, rows in table.groupby("label"):
        own = rows["name"][is_nondominated(rows, x, y)]
        volume = hypervolume(rows, x, y, reference)
        variants.append(
            VariantFrontier(
                label=str(label),
                runs=len(rows),
                frontier=own.tolist(),
                hypervolume=volume,
                hypervolume_share=volume / total if total > 0 else float("nan"),
                on_frontier=int(rows["name"].isin(on).sum()),
            )
        )
    variants.sort(key=lambda variant: (-variant.hypervolume, variant.label))
    return Frontier(x, y, reference, total, on.tolist(), variants)
