"""`prolu-eval inspect`: what lies in a folder, without evaluating it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, options, remark, say_document, terminal_width
from prolu_eval.cli.command import CHECKPOINTS, QUESTION, Command
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT, ProluEvalError
from prolu_eval.estimates import unrounded
from prolu_eval.plain_text import aligned, printable, wrapped

if TYPE_CHECKING:
    from prolu_eval.runs import Broken, Run

_COLUMNS = ("run", "format", "variant", "gradient", "penalty", "coefficient", "k", "d_in", "d_sae",
            "hook", "hook_out", "model")  # fmt: skip
_OF_THE_VARIANT = ("gradient", "k")


@app.command(cls=Command, rich_help_panel=CHECKPOINTS)
def inspect(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUNS",
            help="Folders, single checkpoints, or hub:owner/name[/folder].",
        ),
    ],
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Load every checkpoint too: are names and shapes right, is anything NaN?",
            rich_help_panel=QUESTION,
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List every checkpoint with its format, variant, settings, sizes, hook, model and problems."""
    from prolu_eval.checkpoints import discover_all, skipped
    from prolu_eval.runs import Broken

    documents, n_broken = [], 0
    for item in discover_all(runs):
        error = item.error if isinstance(item, Broken) else _damage(item) if weights else None
        documents.append(_document(item, error))
        n_broken += error is not None
    for path in runs:
        for place, reason in skipped(path):
            remark(f"{place} skipped: {reason}")
    if as_json:
        say_document({"runs": documents})
    else:
        _print_table(documents)
    failed = WRONG_INPUT if n_broken == len(documents) else CHECK_FAILED
    raise typer.Exit(failed if n_broken else DONE)


def _damage(run: "Run") -> str | None:
    from prolu_eval.checkpoints import load_run

    try:
        load_run(run)
    except ProluEvalError as error:
        return str(error)
    return None


def _document(item: "Run | Broken", error: str | None) -> dict[str, Any]:
    from prolu_eval.runs import Run

    document: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"run": item.name, "path": str(item.path)}
    problems = [] if error is None else [error]
    if isinstance(item, Run):
        document |= {
            name: item.options.get(name) if name in _OF_THE_VARIANT else getattr(item, name)
            for name in _COLUMNS[1:]
        }
        if item.format == "native":
            document["environments"] = item.provenance["config"]["environments"]
        problems += item.problems
        needed = ("hook", "model") if item.d_out is None else ("hook", "hook_out", "model")
        missing = [name.replace("_", "-") for name in needed if getattr(item, name) is None]
        problems += [f"it does not say its {name}: give it with --{name}" for name in missing]
    return document | {"problems": problems}


def _print_table(documents: list[dict[str, Any]]) -> None:
    rows = [[_cell(document[name]) for name in _COLUMNS] for document in documents]
    width = terminal_width()
    lines = aligned([_COLUMNS, *rows], width)
    if len(lines) == 1 + len(rows):
        head, *lines = lines
        typer.echo(head)
        for line, document in zip(lines, documents, strict=True):
            typer.echo(line)
            _print_problems(document, width)
        return
    for line in lines:
        typer.echo(line)
    for document in documents:
        if document["problems"]:
            typer.echo(f"\n{printable(document['run'])}")
            _print_problems(document, width)


def _cell(value: object) -> object:
    return "-" if value is None else unrounded(value) if isinstance(value, float) else value


def _print_problems(document: dict[str, Any], width: int | None) -> None:
    for problem in document["problems"]:
        typer.echo(wrapped(f"    ! {printable(problem)}", width, indent=" " * 6))
