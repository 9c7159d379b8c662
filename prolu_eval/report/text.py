"""The frontier in the terminal and in Markdown: what the report's table says, in columns."""

from collections.abc import Sequence

import pandas as pd

from prolu_eval.analysis import Frontier, Group
from prolu_eval.metrics import METRICS

_SHOWN = ("l0", "ce_degradation", "explained_variance", "dead_fraction")


def columns(x: str, y: str) -> list[str]:
    """The metrics of a table about x and y: those two, then the usual ones."""
    return list(dict.fromkeys((x, y, *_SHOWN)))


def number(value: float, error: float | None = None) -> str:
    """Four significant digits, with the standard error where there is one that says something."""
    if pd.isna(value):
        return "-"
    return f"{value:.4g} ±{error:.1g}" if error and not pd.isna(error) else f"{value:.4g}"


def run_rows(group: Group, answer: Frontier) -> list[list[str]]:
    """One row a run: mark, name, variant, coefficient, metrics. In order of x."""
    rows = []
    for row in group.table.sort_values([answer.x, answer.y], kind="stable").to_dict("records"):
        cells = [
            "*" if row["name"] in answer.frontier else "",
            str(row["name"]),
            str(row["label"]),
            "-" if pd.isna(row["coefficient"]) else f"{row['coefficient']:g}",
        ]
        rows.append(cells + [number(row[k], row[f"{k}_se"]) for k in columns(answer.x, answer.y)])
    return rows


def variant_rows(answer: Frontier) -> list[list[str]]:
    """One row a variant: label, runs, of them on the frontier of all, hypervolume and its share."""
    return [
        [v.label, str(v.runs), str(v.on_frontier), number(v.hypervolume),
         "-" if pd.isna(v.hypervolume_share) else f"{v.hypervolume_share:.1%}"]
        for v in answer.variants
    ]  # fmt: skip


def sentence(group: Group, answer: Frontier) -> str:
    """Which variant covers most, in one sentence, without claiming more than was measured."""
    best = answer.variants[0]
    tokens = f"{group.results[0].setting.n_counted:,} tokens"
    if len(answer.variants) == 1:
        return f"{best.label} is the only variant here, measured on {tokens}."
    on = {v.label: v.on_frontier for v in answer.variants if v.on_frontier}
    held = ", ".join(f"{label} ({n})" for label, n in sorted(on.items(), key=lambda i: -i[1]))
    return (
        f"Of {len(answer.variants)} variants, {best.label} dominates the largest area of "
        f"{METRICS[answer.x].title} against {METRICS[answer.y].title}: "
        f"{best.hypervolume_share:.1%} of what all runs together dominate, measured on {tokens}. "
        f"On the frontier of all runs: {held}."
    )


RUN_HEAD = ("", "run", "variant", "coefficient")
VARIANT_HEAD = ("variant", "runs", "on frontier", "hypervolume", "share")


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def frontier_text(group: Group, answer: Frontier) -> str:
    """A group's frontier for the terminal."""
    head = [*RUN_HEAD, *columns(answer.x, answer.y)]
    reference = ", ".join(number(value) for value in answer.reference)
    return "\n".join(
        (
            group.title,
            plain(head, run_rows(group, answer)),
            "* on the frontier of all runs; ± is one standard error, clustered by sequence",
            "",
            plain(VARIANT_HEAD, variant_rows(answer)),
            f"hypervolumes of ({answer.x}, {answer.y}) are up to ({reference})",
            "",
            sentence(group, answer),
        )
    )
