"""`prolu-eval inspect`: what lies in a folder, without evaluating it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prolu_eval.cli import app, remark, say_document
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT, ProluEvalError
from prolu_eval.plain_text import aligned, printable

if TYPE_CHECKING:
    from prolu_eval.runs import Broken, Run

_COLUMNS = ("run", "format", "variant", "d_in", "d_sae", "hook", "hook_out", "model")


@app.command()
def inspect(
    runs: Annotated[
        list[str], typer.Argument(help="Folders, single checkpoints, or hub:owner/name[/folder].")
    ],
    weights: Annotated[
        bool, typer.Option("--weights", help="Also load every checkpoint: names, shapes, NaN.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List every checkpoint with its format, variant, sizes, hook, model and problems."""
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
        document |= {name: getattr(item, name) for name in _COLUMNS[1:]}
        if item.format == "native":
            document["environments"] = item.provenance["config"]["environments"]
        problems += item.problems
        needed = ("hook", "model") if item.d_out is None else ("hook", "hook_out", "model")
        missing = [name.replace("_", "-") for name in needed if getattr(item, name) is None]
        problems += [f"it does not say its {name}: give it with --{name}" for name in missing]
    return document | {"problems": problems}


def _print_table(documents: list[dict[str, Any]]) -> None:
    rows = [["-" if d[name] is None else d[name] for name in _COLUMNS] for d in documents]
    head, *lines = aligned([_COLUMNS, *rows])
    typer.echo(head)
    for line, document in zip(lines, documents, strict=True):
        typer.echo(line)
        for problem in document["problems"]:
            typer.echo(f"    ! {printable(problem)}")
