"""`prolu-eval convert`: the same autoencoders in another format."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, completion, options, remark, say, say_document
from prolu_eval.cli.command import EXCHANGE, WRITTEN, Command
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT


@app.command(cls=Command, rich_help_panel=EXCHANGE)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A checkpoint, a folder of them, or hub:owner/name[/folder]."
        ),
    ],
    destination: Annotated[
        Path,
        typer.Argument(
            metavar="DESTINATION", help="The folder to write, with one folder for each run."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="native or saelens: the format to write.",
            rich_help_panel=WRITTEN,
            autocompletion=completion.words("native", "saelens"),
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Write checkpoints of any format as native runs, or as what SAELens itself loads."""
    from prolu_eval.interface import convert as convert_runs

    documents, failures = [], []
    for item in convert_runs(source, destination, to):
        path = None if item.path is None else str(item.path)
        documents.append({"run": item.run, "path": path, "error": item.error})
        if item.error:
            failures.append(f"{item.run} skipped: {item.error}")
        elif not as_json:
            say(f"Wrote {path}")
    if as_json:
        say_document({"runs": documents})
    for failure in failures:
        remark(failure)
    failed = WRONG_INPUT if len(failures) == len(documents) else CHECK_FAILED
    raise typer.Exit(failed if failures else DONE)
