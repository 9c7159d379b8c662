"""Options that several commands share; those of an evaluation follow from its description."""

from dataclasses import field, make_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from prolu_eval.errors import UsageError
from prolu_eval.evaluation.options import EvaluationOptions, Panel, metric_value, option_name


def _described(field: str) -> str | None:
    """What the help of an evaluation says of an option."""
    fields: dict[str, FieldInfo] = EvaluationOptions.__pydantic_fields__  # type: ignore[attr-defined]
    return fields[field].description


Runs = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of runs, single checkpoints, hub:owner/name[/folder], or names of SAELens's "
        "table: saelens:RELEASE/SAE_ID (or a pattern), neuronpedia:MODEL/SOURCE."
    ),
]
OptionalRuns = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders of runs, single checkpoints, hub:owner/name[/folder], or names of SAELens's "
        "table: saelens:RELEASE/SAE_ID (or a pattern), neuronpedia:MODEL/SOURCE. "
        "None are needed with --plugin."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the text or the token ids [default: input_ids, tokens, text or content]"
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, ..., or several that share the work: cuda:0,cuda:1, or all [default: cuda "
        "where there is one]"
    ),
]
On = Annotated[str | None, typer.Option(help=_described("on"))]
Ray = Annotated[str | None, typer.Option(help=_described("ray"))]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no remarks.")]

# How options are written on a command line whose Python types are no single value.
_WRITTEN: dict[str, Any] = {
    "target_se": list[str] | None,
    "race": bool,
    **dict.fromkeys(("shard", "measure", "tasks", "k"), str | None),
}

X = Annotated[str, typer.Option("-x", "--x", help="First objective.")]
Y = Annotated[
    str,
    typer.Option(
        "-y",
        "--y",
        help="Second objective; on benchmarks with known features, nmse in the place of "
        "ce_degradation.",
    ),
]
Z = Annotated[str | None, typer.Option("-z", "--z", help="Third objective, if any.")]


class EvaluatingCommand(TyperCommand):
    """A command that takes the options of an evaluation too; :func:`chosen` gives them to it.

    Help shows options under their panels, and a value that is none of its choices is told in one
    line, as every other mistake.
    """

    def __init__(self, *arguments: Any, params: list[Any], **settings: Any) -> None:
        super().__init__(*arguments, params=[*params, *_evaluation_parameters()], **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            option = error.param.opts[0] if error.param is not None else self.name
            reason = error.message.rstrip(".")
            raise UsageError(str(option), reason, f"see `prolu-eval {self.name} --help`") from None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (described := parameter.get_help_record(ctx)) is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panel = getattr(parameter, "rich_help_panel", None) or kind
                sections.setdefault(panel, []).append(described)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


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
        rich_help_panel=panel.value,
        callback=_keep,
        expose_value=False,
    )


def metric_values(option: str, texts: list[str] | None) -> list[tuple[str, float]]:
    """Metrics and numbers of an option that may be given several times, as METRIC=VALUE.

    Raises:
        UsageError: if one is not that.
    """
    return [metric_value(option, text) for text in texts or ()]
