"""How commands show their help, in panels, and tell a wrong command line, in one line."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from prolu_eval.errors import UsageError
from prolu_eval.spelling import suggesting

# The headings in help, beside those of an evaluation's options (prolu_eval.evaluation.options).
ARGUMENTS = "Arguments"
QUESTION = "What is asked"
TRAINED = "What is trained"
SCHEDULE = "For how long, and in what steps"
RUNNING = "Where it runs"
PRINTED = "What is printed"
WRITTEN = "What is written"
FIGURES = "Figures for papers"
OTHERS = "Options"
# Those that commands themselves stand under, in the order of a user's work.
BEGIN = "Begin here"
TRAIN = "Train"
CHECKPOINTS = "Look into checkpoints"
ANSWER = "Evaluate and compare"
EXCHANGE = "Exchange with others"

# Typer brings click along in some versions and depends on it in others: what both raise for a wrong
# command line is what BadParameter derives from.
_WRONG: Any = typer.BadParameter.__mro__[1]


class Command(TyperCommand):
    """A command whose options stand under their panels in help, and whose mistakes are one line."""

    def make_context(
        self, info_name: Any, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        with _in_one_line(self, info_name, parent, args):
            return super().make_context(info_name, args, parent=parent, **extra)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return ["[OPTIONS]", *map(_usage, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_panels(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands; help shows them under their panels."""

    def make_context(
        self, info_name: Any, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        # No words at all ask for help, which is Typer's to give.
        with _in_one_line(self, info_name, parent, args) if args else nullcontext():
            return super().make_context(info_name, args, parent=parent, **extra)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            _raise_no_command(self, ctx, args[0])
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_panels(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            told = " ".join((command.help or "").split("\n\n")[0].split())
            sections.setdefault(str(panel), []).append((name, told))
        _write(sections, formatter)


def write_panels(command: Any, ctx: Any, formatter: Any) -> None:
    """Write what help says of each parameter, under the headings in the order of their options."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        described = parameter.get_help_record(ctx)
        if parameter.param_type_name == "argument":
            described = _name(parameter), parameter.help
        if described is not None:
            sections.setdefault(panel_of(parameter, command), []).append(described)
    last = {title: sections.pop(title) for title in (WRITTEN, PRINTED) if title in sections}
    _write(sections | last, formatter)


def panel_of(parameter: Any, command: Any) -> str:
    """The heading that an option stands under; --help stands with what is printed."""
    if parameter.param_type_name == "argument":
        return ARGUMENTS
    named = getattr(parameter, "rich_help_panel", None)
    if isinstance(named, str):
        return named
    return OTHERS if isinstance(command, Group) else PRINTED


def _write(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def _path(context: Any) -> str:
    return "" if context is None else str(context.command_path)


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(parameter.opts[0] if parameter.opts[0].startswith("--") else parameter.opts[-1])


def _usage(argument: Any) -> str:
    """An argument as a usage line has it: RUNS... for several, in brackets if none is needed."""
    name = _name(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _options(command: Any) -> list[str]:
    return [name for p in command.params for name in (*p.opts, *p.secondary_opts)
            if name.startswith("-")]  # fmt: skip


def _commands(context: Any) -> Iterable[str]:
    names: list[str] = context.command.list_commands(context)
    return names


def _raise_no_command(group: Any, ctx: Any, name: str) -> NoReturn:
    path = _path(ctx)
    see = f"see `{path} --help`"
    if name.startswith("-"):
        raise UsageError(name, f"is no option of `{path}`", see)
    known = group.list_commands(ctx)
    root = ctx.find_root()
    elsewhere = [f"`{root.command_path} {name}`"] if name in _commands(root) else []
    inner = [f"`{path} {other} {name}`" for other in known
             if name in getattr(group.get_command(ctx, other), "commands", ())]  # fmt: skip
    if meant := elsewhere or inner:
        remedy = f"write {' or '.join(meant)}, or {see}"
    elif Path(name).is_dir() and "frontier" in known:
        remedy = f"write a command before it, as in `{path} frontier {name}`, or {see}"
    else:
        remedy = suggesting(name, known, see)
    raise UsageError(name, f"is no command of `{path}`", remedy)


@contextmanager
def _in_one_line(command: Any, name: Any, parent: Any, words: Sequence[str]) -> Iterator[None]:
    """Raise what Typer finds wrong with a command line as one line of this project's own."""
    line = _Line(command, name, parent, tuple(words))  # parsing takes words away
    try:
        yield
    except _WRONG as error:
        line.tell(error)


class _Line:
    """A wrong command line: what is said of it is one line, with what to do."""

    def __init__(self, command: Any, name: Any, parent: Any, words: Sequence[str]) -> None:
        self._command, self._parent, self._words = command, parent, words
        self._path = f"{_path(parent)} {name}".strip()
        self._see = f"see `{self._path} --help`"

    def tell(self, error: Any) -> NoReturn:
        """Raise what Typer found as this project's own error.

        Raises:
            UsageError: always.
        """
        option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
        if option is not None and hasattr(error, "possibilities"):
            self._no_option(str(option))
        if option is not None:
            raise UsageError(
                str(option), "is given no value", f"write one after it, or {self._see}"
            )
        if parameter is None:
            surplus = error.message.rpartition(" (")[2].rstrip(").")
            reason = f"is more than `{self._path}` takes"
            remedy = f"leave it out, put quotes around what belongs together, or {self._see}"
            raise UsageError(surplus, reason, remedy)
        if type(error).__name__ == "MissingParameter":
            named = _name(parameter)
            whole = f"{named} {parameter.metavar}" if named.startswith("-") else named
            raise UsageError(
                named, "is missing", f"write `{self._path} ... {whole}`, or {self._see}"
            )
        self._bad_value(parameter, error.message)

    def _no_option(self, option: str) -> NoReturn:
        reason = f"is no option of `{self._path}`"
        own = _options(self._command)
        inner = isinstance(self._command, Group)
        group = self._command if inner else getattr(self._parent, "command", None)
        commands = group.commands if group else {}
        having = [f"`{name}`" for name, other in commands.items() if option in _options(other)]
        if having:
            where = ", ".join(having)
            remedy = "write it after the command" if inner else "leave it out"
            raise UsageError(option, f"{reason}, but of {where}", f"{remedy}, or {self._see}")
        raise UsageError(option, reason, suggesting(option, own, self._see))

    def _bad_value(self, parameter: Any, message: str) -> NoReturn:
        """What is wrong with a value: the words of several versions of Typer, put into ours."""
        named, given = _name(parameter), self._given(parameter)
        choices = message.partition("one of")[2].split("'")[1::2]
        if choices:
            remedy = suggesting(given, choices, f"choose {', '.join(choices)}")
            raise UsageError(named, f"{given!r} is no choice", remedy)
        kind = "whole number" if "int" in message.replace("Input", "") else "number"
        plain = given.replace(",", "").replace("_", "").replace(" ", "")
        try:
            value = float(plain)
        except ValueError:
            raise UsageError(
                named, f"{given!r} is no {kind}", f"write one, or {self._see}"
            ) from None
        bounds = " and ".join(
            f"{word} {bound:g}"
            for word, bound in (("at least", parameter.min), ("at most", parameter.max))
            if bound is not None
        )
        if _is_outside(value, parameter):
            raise UsageError(named, f"{given} is out of range", f"write {bounds}")
        if kind == "whole number" and value != round(value):
            raise UsageError(named, f"{given!r} is no {kind}", f"write one, or {self._see}")
        written = f"{round(value)}" if kind == "whole number" else f"{value:g}"
        raise UsageError(named, f"{given!r} cannot be read as a {kind}", f"write {written}")

    def _given(self, parameter: Any) -> str:
        """The value of an option on the command line; the last, if there are several."""
        for i, word in reversed(list(enumerate(self._words))):
            name, equals, value = word.partition("=")
            if name in parameter.opts:
                return value if equals else " ".join(self._words[i + 1 : i + 2])
        return ""


def _is_outside(value: float, parameter: Any) -> bool:
    below = parameter.min is not None and value < parameter.min
    return below or (parameter.max is not None and value > parameter.max)
