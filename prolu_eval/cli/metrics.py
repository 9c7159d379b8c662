"""`prolu-eval metrics`: what is measured, and how it is defined."""

from dataclasses import asdict

import typer

from prolu_eval.cli import app, options, say_document, terminal_width
from prolu_eval.cli.command import BEGIN, Command
from prolu_eval.metrics import METRIC_VERSION, METRICS
from prolu_eval.plain_text import wrapped


@app.command(cls=Command, rich_help_panel=BEGIN)
def metrics(
    as_json: options.Json = False,
) -> None:
    """List every metric with its unit, direction and definition."""
    if as_json:
        document = {
            "metric_version": METRIC_VERSION,
            "metrics": [asdict(metric) for metric in METRICS.values()],
        }
        say_document(document)
        return
    arrows = {"min": "lower is better", "max": "higher is better", "none": ""}
    for metric in METRICS.values():
        remarks = ", ".join(filter(None, (metric.unit, arrows[metric.direction])))
        typer.echo(f"{metric.key}  [{remarks}]" if remarks else metric.key)
        typer.echo(wrapped(f"    {metric.definition}", terminal_width(), indent=" " * 4))
