"""`prolu-eval metrics`: what is measured, and how it is defined."""

from dataclasses import asdict
from typing import Annotated

import typer

from prolu_eval.cli import app, say_document
from prolu_eval.metrics import METRIC_VERSION, METRICS


@app.command()
def metrics(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
        typer.echo(f"    {metric.definition}")
