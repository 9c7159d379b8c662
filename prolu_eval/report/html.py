"""The report: one HTML file that needs nothing else, from stored results alone."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from prolu_eval import __version__
from prolu_eval.analysis import Frontier, Group, comparable, frontier, resample, statement
from prolu_eval.metrics import METRICS
from prolu_eval.report.figures import bias_histograms, negative_biases, scatter, styles
from prolu_eval.results import Result, write_atomically

# Figures over two metrics: keys, title, whether both are objectives, and how to read it.
_PAIRS = (
    ("l0", "ce_degradation", "L0 against CE degradation", True,
     "The write-up's target: fewer active features for less damage to the language model. Lower "
     "left is better; lines join each variant's own nondominated runs."),
    ("l1", "mse", "MSE against L1", True,
     "The proxy that training minimises. A variant that leads above and not here gains from the "
     "slack between the proxy and the target."),
    ("l0", "l1", "L1 against L0", False,
     "Feature suppression: at equal L0, a variant with larger L1 shrinks its active features less. "
     "Lines join the runs of a sweep."),
    ("sqrt_l1", "mse", "MSE against sqrt-L1", True,
     "The proxy of the sqrt-L1 penalty; the write-up had not logged it."),
    ("l0", "sqrt_l1", "sqrt-L1 against L0", False,
     "The suppression curve in terms of sqrt-L1."),
)  # fmt: skip

_TABLE = (
    "l0", "ce_degradation", "ce_recovered_zero", "kl", "explained_variance", "mse", "l1", "sqrt_l1",
    "relative_reconstruction_bias", "dead_fraction", "dense_fraction", "bias_negative_fraction",
)  # fmt: skip


def write_report(
    results: Sequence[Result],
    path: Path,
    *,
    keys: tuple[str, ...] = ("l0", "ce_degradation"),
    splits: Mapping[str, Sequence[float]] | None = None,
    reference: Mapping[str, float] | None = None,
    title: str = "Sparse autoencoders compared",
    command: str | None = None,
) -> Path:
    """Write a report of results; those that cannot be compared with each other stand apart.

    Raises:
        UsageError: if x or y is no objective.
        ResultsError: if the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("prolu_eval.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    answers = [
        (
            group,
            frontier(
                group,
                *keys,
                replicates=resample(group, keys),
                splits=splits,
                reference=reference,
            ),
        )
        for group in comparable(results)
    ]
    page = environment.get_template("report.html.j2").render(
        title=title,
        command=command,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        groups=[_group(group, i, answer) for i, (group, answer) in enumerate(answers)],
        metrics=METRICS.values(),
        plotly=_plotly(),
    )
    write_atomically(path, page.encode())
    return path


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _group(group: Group, index: int, answer: Frontier) -> dict[str, Any]:
    """Everything the template shows of one group."""
    x, y = answer.keys[:2]
    figures = []
    pairs = [pair for pair in _PAIRS if pair[:2] != (x, y)]
    first = next((pair for pair in _PAIRS if pair[:2] == (x, y)), None) or (
        x, y, f"{METRICS[y].title} against {METRICS[x].title}", True, "The objectives asked for."
    )  # fmt: skip
    for key_x, key_y, title, is_frontier, reading in (first, *pairs):
        figures.append(
            {
                "id": f"g{index}-{key_x}-{key_y}",
                "title": title,
                "reading": reading,
                "definitions": [METRICS[key] for key in (key_x, key_y)],
                "figure": scatter(group, key_x, key_y, frontier=is_frontier),
            }
        )
    return {
        "id": f"g{index}",
        "title": group.title,
        "sentence": statement(answer),
        "frontier": answer,
        "figures": figures,
        "biases": bias_histograms(group),
        "negative": negative_biases(group),
        "styles": styles(group.table["label"].tolist()),
        "columns": [METRICS[key] for key in _TABLE],
        "rows": [_row(row, answer.frontier) for row in group.table.to_dict("records")],
        "setting": group.results[0].setting.model_dump(),
        "environments": _environments(group),
        "origins": [_origin(result) for result in group.results],
    }


def _row(row: dict[Any, Any], on_frontier: Sequence[str]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "label": row["label"],
        "coefficient": None if pd.isna(row["coefficient"]) else row["coefficient"],
        "seed": None if pd.isna(row["seed"]) else int(row["seed"]),
        "on_frontier": row["name"] in on_frontier,
        "cells": [
            None if pd.isna(row[key]) else (row[key], row[f"{key}_low"], row[f"{key}_high"])
            for key in _TABLE
        ],
    }


def _environments(group: Group) -> list[str]:
    """The distinct environments that results of a group were measured in."""
    return sorted(
        {
            ", ".join(f"{k} {v}" for k, v in result.environment.items() if v is not None)
            for result in group.results
        }
    )


def _origin(result: Result) -> dict[str, str]:
    return {
        "name": result.run.name,
        "path": result.run.path,
        "format": result.run.format,
        "fingerprint": result.fingerprint,
    }
