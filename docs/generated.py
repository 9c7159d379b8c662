"""The tables of the reference, made from the code that they describe whenever the site is built."""

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.main import get_command

from prolu_eval.cli import app
from prolu_eval.metrics import COLUMNS, METRICS, Metric, grows_surer

_BETTER = {"min": "lower", "max": "higher", "none": ""}


def _code(text: str) -> str:
    return f"<code>{html.escape(text, quote=False)}</code>"


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table, none of it read as Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~^$])", r"\\\1", text)


def metrics() -> str:
    """Every metric, by what it is measured on."""
    return "\n".join(f"## {title}\n\n{_table_of(rows)}\n" for title, rows in _kinds_of_metrics())


def _kinds_of_metrics() -> Iterator[tuple[str, list[Metric]]]:
    every = list(METRICS.values())
    of_sequences = [m for m in every if m.over == "sequences" and not m.needs_truth]
    yield "Of the text", [m for m in of_sequences if grows_surer(m)]
    yield "Of weights, features and samples", [m for m in of_sequences if not grows_surer(m)]
    yield "Of benchmarks with known features", [m for m in every if m.needs_truth]
    yield "Of tasks", [m for m in every if m.over != "sequences"]


def _table_of(rows: list[Metric]) -> str:
    head = "| metric | unit | better | standard error | definition |\n|---|---|---|---|---|\n"
    return head + "\n".join(
        f'| <span id="{m.key}"></span>`{m.key}`<br>{_cell(m.title)} | {_cell(m.unit)} '
        f"| {_BETTER[m.direction]} | {'yes' if m.numerator else 'no'} | {_cell(m.definition)} |"
        for m in rows
    )


def sums() -> str:
    """The sums that are stored of each sequence."""
    rows = (f"| `{name}` | {_cell(meaning)} |" for name, meaning in COLUMNS.items())
    return "\n".join(["| column | sum over counted positions of |", "|---|---|", *rows])


def commands() -> str:
    """Every command: usage, what it does, and its options by panel."""
    return "\n\n".join(_command(words, command) for words, command in every_command())


def every_command() -> Iterator[tuple[str, Any]]:
    """The words of each command, and what Typer makes of it."""
    yield from _below(get_command(app), "prolu-eval")


def _below(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, inner in command.commands.items():
        yield from _below(inner, f"{words} {name}")


def _command(words: str, command: Any) -> str:
    context = typer.Context(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panel = getattr(parameter, "rich_help_panel", None) or kind
            panels.setdefault(panel, []).append(_parameter(words, *record))
    parts = [f"## {words}", *paragraphs, f"```text\n{usage}\n```"]
    for title, entries in panels.items():
        parts += [f"**{title}**", f'<dl class="settings">\n{"".join(entries)}</dl>']
    return "\n\n".join(parts)


# What help says in brackets: a default, limits, or that a value has to be given.
_TOLD = re.compile(r"\s*\[((?:default: |required|x|[\d.]+<=?x)[^\[\]]*)\]")


def _parameter(words: str, names: str, effect: str) -> str:
    """A parameter's entry; what its help says in brackets stands beside its name."""
    told = "; ".join(_TOLD.findall(effect))
    beside = f' <span class="told">{html.escape(told)}</span>' if told else ""
    flag = re.search(r"--([\w-]+)", names)
    anchor = "" if flag is None else f' id="{"-".join([*words.split()[1:], flag[1]])}"'
    effect = html.escape(_TOLD.sub("", effect), quote=False)
    return f"<dt{anchor}>{_code(names)}{beside}</dt><dd>{effect}</dd>\n"


TABLES: dict[str, Callable[[], str]] = {"metrics": metrics, "sums": sums, "commands": commands}
