"""`prolu-eval publish`: stored results where others look for them."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, completion, options, remark, say, say_document
from prolu_eval.cli.command import EXCHANGE, QUESTION, WRITTEN, Command
from prolu_eval.errors import UsageError
from prolu_eval.spelling import suggesting

_KINDS = ("card", "saebench")


@app.command(cls=Command, rich_help_panel=EXCHANGE)
def publish(
    runs: Annotated[
        Path,
        typer.Argument(metavar="RUNS", help="A folder of runs with results, or a hub name."),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="card or saebench. card: README.md beside the checkpoints, with metadata, the "
            "table and the figure; saebench: a JSON file for each run, as SAEBench's core "
            "evaluation writes.",
            rich_help_panel=WRITTEN,
            autocompletion=completion.words(*_KINDS),
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder to write to [default: RUNS, or RUNS/saebench]",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    x: options.X = "l0",
    y: options.Y = "ce_degradation",
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Of several evaluations, the one on this text: its name, or the key that is "
            "listed [default: the newest]",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    figure: Annotated[
        bool,
        typer.Option(
            help="Draw the frontier into the card, which needs a browser.",
            rich_help_panel=WRITTEN,
        ),
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Write stored results into a model card, or as files of SAEBench; needs no model, no torch."""
    from prolu_eval.analysis import Question, answer
    from prolu_eval.hub import is_hub_name
    from prolu_eval.publishing import write_card, write_saebench
    from prolu_eval.results import select

    if to not in _KINDS:
        remedy = suggesting(to, _KINDS, f"choose {' or '.join(_KINDS)}")
        raise UsageError("--to", f"{to!r} is none", remedy)
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
