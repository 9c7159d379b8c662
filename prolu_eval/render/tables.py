"""What tables show, as text: a head and rows, for the terminal, Markdown and pages alike."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from prolu_eval.analysis import Frontier, Group
from prolu_eval.analysis.frontiers import Interval
from prolu_eval.analysis.statement import amount
from prolu_eval.comparison.rows import Row
from prolu_eval.estimates import Estimate, number
from prolu_eval.metrics import METRICS

_SHOWN = ("l0", "ce_degradation", "explained_variance", "dead_fraction")
Table = tuple[Sequence[str], list[list[str]]]


def columns(group: Group, keys: Sequence[str]) -> list[str]:
    """The metrics of a table about some objectives: those, then the usual ones measured."""
    return [key for key in dict.fromkeys((*keys, *_SHOWN)) if key in group.table]


def run_table(group: Group, answer: Frontier) -> Table:
    """One row a run: mark, name, variant, coefficient, membership, metrics. In order of x."""
    shown = columns(group, answer.keys)
    head = ["", "run", "variant", "coefficient", *(["P(on)"] if answer.membership else []), *shown]
    rows = []
    ordered = group.table.sort_values(list(answer.keys), kind="stable")
    for row in ordered.to_dict("records"):
        cells = [
            "*" if row["name"] in answer.frontier else "",
            str(row["name"]),
            str(row["label"]),
            "-" if pd.isna(row["coefficient"]) else f"{row['coefficient']:g}",
        ]
        if answer.membership:
            cells.append(f"{answer.membership[row['name']]:.2f}")
        rows.append(cells + [f"{_measured(row, key):se}" for key in shown])
    return head, rows


def _measured(row: Mapping[Hashable, Any], key: str) -> Estimate:
    value, error = (None if pd.isna(v) else float(v) for v in (row[key], row[f"{key}_se"]))
    return Estimate(value=value, standard_error=error)


def variant_table(answer: Frontier) -> Table:
    """One row a variant: runs, of them on the frontier of all, hypervolume and its shares."""
    head = ["variant", "runs", "on frontier", "hypervolume", "share", "exclusive"]
    return head, [
        [v.label, str(v.runs), str(v.on_frontier),
         f"{_with(v.hypervolume, v.hypervolume_ci95):v}",
         f"{_with(v.hypervolume_share, v.hypervolume_share_ci95):%}",
         f"{_with(v.exclusive_share, v.exclusive_share_ci95):%}"]
        for v in answer.variants
    ]  # fmt: skip


def _with(value: float | None, interval: Interval) -> Estimate:
    return Estimate(value=value, ci95=interval)


def saving_table(answer: Frontier) -> Table:
    """What the variant of each pair with the larger hypervolume saves, where that is defined."""
    ranks = {variant.label: i for i, variant in enumerate(answer.variants)}
    head = ["variant", "against", "takes", "at equal", "over"]
    return head, [
        [s.first, s.second, amount(s), METRICS[s.at_equal].title,
         f"{number(s.range[0])} to {number(s.range[1])}"]
        for s in answer.savings if s.range and ranks[s.first] < ranks[s.second]
    ]  # fmt: skip


HEADER = ("verdict", "run", "metric", "baseline", "current", "difference", "95 % interval",
          "tolerance", "sure to catch", "p (Holm)")  # fmt: skip
N_TEXTS = HEADER.index("baseline")


def cells(row: Row) -> tuple[str, ...]:
    """A judgement's cells under :data:`HEADER`."""
    low, high = row.ci95
    difference = "" if row.difference is None else f"{row.difference:+.4g}"
    if row.difference is not None and row.baseline:
        difference += f" ({row.difference / abs(row.baseline):+.1%})"
    return (
        row.verdict,
        row.run,
        row.metric or "",
        "" if row.baseline is None else f"{row.baseline:.4g}",
        "" if row.current is None else f"{row.current:.4g}",
        difference,
        "" if low is None or high is None else f"{low:+.3g} to {high:+.3g}",
        row.tolerance or "",
        "" if row.detectable is None else f"{row.detectable:.3g}",
        "" if row.p_value is None else f"{row.p_value:.2g}",
    )


def remarks(row: Row) -> str:
    """Why, and what to do, in a sentence; empty if the numbers say it all."""
    return "; ".join(filter(None, (row.reason, row.remedy)))
