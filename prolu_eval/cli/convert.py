"""`prolu-eval convert`: the same autoencoders in another format."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, remark, say, say_document
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint or folder of them, or hub:...")],
    destination: Annotated[Path, typer.Argument(help="Folder to write, one folder per run.")],
    to: Annotated[str, typer.Option(help="native or saelens")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write checkpoints of any format as native runs, or as what SAELens itself loads."""
    from prolu_eval.interface import convert as convert_runs

    documents = []
    for item in convert_runs(source, destination, to):
        path = None if item.path is None else str(item.path)
        documents.append({"run": item.run, "path": path, "error": item.error})
        if item.error:
            remark(f"{item.run} skipped: {item.error}")
        elif not as_json:
            say(f"Wrote {path}")
    if as_json:
        say_document({"runs": documents})
    n_failed = sum(document["error"] is not None for document in documents)
    failed = WRONG_INPUT if n_failed == len(documents) else CHECK_FAILED
    raise typer.Exit(failed if n_failed else DONE)
