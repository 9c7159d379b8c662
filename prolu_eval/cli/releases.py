"""`prolu-eval list`: the public autoencoders that a name stands for."""

from typing import Annotated, Any

import typer

from prolu_eval.cli import app, completion, options, say_document, say_table
from prolu_eval.cli.command import EXCHANGE, QUESTION, Command
from prolu_eval.errors import UsageError


@app.command("list", cls=Command, rich_help_panel=EXCHANGE)
def list_releases(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="saelens, for all of its table; or a name of it, with * for a pattern.",
            autocompletion=completion.words("saelens", "saelens:", "neuronpedia:"),
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only those of models named so.", rich_help_panel=QUESTION
        ),
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Only those whose names say this of the hook or layer.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Only those whose release or loader says this, such as topk.",
            rich_help_panel=QUESTION,
            autocompletion=completion.words(
                "standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka", "transcoder"
            ),
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the public autoencoders in SAELens's table, whose names every command takes."""
    from prolu_eval.releases import NEURONPEDIA, SAELENS, all_entries, entries

    if what in ("saelens", SAELENS):
        found = list(all_entries())
    elif what.startswith((SAELENS, NEURONPEDIA)):
        found = entries(what)
    else:
        raise UsageError(what, "is no list", "write saelens, or saelens:RELEASE")
    chosen = [
        entry
        for entry in found
        if _has(model, entry.model)
        and _has(hook, f"{entry.release} {entry.sae_id} {entry.path}")
        and _has(variant, f"{entry.release} {entry.sae_id} {entry.loader}")
    ]
    if not chosen:
        raise UsageError(what, "has none that is all of this", "leave an option out")
    documents: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "model": entry.model,
            "repository": entry.repository,
            "path": entry.path,
            "loader": entry.loader or "sae_lens",
            "neuronpedia": entry.neuronpedia,
            "l0": entry.l0,
            "overrides": dict(entry.overrides),
        }
        for entry in chosen
    ]
    if as_json:
        say_document({"saes": documents})
        return
    columns = ("name", "model", "loader", "l0", "neuronpedia")
    rows = [["-" if d[c] is None else str(d[c]) for c in columns] for d in documents]
    say_table([columns, *rows])


def _has(wanted: str | None, text: str) -> bool:
    return wanted is None or wanted.lower() in text.lower()
