"""`prolu-eval demo`: the whole job on the embedded model."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, options
from prolu_eval.cli.command import BEGIN, WRITTEN, Command

Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="FOLDER",
        help="Folder for the runs and the report.",
        rich_help_panel=WRITTEN,
    ),
]


@app.command(cls=Command, rich_help_panel=BEGIN)
def demo(
    out: Out = Path("demo"),
    device: options.Device = None,
    on: options.On = None,
    ray: options.Ray = None,
    quiet: options.Quiet = False,
) -> None:
    """Train the write-up's four sweeps on the embedded model, evaluate them, write the report."""
    from prolu_eval.analysis import Question
    from prolu_eval.cli.frontier import evaluate_and_answer
    from prolu_eval.cli.sweep import train_and_print
    from prolu_eval.cluster.address import engine_of
    from prolu_eval.devices import devices_of
    from prolu_eval.errors import DONE
    from prolu_eval.evaluation import EvaluationOptions
    from prolu_eval.training import FOUR_SWEEPS, Settings, read_sweep_file

    if on is not None:
        engine_of(on)
    else:
        devices_of(device)
    grid = read_sweep_file(FOUR_SWEEPS)
    if not quiet:
        runs = len(list(grid.plans()))
        typer.echo(f"Training {runs} autoencoders on the embedded model, a few minutes on a CPU.")
    settings = Settings(device, progress=not quiet, on=on, ray=ray)
    trained = train_and_print(grid, out, settings, as_json=False, quiet=quiet)
    chosen = EvaluationOptions(device=device, on=on, ray=ray)
    answered = evaluate_and_answer([out], chosen, Question(), quiet=quiet)
    raise typer.Exit(trained if answered == DONE else answered)
