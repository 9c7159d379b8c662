"""The contents of tables as text, with a head and rows, for the terminal, Markdown and pages."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any, NamedTuple

import pandas as pd

from prolu_eval.analysis import Answer, BudgetReading, Frontier, Group, Saving
from prolu_eval.analysis.statement import amount
from prolu_eval.comparison.verdicts import Judgement
from prolu_eval.estimates import Estimate, number, two_digits, unrounded
from prolu_eval.metrics import METRICS
from prolu_eval.results import frame

_SHOWN = ("l0", "ce_degradation", "explained_variance", "dead_fraction")
Table = tuple[Sequence[str], list[list[str]]]


def columns(group: Group, keys: Sequence[str]) -> list[str]:
    """The metrics of a table: the objectives ``keys``, then the usual ones that were measured."""
    return [key for key in dict.fromkeys((*keys, *_SHOWN)) if key in group.table]


def run_table(group: Group, answer: Frontier) -> Table:
    """One row for each run in order of x: marks, name, variant, coefficient, membership, metrics.

    After a race, each run's metrics are on its own tokens, whose number is in the last column.
    :func:`about_marks` explains the marks.
    """
    unfinished = {r.run.name for r in group.results if r.run.not_converged is not None}
    shown = columns(group, answer.keys)
    head = ["", "run", "variant", "coefficient", *(["P(on)"] if answer.membership else []), *shown]
    rows = []
    table = frame(group.raced) if group.raced else group.table
    on = set(answer.frontier)
    told = ["name", "label", "coefficient", "beaten_by", "n_counted"]
    told += [column for key in shown for column in (key, f"{key}_se")]
    for row in table.sort_values(list(answer.keys), kind="stable")[told].to_dict("records"):
        cells = [
            ("*" if row["name"] in on else "")
            + ("~" if row["name"] in unfinished else "")
            + ("" if pd.isna(row["beaten_by"]) else "x"),
            str(row["name"]),
            str(row["label"]),
            unrounded(row["coefficient"]),
        ]
        if answer.membership:
            cells.append(f"{answer.membership[row['name']]:.2f}")
        cells += [f"{measured(row, key):se}" for key in shown]
        rows.append([*cells, f"{row['n_counted']:,}"] if group.raced else cells)
    return [*head, "tokens"] if group.raced else head, rows


def about_marks(group: Group, answer: Frontier) -> str:
    """The meaning of the marks and of P(on) in a table of runs."""
    unfinished = any(result.run.not_converged is not None for result in group.results)
    by_task = " or task" if any(result.tasks for result in group.results) else ""
    shared = (
        f"variants are compared on the {group.results[0].setting.n_counted:,} tokens of all runs"
    )
    lost = ["x left the race: another run is surely better in every objective", shared]
    parts = [
        "* on the frontier of all runs",
        *(["~ not converged"] if unfinished else []),
        *(lost if group.raced else []),
        f"± is one standard error, clustered by sequence{by_task}",
    ]
    if answer.membership:
        parts += ["P(on) is the share of resampled sequences in which no run dominates this one"]
    return "; ".join(parts)


def measured(row: Mapping[Hashable, Any], key: str) -> Estimate:
    """A metric's value and standard error in a row of a table of results."""
    value, error = (None if pd.isna(v) else float(v) for v in (row[key], row[f"{key}_se"]))
    return Estimate(value=value, standard_error=error)


def variant_table(answer: Frontier) -> Table:
    """One row for each variant: its runs, those on the frontier of all, hypervolume and shares."""
    head = ["variant", "runs", "on frontier", "hypervolume", "share", "exclusive"]
    return head, [
        [v.label, str(v.runs), str(v.on_frontier),
         f"{v.hypervolume:v}", f"{v.hypervolume_share:%}", f"{v.exclusive_share:%}"]
        for v in answer.variants
    ]  # fmt: skip


def saving_table(answer: Frontier) -> Table:
    """For each pair, what the variant with the better rank saves, where that is defined."""
    ranks = {place.label: i for i, place in enumerate(answer.ranking)}
    head = ["variant", "compared with", "needs", "at equal", "over"]
    return head, [
        [s.first, s.second, amount(s), METRICS[s.at_equal].title,
         f"{number(s.range[0])} to {number(s.range[1])}"]
        for s in answer.savings if s.range and ranks[s.first] < ranks[s.second]
    ]  # fmt: skip


