"""A comparison for the terminal, and its cells for every other table."""

from prolu_eval.comparison.rows import WEAK, Comparison, Row
from prolu_eval.plain_text import aligned

HEADER = ("verdict", "run", "metric", "baseline", "current", "difference", "95 % interval",
          "tolerance", "sure to catch", "p (Holm)")  # fmt: skip
# What the terminal has no room for; the Markdown and the page show it.
_LEFT_OUT = HEADER.index("95 % interval")
_MANY = 40


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells under :data:`HEADER`."""
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


def render(comparison: Comparison, *, everything: bool = False) -> str:
    """A table, those that fail first, and the verdict; many rows that pass are only counted."""
    rows = comparison.rows
    if len(rows) > _MANY and not everything:
        rows = [row for row in rows if row.verdict != "pass"]
    table = [HEADER, *map(cells, rows)] if rows else []
    table = [line[:_LEFT_OUT] + line[_LEFT_OUT + 1 :] for line in table]
    lines = aligned(table)
    lines += [f"  {row.title}: {why}" for row in rows if (why := remarks(row)) and why != WEAK]
    if hidden := len(comparison.rows) - len(rows):
        lines.append(f"{hidden} pass; --all shows them")
    if comparison.new_runs:
        lines.append(f"not in the baseline: {', '.join(comparison.new_runs)}")
    lines += [comparison.method, *comparison.too_few_tokens, comparison.headline]
    if comparison.update:
        lines.append(f"To accept: {comparison.update}")
    return "\n".join(lines) + "\n"
