"""`prolu-eval convert`: the same autoencoders in another format."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolu_eval.cli import app, remark, say, say_document
from prolu_eval.errors import CHECK_FAILED, DONE, WRONG_INPUT, ProluEvalError, UsageError

if TYPE_CHECKING:
    from prolu_eval.runs import Run
    from prolu_eval.saes import SparseAutoencoder


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint or folder of them, or hub:...")],
    destination: Annotated[Path, typer.Argument(help="Folder to write, one folder per run.")],
    to: Annotated[str, typer.Option(help="native or saelens")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write checkpoints of any format as native runs, or as what SAELens itself loads."""
    from prolu_eval.checkpoints import discover, load_run
    from prolu_eval.errors import CheckpointError
    from prolu_eval.runs import Broken

    write = _writer(to)
    found = discover(source)
    documents = []
    for item in found:
        target = destination if len(found) == 1 else destination / item.name.replace(":", "/")
        error = None
        try:
            if isinstance(item, Broken):
                raise CheckpointError(item.path, f"cannot be loaded ({item.error})", "mend it")
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise UsageError(target, "exists already", "name a new or empty folder")
            write(target, load_run(item), item)
        except ProluEvalError as failure:
            error = str(failure)
            remark(f"{item.name} skipped: {error}")
        path = None if error else str(target)
        documents.append({"run": item.name, "path": path, "error": error})
        if not as_json and path:
            say(f"Wrote {path}")
    if as_json:
        say_document({"runs": documents})
    n_failed = sum(document["error"] is not None for document in documents)
    failed = WRONG_INPUT if n_failed == len(documents) else CHECK_FAILED
    raise typer.Exit(failed if n_failed else DONE)


def _writer(to: str) -> Callable[[Path, "SparseAutoencoder", "Run"], None]:
    from prolu_eval.checkpoints.native import write_native
    from prolu_eval.checkpoints.saelens_writer import write_saelens

    writers = {"native": write_native, "saelens": write_saelens}
    if to not in writers:
        raise UsageError("--to", f"{to!r} is no format to write", f"choose {', '.join(writers)}")
    return writers[to]
