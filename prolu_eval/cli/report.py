"""`prolu-eval report`: the HTML page of stored results, without a model."""

from pathlib import Path
from typing import Annotated

import typer

from prolu_eval.cli import app, options
from prolu_eval.cli.frontier import (
    Question,
    Reference,
    Splits,
    X,
    Y,
    Z,
    command_line,
    default_report,
)

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Where to write it [default: RUNS/report.html]"),
]
Title = Annotated[str, typer.Option(help="Title of the page.")]


@app.command()
def report(
    runs: options.Runs,
    output: Output = None,
    x: X = "l0",
    y: Y = "ce_degradation",
    z: Z = None,
    split_at: Splits = None,
    reference: Reference = None,
    title: Title = "Sparse autoencoders compared",
) -> None:
    """Write the report of results that are stored already; needs neither model nor torch."""
    from prolu_eval.errors import ResultsError
    from prolu_eval.report import write_report
    from prolu_eval.results import read_result, result_files

    question = Question.asked(x, y, z, split_at, reference)
    for run in runs:
        if not run.is_dir():
            raise ResultsError(run, "is no folder", "name a folder that holds results")
    results = [read_result(file) for file in result_files(runs)]
    if not results:
        raise ResultsError(
            runs[0], "holds no results", "run `prolu-eval evaluate` or `frontier` on it first"
        )
    path = write_report(
        results,
        output or default_report(runs),
        keys=question.keys,
        splits=question.splits,
        reference=question.reference,
        title=title,
        command=command_line("report", runs, question),
    )
    typer.echo(f"Report: {path}")
