"""Options that several commands share; those of an evaluation follow from its description."""

import math
from dataclasses import field, make_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from prolu_eval.cli import completion
from prolu_eval.cli.command import PRINTED, QUESTION, RUNNING, Command
from prolu_eval.errors import UsageError
from prolu_eval.evaluation.options import EvaluationOptions, Panel, metric_value, option_name


def _described(field: str) -> str | None:
    """What the help of an evaluation says of an option."""
    fields: dict[str, FieldInfo] = EvaluationOptions.__pydantic_fields__  # type: ignore[attr-defined]
    return fields[field].description


Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUNS",
        help="Folders of runs, single checkpoints, hub:owner/name[/folder], or names of SAELens's "
        "table: saelens:RELEASE/SAE_ID (or a pattern), neuronpedia:MODEL/SOURCE.",
    ),
]
OptionalRuns = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUNS",
        help="Folders of runs, single checkpoints, hub:owner/name[/folder], or names of SAELens's "
        "table: saelens:RELEASE/SAE_ID (or a pattern), neuronpedia:MODEL/SOURCE. "
        "None are needed with --plugin.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help=_described("device"),
        rich_help_panel=RUNNING,
        autocompletion=completion.devices,
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="CLUSTER",
        help="Share the work over a Ray cluster: ray (the one that is running, or this machine's "
        "CPUs and GPUs) or ray://HOST:PORT [default: this machine alone]",
        rich_help_panel=RUNNING,
        autocompletion=completion.words("ray", "ray://"),
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="SETTINGS",
        help=_described("ray"),
        rich_help_panel=RUNNING,
        autocompletion=completion.EVALUATION["ray"],
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=PRINTED),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress bars, no remarks.", rich_help_panel=PRINTED),
]

# How options are written on a command line whose Python types are no single value.
_WRITTEN: dict[str, Any] = {
    "target_se": list[str] | None,
    "race": bool,
    **dict.fromkeys(("shard", "measure", "tasks", "k"), str | None),
}

# What stands for their values in help; that of others says their choices.
_METAVARS = {
    "model": "NAME", "hook": "HOOK", "hook_out": "HOOK", "encoder": "ENCODER",
    "plugin": "MODULE:FUNCTION", "measure": "TASKS", "probe_data": "PATH", "tasks": "NAMES",
    "k": "NUMBERS", "examples": "N", "tokens": "TEXT", "text_column": "COLUMN",
    "context_length": "N", "n_tokens": "N", "target_se": "METRIC=VALUE", "shard": "I/N",
    "shard_tokens": "N", "device": "DEVICE", "device_map": "MAP", "batch_size": "N",
    "on": "CLUSTER", "ray": "SETTINGS", "slurm": "SETTINGS", "max_failures": "N",
    "results": "FOLDER",
}  # fmt: skip

X = Annotated[
    str,
    typer.Option(
        "-x",
        "--x",
        metavar="METRIC",
        help="First objective; `prolu-eval metrics` lists them.",
        rich_help_panel=QUESTION,
        autocompletion=completion.metrics,
    ),
]
Y = Annotated[
    str,
    typer.Option(
        "-y",
        "--y",
        metavar="METRIC",
        help="Second objective; on benchmarks with known features, nmse in the place of "
        "ce_degradation.",
        rich_help_panel=QUESTION,
        autocompletion=completion.metrics,
    ),
]
Z = Annotated[
    str | None,
    typer.Option(
        "-z",
        "--z",
        metavar="METRIC",
        help="Third objective, if any.",
        rich_help_panel=QUESTION,
        autocompletion=completion.metrics,
    ),
]


class EvaluatingCommand(Command):
    """A command that takes the options of an evaluation too; :func:`chosen` gives them to it."""

    def __init__(self, *arguments: Any, params: list[Any], **settings: Any) -> None:
        super().__init__(*arguments, params=[*params, *_evaluation_parameters()], **settings)


def chosen(context: typer.Context, *objectives: str) -> EvaluationOptions:
    """The evaluation that the options of an :class:`EvaluatingCommand` describe.

    Args:
        context: the command's.
        objectives: what ``--race`` is about.

    Raises:
        UsageError: if one is malformed, or at odds with another.
    """
    race = objectives if context.obj["race"] else ()
    return EvaluationOptions(**context.obj | {"race": race})


