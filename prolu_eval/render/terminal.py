"""Answers and comparisons for the terminal: sentences, and rows in columns."""

from prolu_eval.analysis import Answer
from prolu_eval.analysis.overlap import l0_diagnostic
from prolu_eval.comparison.verdicts import WEAK, Comparison
from prolu_eval.plain_text import aligned, wrapped
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


def frontier_text(answer: Answer, width: int | None = None) -> str:
    """A group's answer.

    Args:
        answer: what is shown.
        width: of the terminal, which lines are fitted to; None for lines as long as they are.
    """
    group, found = answer.group, answer.details
    parts = [_shown(part, width) for part in answer_contents(answer)]
    if group.chance:
        parts.append(wrapped(about_chance_runs(group), width))
        parts += [plain(table, width) for table in chance_tables(answer)]
    if len(found.keys) == 2:
        parts.append(plot(group, found, width))
    if "l0" in found.keys and (told := l0_diagnostic(group)):
        parts.append(wrapped("\n".join(told), width))
    return "\n\n".join([*parts, *(_shown(part, width) for part in split_contents(answer))])


def _shown(part: Part, width: int | None) -> str:
    match part:
        case Heading(text, _) | str(text):
            return wrapped(text, width)
        case table:
            return plain(table, width)


def plain(table: Table, width: int | None = None) -> str:
    """Rows as aligned columns, in a terminal's width if there is one."""
    head, rows = table
    return "\n".join(aligned([head, *rows], width))


def comparison_text(
    comparison: Comparison, *, everything: bool = False, width: int | None = None
) -> str:
    """A table, those that fail first, and the verdict; many rows that pass are only counted.

    Args:
        comparison: what is shown.
        everything: whether all rows that pass are shown.
        width: of the terminal, which lines are fitted to; None for lines as long as they are.
    """
    rows = comparison.rows
    if len(rows) > _MANY and not everything:
        rows = [row for row in rows if row.verdict != "pass"]
    table = [HEADER, *map(cells, rows)] if rows else []
    table = [line[:_LEFT_OUT] + line[_LEFT_OUT + 1 :] for line in table]
    lines = aligned(table, width)
    told = [f"  {row.title}: {why}" for row in rows if (why := remarks(row)) and why != WEAK]
    if hidden := len(comparison.rows) - len(rows):
        told.append(f"{hidden} pass; --all shows them")
    if comparison.new_runs:
        told.append(f"not in the baseline: {', '.join(comparison.new_runs)}")
    told += [comparison.method, *comparison.too_few_tokens, comparison.headline]
    lines += [wrapped(sentence, width) for sentence in told]
    for answer in comparison.folders:
        of = [f"{answer.title}:"] if len(comparison.folders) > 1 else []
        lines += ["", *of, wrapped(answer.sentence, width)]
        for part in folder_tables(answer):
            lines += ["", *aligned([part[0], *part[1]], width)]
    if comparison.update:
        lines.append(f"To accept: {comparison.update}")
    return "\n".join(lines) + "\n"
