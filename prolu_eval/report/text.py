"""The frontier in the terminal and in Markdown: what the report's tables say, in columns."""

from collections.abc import Sequence

import pandas as pd

from prolu_eval.analysis import Frontier, Group, statement
from prolu_eval.analysis.statement import amount
from prolu_eval.estimates import Estimate
from prolu_eval.metrics import METRICS
from prolu_eval.plain_text import aligned
from prolu_eval.report.plot import plot

_SHOWN = ("l0", "ce_degradation", "explained_variance", "dead_fraction")
Table = tuple[Sequence[str], list[list[str]]]


def columns(group: Group, keys: Sequence[str]) -> list[str]:
    """The metrics of a table about some objectives: those, then the usual ones measured."""
    return [key for key in dict.fromkeys((*keys, *_SHOWN)) if key in group.table]


def number(value: float | None, error: float | None = None) -> str:
    """Four significant digits, with the standard error where there is one that says something."""
    if value is None or pd.isna(value):
        return "-"
    return f"{value:.4g} ±{error:.1g}" if error and not pd.isna(error) else f"{value:.4g}"


def scalar(value: Estimate) -> str:
    """A value with its interval: ``1.31 [1.28, 1.35]``."""
    if value.value is None:
        return "–"
    low, high = value.ci95
    known = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return f"{value.value:.4g}{known}"


def percent(value: float | None, interval: tuple[float | None, float | None]) -> str:
    """A share with its interval: ``31.2 % [29.8, 32.5]``."""
    if value is None:
        return "-"
    low, high = interval
    known = "" if low is None or high is None else f" [{_hundredths(low)}, {_hundredths(high)}]"
    return f"{_hundredths(value)} %{known}"


def _hundredths(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}"  # no negative zero


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
        rows.append(cells + [number(row[key], row[f"{key}_se"]) for key in shown])
    return head, rows


def variant_table(answer: Frontier) -> Table:
    """One row a variant: runs, of them on the frontier of all, hypervolume and its shares."""
    head = ["variant", "runs", "on frontier", "hypervolume", "share", "exclusive"]
    return head, [
        [v.label, str(v.runs), str(v.on_frontier), number(v.hypervolume),
         percent(v.hypervolume_share, v.hypervolume_share_ci95),
         percent(v.exclusive_share, v.exclusive_share_ci95)]
        for v in answer.variants
    ]  # fmt: skip


def saving_table(answer: Frontier) -> Table:
    """What the variant of each pair with the larger hypervolume saves, where that is defined."""
    ranks = {variant.label: i for i, variant in enumerate(answer.variants)}
    head = ["variant", "against", "takes", "at equal", "over"]
    return head, [
        [s.first, s.second, amount(s), METRICS[s.at_equal].title,
         f"{s.range[0]:.3g} to {s.range[1]:.3g}"]
        for s in answer.savings if s.range and ranks[s.first] < ranks[s.second]
    ]  # fmt: skip


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    return "\n".join(aligned([head, *rows]))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; what would end a cell or start markup in it is escaped."""
    table = [list(head), ["---"] * len(head), *([_escaped(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _escaped(cell: str) -> str:
    text = " ".join(cell.split())
    for character in "\\|<>`*_[]":
        text = text.replace(character, f"\\{character}")
    return text


def frontier_text(group: Group, answer: Frontier, *, as_markdown: bool = False) -> str:
    """A group's frontier for the terminal, or as Markdown."""
    table = markdown if as_markdown else plain
    reference = ", ".join(number(value) for value in answer.reference)
    keys = ", ".join(answer.keys)
    parts = [
        f"## {_escaped(group.title)}" if as_markdown else group.title,
        _escaped(statement(answer)) if as_markdown else statement(answer),
        table(*run_table(group, answer)),
        "* on the frontier of all runs; ± is one standard error, clustered by sequence",
        table(*variant_table(answer)),
        f"Hypervolumes of ({keys}) are up to ({reference}). {_about_intervals(answer)}",
    ]
    savings = saving_table(answer)
    if savings[1]:
        parts.append(table(*savings))
    if len(answer.keys) == 2 and not as_markdown:
        parts.append(plot(group, answer))
    for title, part in answer.stretches.items():
        parts += [f"{'### ' if as_markdown else ''}{title}: {statement(part)}",
                  table(*variant_table(part))]  # fmt: skip
    return "\n\n".join(parts)


def _about_intervals(answer: Frontier) -> str:
    if not answer.n_replicates:
        return "There are no intervals: no sums over sequences to resample."
    over = "sequences and training seeds" if answer.seeds_resampled else "sequences"
    return f"Intervals are 95 %, from {answer.n_replicates} paired resamplings of {over}."