def budget_tables(answer: Answer) -> list[Table]:
    """A table for each budget, with a row for each variant: its value there, and its nearest run.

    The value is read off the variant's curve and has a 95 % interval; a variant without runs on
    both sides of the budget has no value. Ranks are equal where values cannot be told apart.
    """
    keys = answer.question.keys
    found: list[Table] = []
    for (metric, budget), parts in groupby(answer.at, key=lambda part: (part.metric, part.budget)):
        title = f"{METRICS[metric].title} {number(budget)}"
        rows = [_budget_row(part, keys) for part in parts]
        other = next(METRICS[key].title for key in keys if key != metric)
        head = ["rank", f"at {title}", other, "nearest run", *(METRICS[k].title for k in keys)]
        found.append((head, rows))
    return found


def _budget_row(part: BudgetReading, keys: Sequence[str]) -> list[str]:
    values = [f"{value:se}" for value in part.nearest.values[: len(keys)]]
    return ["-" if part.rank is None else str(part.rank), part.label, f"{part.value}",
            part.nearest.name, *values]  # fmt: skip


def folder_tables(answer: Answer) -> list[Table]:
    """For every two folders, what the first saves over the second, in all and by variant."""
    keys = answer.question.keys
    found: list[Table] = []
    given = answer.group.folders
    for first, second in combinations(given, 2):
        own = [p for p in answer.folders if (p.first, p.second) == (first, second)]
        rows = []
        for variant in dict.fromkeys(part.variant for part in own):
            parts = {p.saving.metric: p.saving for p in own if p.variant == variant}
            known = next(iter(parts.values()))
            ahead = first if (known.amount.value or 0) > 0 else second
            better = ahead if known.status == "likely" else known.status
            amounts = [_less(parts[key]) if key in parts else "no shared range" for key in keys]
            rows.append([variant or "all", *amounts, better])
        if rows:
            titles = [f"{_MORE[METRICS[key].direction]} {METRICS[key].title}" for key in keys]
            found.append(([f"{first} compared with {second}", *titles, "better"], rows))
    return found


_MORE = {"min": "less", "max": "more", "none": ""}


def _less(saving: Saving) -> str:
    """A saving with its interval, in percent or in the metric's unit; a loss is negative."""
    if saving.amount.value is None:
        return saving.status
    return f"{saving.amount:%}" if METRICS[saving.metric].direction == "min" else f"{saving.amount}"


HEADER = ("verdict", "run", "metric", "baseline", "current", "difference", "95 % interval",
          "tolerance", "detectable", "p (Holm)")  # fmt: skip
N_TEXTS = HEADER.index("baseline")


def cells(row: Judgement) -> tuple[str, ...]:
    """A judgement's cells under :data:`HEADER`."""
    old, new = row.values
    relative = f" ({row.relative:+v}%)" if row.relative else ""
    return (
        row.verdict,
        row.run,
        row.metric or "",
        "" if row.baseline is None else old,
        "" if row.current is None else new,
        "" if row.difference is None else f"{row.difference:+v}{relative}",
        "" if row.difference is None else f"{row.difference:+i}",
        row.tolerance or "",
        "" if row.detectable is None else number(row.detectable),
        "" if row.p_value is None else two_digits(row.p_value),
    )


def remarks(row: Judgement) -> str:
    """The reason and the remedy in a sentence; empty if the numbers need no explanation."""
    return "; ".join(filter(None, (row.reason, row.remedy)))


class MatrixCell(NamedTuple):
    """What one variant saves over another, in words and as the class and strength of a colour."""

    text: str
    interval: str
    status: str
    strength: int


def saving_matrix(answer: Frontier) -> dict[str, list[MatrixCell]]:
    """By variant, how much less of the first metric it needs than each variant at an equal second.

    Rows and columns are in the order of the ranking. A cell's ``status`` is "less" or "more" where
    the answer calls one of the two variants better, "tied" where it does not, "none" where nothing
    is known, and "self" on the diagonal. Its ``strength`` is the saving from 0 to 100.
    """
    found = {(s.first, s.second): s for s in answer.savings if s.metric == answer.keys[0]}
    labels = [place.label for place in answer.ranking]
    return {row: [_matrix_cell(found.get((row, column)), row == column) for column in labels]
            for row in labels}  # fmt: skip


def _matrix_cell(saving: Saving | None, own: bool) -> MatrixCell:
    if own:
        return MatrixCell("", "", "self", 0)
    if saving is None or saving.amount.value is None:
        return MatrixCell(saving.status if saving else "no shared range", "", "none", 0)
    amount = saving.amount
    value = amount.value or 0.0
    fraction = METRICS[saving.metric].direction != "max"
    if not fraction:
        text, interval = f"{amount:+v}", f"{amount:i}"
    else:
        shown = amount.scaled(100 if value >= 0 else -100)
        text, interval = f"{shown:v} % {'less' if value >= 0 else 'more'}", f"{shown:i}"
    sure = saving.status in ("certain", "likely")
    status = ("less" if value > 0 else "more") if sure else "tied"
    return MatrixCell(text, interval, status, round(100 * min(1.0, abs(value))))
