"""Figures as data: plotly traces and layouts as plain dictionaries, one function a figure.

Variants have one colour and one marker everywhere. The colours are Okabe and Ito's, which remain
distinct in the common forms of colour blindness; the markers tell variants apart without colour.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from prolu_eval.analysis import Group, is_nondominated
from prolu_eval.metrics import METRICS

Figure = dict[str, Any]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
_BINS = 60


def styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each variant, by order of name."""
    return {
        label: (_COLOURS[i % len(_COLOURS)], _SYMBOLS[i % len(_SYMBOLS)])
        for i, label in enumerate(sorted(set(labels)))
    }


def axis_title(key: str) -> str:
    """A metric's name and unit."""
    metric = METRICS[key]
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _numbers(values: "pd.Series[Any]") -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values.to_numpy(float)]


def _error_bars(rows: pd.DataFrame, key: str, colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": _numbers(rows[f"{key}_high"] - rows[key]),
        "arrayminus": _numbers(rows[key] - rows[f"{key}_low"]),
        "thickness": 1,
        "width": 2,
        "color": colour,
    }


def _hover(rows: pd.DataFrame, x: str, y: str) -> list[str]:
    texts = []
    for row in rows.to_dict("records"):
        coefficient = row["coefficient"]
        known = "" if pd.isna(coefficient) else f"<br>coefficient {coefficient:g}"
        texts.append(
            f"<b>{escape(str(row['name']))}</b><br>{escape(str(row['label']))}{known}"
            + "".join(
                f"<br>{METRICS[key].title}: {row[key]:.4g} "
                f"[{row[f'{key}_low']:.4g}, {row[f'{key}_high']:.4g}]"
                for key in (x, y)
            )
        )
    return texts


def scatter(group: Group, x: str, y: str, *, frontier: bool) -> Figure:
    """Runs over two metrics with 95 % intervals.

    With ``frontier``, lines join each variant's nondominated runs and rings mark those of all;
    without, lines join all runs of a variant in order of ``x``.
    """
    table = group.table.sort_values([x, y], kind="stable")
    style = styles(table["label"].tolist())
    traces: list[dict[str, Any]] = []
    for label, rows in table.groupby("label"):
        colour, symbol = style[str(label)]
        line = rows[is_nondominated(rows, x, y)] if frontier else rows.dropna(subset=[x, y])
        common = {"legendgroup": label, "name": escape(str(label))}
        traces.append(
            {
                **common,
                "type": "scatter",
                "mode": "lines",
                "x": _numbers(line[x]),
                "y": _numbers(line[y]),
                "line": {"color": colour, "width": 1.5},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
        traces.append(
            {
                **common,
                "type": "scatter",
                "mode": "markers",
                "x": _numbers(rows[x]),
                "y": _numbers(rows[y]),
                "error_x": _error_bars(rows, x, colour),
                "error_y": _error_bars(rows, y, colour),
                "marker": {"color": colour, "symbol": symbol, "size": 9},
                "customdata": rows["name"].tolist(),
                "text": _hover(rows, x, y),
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    if frontier:
        best = table[is_nondominated(table, x, y)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "on the frontier of all",
                "x": _numbers(best[x]),
                "y": _numbers(best[y]),
                "marker": {"symbol": "circle-open", "size": 16, "line": {"width": 1.5},
                           "color": "#7f7f7f"},
                "hoverinfo": "skip",
            }
        )  # fmt: skip
    return {"data": traces, "layout": _layout(axis_title(x), axis_title(y))}


def bias_histograms(group: Group) -> dict[str, Figure]:
    """Per variant, the distribution of encoder biases of each run, as a line over bias."""
    biases = {result.run.name: result.per_feature().get("bias") for result in group.results}
    known = [bias for bias in biases.values() if bias is not None]
    if not known:
        return {}
    edges = np.linspace(
        min(float(b.min()) for b in known), max(max(float(b.max()) for b in known), 0.0), _BINS + 1
    )
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, _BINS + 1)
    figures = {}
    for label, rows in group.table.groupby("label"):
        colour, _ = styles(group.table["label"].tolist())[str(label)]
        shades = np.linspace(0.35, 1.0, len(rows))
        traces = []
        for shade, row in zip(shades, rows.to_dict("records"), strict=True):
            bias = biases[row["name"]]
            if bias is None:
                continue
            counts = np.histogram(bias, edges)[0] / len(bias)
            coefficient = row["coefficient"]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "line": {"color": colour, "shape": "hvh", "width": 1 + 1.5 * shade},
                    "opacity": float(shade),
                    "x": ((edges[:-1] + edges[1:]) / 2).round(5).tolist(),
                    "y": counts.round(5).tolist(),
                    "name": escape(str(row["name"]))
                    if pd.isna(coefficient)
                    else f"coefficient {coefficient:g}",
                    "text": escape(str(row["name"])),
                    "hovertemplate": "%{text}<br>bias %{x:.3g}: %{y:.1%}<extra></extra>",
                }
            )
        if traces:
            layout = _layout("encoder bias", "fraction of features")
            layout["yaxis"]["tickformat"] = ".0%"
            figures[str(label)] = {"data": traces, "layout": layout}
    return figures


def negative_biases(group: Group) -> Figure:
    """Fraction of negative encoder biases against the sparsity coefficient, by variant."""
    table = group.table.dropna(subset=["coefficient", "bias_negative_fraction"])
    style = styles(group.table["label"].tolist())
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": escape(str(label)),
            "x": _numbers(rows["coefficient"]),
            "y": _numbers(rows["bias_negative_fraction"]),
            "marker": {"color": style[str(label)][0], "symbol": style[str(label)][1], "size": 9},
            "line": {"color": style[str(label)][0], "width": 1.5},
            "text": [escape(str(name)) for name in rows["name"]],
            "hovertemplate": "%{text}<br>coefficient %{x:g}: %{y:.1%}<extra></extra>",
        }
        for label, rows in table.sort_values("coefficient").groupby("label")
    ]
    layout = _layout("sparsity coefficient", "fraction of biases below zero")
    layout["xaxis"]["type"] = "log"
    layout["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def _layout(x_title: str, y_title: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": x_title}, "automargin": True},
        "yaxis": {"title": {"text": y_title}, "automargin": True},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
        "hovermode": "closest",
    }
