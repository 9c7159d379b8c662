"""Answers and comparisons as GitHub-flavoured Markdown."""

import html
import re
from collections.abc import Sequence

from prolu_eval.analysis import Answer
from prolu_eval.comparison.verdicts import Comparison, Judgement
from prolu_eval.render.better import TITLE, about_better, better_of, better_table
from prolu_eval.render.chance import about_chance_runs, chance_tables
from prolu_eval.render.contents import Heading, Part, answer_contents, split_contents
from prolu_eval.render.tables import (
    HEADER,
    Table,
    cells,
    folder_tables,
    remarks,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@:^$-])")
_MARK = {
    "pass": "✅",
    "improvement": "🎉",
    "moved": "↔️",
    "regression": "❌",
    "incomparable": "⚠️",
}
# GitHub refuses a job summary above 1 MiB.
_MOST_ROWS = 1000


def escape(text: str) -> str:
    """Text with its Markdown and HTML characters escaped, also for cells of tables."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def table(content: Table) -> list[str]:
    """The lines of a table, with the characters of its cells escaped."""
    head, rows = content
    return [_line(head), "|" + " --- |" * len(head), *(_line(list(map(escape, r))) for r in rows)]


def frontier_markdown(answer: Answer) -> str:
    """A group's answer as Markdown."""
    parts = answer_contents(answer)
    if (whole := better_of(answer)) is not None:
        parts += [Heading(TITLE, 2), whole.sentence, better_table(whole), about_better(whole)]
    if answer.group.chance:
        parts += [Heading("Chance baselines", 2), about_chance_runs(answer.group)]
        parts += chance_tables(answer)
    return "\n\n".join(map(_shown, [*parts, *split_contents(answer)]))


def _shown(part: Part) -> str:
    match part:
        case Heading(text, level):
            return f"{'#' * (level + 1)} {escape(text)}"
        case str(text):
            return escape(text)
        case content:
            return "\n".join(table(content))


def comparison_markdown(comparison: Comparison) -> str:
    """A comparison: the verdict as a heading, what did not pass in a table, and the rest folded."""
    notable = [row for row in comparison.rows if row.verdict != "pass"]
    passed = [row for row in comparison.rows if row.verdict == "pass"]
    parts = [f"## {_MARK[comparison.verdict]} prolu-eval: {escape(comparison.headline)}", ""]
    if notable:
        parts += [*_judgements(notable), ""]
        parts += [f"- {escape(r.title)}: {escape(w)}" for r in notable if (w := remarks(r))]
        parts += [""]
    if passed:
        parts += ["<details>", f"<summary>{len(passed)} pass</summary>", "", *_judgements(passed)]
        parts += ["", "</details>", ""]
    if few := comparison.too_few_tokens:
        parts += [*(f"- {escape(sentence)}" for sentence in few), ""]
    if comparison.new_runs:
        names = ", ".join(map(escape, comparison.new_runs[:_MOST_ROWS]))
        parts += [f"Not in the baseline: {names}", ""]
    for answer in comparison.folders:
        of = f" of {escape(answer.title)}" if len(comparison.folders) > 1 else ""
        parts += [f"### Which folder is better{of}", "", escape(answer.sentence), ""]
        parts += [line for part in folder_tables(answer) for line in [*table(part), ""]]
    if comparison.update:
        parts += ["To accept the changes:", "", _code(comparison.update), ""]
    parts += [escape(comparison.method), ""]
    return "\n".join(parts)


def _judgements(rows: Sequence[Judgement]) -> list[str]:
    lines = [_line(HEADER), "|" + " --- |" * len(HEADER)]
    for row in rows[:_MOST_ROWS]:
        verdict, *rest = map(escape, cells(row))
        lines.append(_line([f"{_MARK[row.verdict]} {verdict}", *rest]))
    if len(rows) > _MOST_ROWS:
        lines += ["", f"and {len(rows) - _MOST_ROWS} more"]
    return lines


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _code(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"
