"""A comparison as one page that needs no network: both frontiers overlaid, and every judgement."""

from html import escape
from typing import Any

import pandas as pd

from prolu_eval.analysis import pareto_frontier
from prolu_eval.comparison.rows import VERDICTS, Comparison, FrontierPoints, Place
from prolu_eval.render.environment import plotly_library, rendered
from prolu_eval.render.figures import axis_title, styles
from prolu_eval.render.tables import HEADER, N_TEXTS, cells, remarks


def comparison_page(comparison: Comparison) -> str:
    """The page. Everything that comes from files is escaped."""
    return rendered(
        "comparison_page.html.j2",
        comparison=comparison,
        figure=figure(comparison) if comparison.points else None,
        header=HEADER,
        n_texts=N_TEXTS,
        cells=cells,
        remarks=remarks,
        notable=[row for row in comparison.rows if row.verdict != "pass"],
        passed=[row for row in comparison.rows if row.verdict == "pass"],
        meanings=VERDICTS,
        plotly=plotly_library() if comparison.points else "",
    )


def figure(comparison: Comparison) -> dict[str, Any]:
    """Each label's runs then (open, dotted) and now (filled, solid) on the frontier's axes.

    Lines join the nondominated runs of a label; rings mark runs that got worse.
    """
    points = comparison.points
    style = styles([part.label for part in points])
    traces = []
    for part in points:
        for when, places in (("baseline", part.baseline), ("current", part.current)):
            if places:
                traces += _traces(part, when, places, *style[part.label])
    failing = {row.run for row in comparison.runs if row.verdict == "regression"}
    rings = [place for part in points for place in part.current if place[0] in failing]
    if rings:
        traces.append(_rings(rings))
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": axis_title(points[0].x)}, "automargin": True},
            "yaxis": {"title": {"text": axis_title(points[0].y)}, "automargin": True},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
            "hovermode": "closest",
        },
    }


def _traces(
    part: FrontierPoints, when: str, places: list[Place], colour: str, symbol: str
) -> list[dict[str, Any]]:
    """The line of one side's frontier, and the markers of all its runs."""
    table = pd.DataFrame(places, columns=["run", part.x, part.y])
    line = pareto_frontier(table, part.x, part.y)
    now = when == "current"
    common = {"type": "scatter", "name": escape(part.label), "legendgroup": part.label}
    return [
        common | {
            "mode": "lines", "x": line[part.x].tolist(), "y": line[part.y].tolist(),
            "line": {"color": colour, "width": 1.5, "dash": "solid" if now else "dot"},
            "hoverinfo": "skip", "showlegend": False,
        },
        common | {
            "mode": "markers", "x": table[part.x].tolist(), "y": table[part.y].tolist(),
            "showlegend": now or not part.current,
            "text": [f"{escape(name)}, {when}" for name in table["run"]],
            "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            "marker": {
                "color": colour, "symbol": symbol if now else f"{symbol}-open",
                "size": 7 if now else 11,
            },
        },
    ]  # fmt: skip


def _rings(places: list[Place]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": "worse", "hoverinfo": "skip",
        "x": [x for _, x, _ in places], "y": [y for _, _, y in places],
        "marker": {"symbol": "circle-open", "size": 19, "color": "#d1242f", "line": {"width": 2}},
    }  # fmt: skip
