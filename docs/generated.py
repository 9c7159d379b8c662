"""The tables of the reference, made from the code that they describe whenever the site is built."""

import html
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import typer
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema
from typer.main import get_command

from prolu_eval.cli import app
from prolu_eval.metrics import COLUMNS, METRICS, Metric, improves_with_tokens

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
    yield "Of the text", [m for m in of_sequences if improves_with_tokens(m)]
    yield (
        "Of weights, features and samples",
        [m for m in of_sequences if not improves_with_tokens(m)],
    )
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


def sweep_file() -> str:
    """Every setting of a sweep file, by its table."""
    from prolu_eval.training.config import Shared, Sweep, SweepFile, Within

    tables = (
        ("[shared]", Shared), ("[within]", Within), ("[[sweep]]", Sweep),
        ("Beside the tables", SweepFile),
    )  # fmt: skip
    return "\n\n".join(f"## {title}\n\n{_settings(title, model)}" for title, model in tables)


def _settings(table: str, model: type[BaseModel]) -> str:
    from prolu_eval.training.mistakes import CALLED

    schema, entries = model.model_json_schema(), []
    for name, setting in schema["properties"].items():
        kinds = " or ".join(dict.fromkeys(_kinds(setting)))
        if not kinds:  # a table, which has its own list
            continue
        anchor = f"{re.sub(r'[^a-z]', '', table.casefold())}-{name}"
        value = setting.get("default")
        default = "no default" if value is None else f"default: {json.dumps(value)}"
        told = "required" if name in schema.get("required", ()) else default
        told = html.escape(f"{kinds}; {told}")
        called = _code(CALLED.get(name, name))
        effect = html.escape(setting.get("description", ""), quote=False)
        entries.append(
            f'<dt id="{anchor}">{called} <span class="told">{told}</span></dt><dd>{effect}</dd>\n'
        )
    return f'<dl class="settings">\n{"".join(entries)}</dl>'


def _kinds(setting: dict[str, Any]) -> Iterator[str]:
    """What a setting takes, in words of TOML; nothing for tables of their own."""
    for choice in setting.get("anyOf", [setting]):
        if "enum" in choice:
            yield from map(json.dumps, choice["enum"])
        elif "const" in choice:
            yield json.dumps(choice["const"])
        elif choice.get("type") == "array":
            for kind in _kinds(choice["items"]):
                yield f"list of {kind}"
        elif "type" in choice and choice["type"] != "null":
            yield choice["type"].replace("object", "table")


def sweep_example() -> str:
    """The commented sweep file that `prolu-eval sweep --example` prints."""
    from prolu_eval.training import EXAMPLE

    return f"```toml\n{EXAMPLE.read_text(encoding='utf-8')}```"


def formats() -> str:
    """Every checkpoint format that is recognised, and whether it is loaded."""
    from prolu_eval.checkpoints import FORMATS

    rows = (
        f"| `{name}` | {'no' if name == 'temporal' else 'yes'} | {_summary(module)} |"
        for name, fmt in FORMATS.items()
        for module in [sys.modules[fmt.find.__module__]]
    )
    return "\n".join(["| format | loaded | files |", "|---|---|---|", *rows])


def variants() -> str:
    """Every variant: how it encodes, whether it is trained here, and its options."""
    from prolu_eval.saes import OF_SEVERAL_SITES, VARIANTS
    from prolu_eval.training.objectives import OBJECTIVES

    rows = []
    for name, variant in {**VARIANTS, **OF_SEVERAL_SITES}.items():
        objective = OBJECTIVES.get(name)
        varies = "no"
        if objective is not None:
            varies = "yes, over `k`" if objective.takes_k else "yes, with "
            varies += ", ".join(f"`{penalty}`" for penalty in objective.penalties)
        options = ", ".join(
            f"`{option} = {json.dumps(field.default)}`"
            for option, field in variant.Options.model_fields.items()
        )
        rows.append(f"| `{name}` | {_summary(variant)} | {varies} | {options} |")
    head = ["| variant | codes | trained by `sweep` | options and defaults |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _summary(documented: Any) -> str:
    first = (documented.__doc__ or "").strip().partition("\n\n")[0]
    return "`".join(_cell(part) if i % 2 == 0 else part
                    for i, part in enumerate(" ".join(first.split()).split("``")))  # fmt: skip


class _WithNulls(GenerateJsonSchema):
    """Schemas of what is printed, where a number that is undefined is null."""

    def float_schema(self, schema: core_schema.FloatSchema) -> dict[str, Any]:
        return {"anyOf": [super().float_schema(schema), {"type": "null"}]}


def _stored() -> dict[str, type[BaseModel]]:
    """What files hold, by the name of its schema."""
    from prolu_eval import baseline, results

    return {
        f"result-{results.SCHEMA_VERSION}": results.Result,
        f"baseline-{baseline.SCHEMA_VERSION}": baseline.Document,
    }


def _printed() -> dict[str, Any]:
    """What --json prints, by the name of its schema."""
    from prolu_eval.comparison import documents as of_comparisons
    from prolu_eval.render import documents as of_frontiers

    return {
        f"frontier-{of_frontiers.SCHEMA_VERSION}": of_frontiers.FrontierDocument,
        f"comparison-{of_comparisons.SCHEMA_VERSION}": of_comparisons.ComparisonDocument,
    }


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schemas of files and documents, by the name that each is published under."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    stored = {
        kind: model.model_json_schema(mode="serialization") for kind, model in _stored().items()
    }
    printed = {
        kind: TypeAdapter(model).json_schema(mode="serialization", schema_generator=_WithNulls)
        for kind, model in _printed().items()
    }
    return {f"{kind}.schema.json": dialect | schema for kind, schema in (stored | printed).items()}


def schema_links() -> str:
    """Where the schemas of stored files are."""
    return _links(_stored())


def printed_schema_links() -> str:
    """Where the schemas of printed documents are."""
    return _links(_printed())


def _links(kinds: Iterable[str]) -> str:
    names = (f"{kind}.schema.json" for kind in kinds)
    return "\n".join(f"- [{name}](../schemas/{name})" for name in names)


def stored_fields() -> str:
    """The fields of a result's JSON file, of its run and of its setting."""
    (name,) = (name for name in schemas() if name.startswith("result"))
    schema = schemas()[name]
    parts = {"A result": schema, **{f"`{key}`": schema["$defs"][key] for key in _PARTS}}
    return "\n\n".join(f"## {title}\n\n{_fields(part)}" for title, part in parts.items())


_PARTS = ("RunSummary", "Setting", "Estimate", "TaskSet", "Dropped")


def _fields(schema: dict[str, Any]) -> str:
    rows = (
        f"| `{name}` | {_cell(_typed(field))} | "
        f"{'yes' if name in schema.get('required', ()) else 'no'} |"
        for name, field in schema["properties"].items()
    )
    return "\n".join(["| field | type | always there |", "|---|---|---|", *rows])


def _typed(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "anyOf" in field:
        return " or ".join(map(_typed, field["anyOf"]))
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    if isinstance(values := field.get("additionalProperties"), dict):
        return f"object of {_typed(values)}"
    if isinstance(items := field.get("items"), dict):
        return f"array of {_typed(items)}"
    return str(field.get("type", "any"))


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        metrics, sums, commands, sweep_file, sweep_example, formats, variants, schema_links,
        printed_schema_links, stored_fields,
    )
}  # fmt: skip