def _keep(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> None:
    context.ensure_object(dict)[parameter.name] = value


def _evaluation_parameters() -> list[Any]:
    """An option for each field of :class:`EvaluationOptions`, made by Typer."""
    fields: dict[str, FieldInfo] = EvaluationOptions.__pydantic_fields__  # type: ignore[attr-defined]
    described = [
        (
            name,
            Annotated[_written(name, info), _option(name, info)],
            field(default=_default(name, info)),
        )
        for panel in Panel
        for name, info in fields.items()
        if panel in info.metadata
    ]
    app = typer.Typer(add_completion=False)
    app.command()(make_dataclass("Evaluation", described))
    return list(typer.main.get_command(app).params)


def _written(name: str, info: FieldInfo) -> Any:
    """The type of an option, without what only validates."""
    if name in _WRITTEN:
        return _WRITTEN[name]
    is_optional = NoneType in get_args(info.annotation)
    kind: Any = get_args(info.annotation)[0] if is_optional else info.annotation
    plain: Any = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    return plain | None if is_optional else plain


def _default(name: str, info: FieldInfo) -> Any:
    if _WRITTEN.get(name) is bool:
        return False
    return None if info.default_factory is not None or info.default == () else info.default


def _option(name: str, info: FieldInfo) -> Any:
    (panel,) = (part for part in info.metadata if isinstance(part, Panel))
    least = next((part.ge for part in info.metadata if hasattr(part, "ge")), None)
    is_switch = bool in (info.annotation, *get_args(info.annotation))
    names = [] if is_switch else [option_name(name)]  # Typer adds --no-...
    return typer.Option(
        *names,
        help=info.description,
        min=least,
        metavar=None if is_switch else _METAVARS.get(name),
        show_default=info.default != 0 or is_switch,
        rich_help_panel=panel.value,
        autocompletion=completion.EVALUATION.get(name),
        callback=_keep,
        expose_value=False,
    )


def metric_values(option: str, texts: list[str] | None) -> list[tuple[str, float]]:
    """Metrics and numbers of an option that may be given several times, as METRIC=VALUE.

    Raises:
        UsageError: if one is not that.
    """
    return [metric_value(option, text) for text in texts or ()]


def names(option: str, text: str | None) -> list[str] | None:
    """The names of an option that takes several with commas between them.

    Raises:
        UsageError: if there is none.
    """
    if text is None:
        return None
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError(option, "names nothing", "write names with commas between them")
    return list(dict.fromkeys(found))


def numbers(
    option: str, text: str | None, *, least: float | None = None, whole: bool = False
) -> list[float] | None:
    """The numbers of an option that takes several with commas between them: ``8,16,32``.

    Brackets around them, as a sweep file has them, are no mistake.

    Args:
        option: its name, for the error.
        text: as it was given; None if it was not.
        least: the smallest that may be given; None for any above zero.
        whole: whether they must be whole numbers.

    Raises:
        UsageError: if one is none, too small or given twice.
    """
    if text is None:
        return None
    example = "write numbers with commas and without spaces between them, as in " + (
        "0,1,2" if whole else "1,2,4"
    )
    found: list[float] = []
    for part in text.strip().removeprefix("[").removesuffix("]").split(","):
        try:
            value = int(part) if whole else float(part)
        except ValueError:
            reason = (
                f"{part!r} is no {'whole ' if whole else ''}number"
                if part.strip()
                else ("ends with a comma" if text.rstrip().endswith(",") else "lacks a number")
            )
            raise UsageError(option, reason, example) from None
        if not math.isfinite(value) or (value <= 0 if least is None else value < least):
            bound = "0 or less" if least is None else f"less than {least:g}"
            reason = f"{part.strip()} is {bound}" if math.isfinite(value) else f"{value} is none"
            raise UsageError(option, reason, example)
        if value in found:
            raise UsageError(option, f"names {part.strip()} twice", "name it once")
        found.append(value)
    return found
