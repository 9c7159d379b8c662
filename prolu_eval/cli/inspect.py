"""`prolu-eval inspect`: what lies in a folder, without evaluating it."""

from collections.abc import Collection
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
    from prolu_eval.checkpoints import discover_all
    from prolu_eval.runs import TRAIN_LONGER, Broken, Run

    documents, broken, n_unfinished = [], set(), 0
    for item in discover_all(runs):
        error = item.error if isinstance(item, Broken) else _damage(item) if weights else None
        documents.append(_document(item, error))
        if error is not None:
            broken.add(item.name)
        elif isinstance(item, Run) and item.format == "native":
            n_unfinished += item.provenance["config"]["not_converged"] is not None
    if as_json:
        say_document({"runs": documents})
    else:
        _print_table(documents, broken)
    if n_unfinished:
        remark(f"{n_unfinished} of {len(documents)} not converged: {TRAIN_LONGER}.")
    failed = WRONG_INPUT if len(broken) == len(documents) else CHECK_FAILED
    raise typer.Exit(failed if broken else DONE)


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


def _print_table(documents: list[dict[str, Any]], broken: Collection[str]) -> None:
    """Print a row for each checkpoint, with what is doubtful of it; last, those of no use."""
    rows = [[_cell(document[name]) for name in _COLUMNS] for document in documents]
    width = terminal_width()
    lines = aligned([_COLUMNS, *rows], width)
    of_one_line = len(lines) == 1 + len(rows)
    below = [d for d in documents if d["problems"] and d["run"] not in broken and not of_one_line]
    typer.echo(lines[0])
    for i, line in enumerate(lines[1:]):
        typer.echo(line)
        if of_one_line and documents[i]["run"] not in broken:
            _print_problems(documents[i], width)
    for document in [*below, *(d for d in documents if d["run"] in broken)]:
        typer.echo(f"\n{printable(document['run'])}")
        _print_problems(document, width)


def _cell(value: object) -> object:
    return "-" if value is None else unrounded(value) if isinstance(value, float) else value


def _print_problems(document: dict[str, Any], width: int | None) -> None:
    for problem in document["problems"]:
        typer.echo(wrapped(f"    ! {printable(problem)}", width, indent=" " * 6))
