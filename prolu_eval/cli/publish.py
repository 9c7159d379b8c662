"""`prolu-eval publish`: stored results where others look for them."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, options, remark, say, say_document
from prolu_eval.errors import UsageError

_KINDS = ("card", "saebench")


@app.command()
def publish(
    runs: Annotated[Path, typer.Argument(help="A folder of runs with results, or a hub name.")],
    to: Annotated[
        str,
        typer.Option(
            help="card: README.md beside the checkpoints, with metadata, the table and the figure; "
            "saebench: a JSON file for each run, as SAEBench's core evaluation writes"
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write to [default: RUNS, or RUNS/saebench]"),
    ] = None,
    x: options.X = "l0",
    y: options.Y = "ce_degradation",
    tokens: Annotated[
        str | None, typer.Option(help="Of several evaluations, the one on this text")
    ] = None,
    figure: Annotated[
        bool, typer.Option(help="Draw the frontier into the card, which needs a browser.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Write stored results into a model card, or as files of SAEBench; needs no model, no torch."""
    from prolu_eval.analysis import Question, answer
    from prolu_eval.hub import is_hub_name
    from prolu_eval.publishing import write_card, write_saebench
    from prolu_eval.results import select

    if to not in _KINDS:
        raise UsageError("--to", f"{to!r} is no place", f"choose {' or '.join(_KINDS)}")
    if output is None and is_hub_name(runs):
        raise UsageError(runs, "is the hub's, which is not written to", "name a folder with -o")
    chosen = select([runs], tokens=tokens)
    for sentence in chosen.remarks:
        remark(sentence)
    if to == "saebench":
        written = write_saebench(chosen.results, output or runs / "saebench")
    else:
        answers = answer(chosen.results, Question.asked(x, y))
        written = write_card(answers, output or runs, figure=figure)
    if as_json:
        say_document({"written": [str(path) for path in written]})
        return
    for path in written:
        say(f"Wrote {path}")
