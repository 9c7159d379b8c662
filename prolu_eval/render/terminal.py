"""Answers and comparisons for the terminal: sentences, and rows in columns."""

from prolu_eval.analysis import Answer
from prolu_eval.analysis.overlap import l0_diagnostic
from prolu_eval.comparison.verdicts import WEAK, Comparison
from prolu_eval.plain_text import aligned
from prolu_eval.render.chance import about_chance_runs, chance_tables
from prolu_eval.render.contents import Heading, Part, answer_contents, split_contents
from prolu_eval.render.tables import (
    HEADER,
    Table,
    cells,
    folder_tables,
    remarks,
)
from prolu_eval.render.terminal_plot import plot

# The column that the terminal has no room for; the Markdown and the page show it.
_LEFT_OUT = HEADER.index("95 % interval")
_MANY = 40


def frontier_text(answer: Answer) -> str:
    """A group's answer as text."""
    group, found = answer.group, answer.details
    parts = [_shown(part) for part in answer_contents(answer)]
    if group.chance:
        parts += [about_chance_runs(group), *map(plain, chance_tables(answer))]
    if len(found.keys) == 2:
        parts.append(plot(group, found))
    if "l0" in found.keys and (told := l0_diagnostic(group)):
        parts.append("\n".join(told))
    return "\n\n".join([*parts, *map(_shown, split_contents(answer))])


def _shown(part: Part) -> str:
    match part:
        case Heading(text, _) | str(text):
            return text
        case table:
            return plain(table)


def plain(table: Table) -> str:
    """Rows as aligned columns."""
    head, rows = table
    return "\n".join(aligned([head, *rows]))


def comparison_text(comparison: Comparison, *, everything: bool = False) -> str:
    """A table with failing rows first, and the verdict; if many rows pass, a count of them."""
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
    for answer in comparison.folders:
        of = [f"{answer.title}:"] if len(comparison.folders) > 1 else []
        lines += ["", *of, answer.sentence]
        for part in folder_tables(answer):
            lines += ["", *aligned([part[0], *part[1]])]
    if comparison.update:
        lines.append(f"To accept: {comparison.update}")
    return "\n".join(lines) + "\n"
