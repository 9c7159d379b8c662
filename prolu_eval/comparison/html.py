"""A comparison as one page that needs no network: both frontiers overlaid, and every judgement."""

from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from prolu_eval.comparison.rows import VERDICTS, Comparison, FrontierPoints
from prolu_eval.comparison.text import HEADER, cells, remarks
from prolu_eval.report.figures import axis_title, styles


def render(comparison: Comparison) -> str:
    """The page. Everything that comes from files is escaped."""
    environment = Environment(
        loader=PackageLoader("prolu_eval.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("comparison.html.j2").render(
        comparison=comparison,
        figure=figure(comparison.points) if comparison.points else None,
        header=HEADER,
        rows=[(row.verdict, cells(row), remarks(row)) for row in comparison.rows],
        meanings=VERDICTS,
        plotly=get_plotlyjs() if comparison.points else "",
    )


def figure(points: tuple[FrontierPoints, ...]) -> dict[str, Any]:
    """Each label's runs then (open, dotted) and now (filled, solid) on the frontier's axes."""
    style = styles([part.label for part in points])
    traces = [
        _trace(part.label, when, places, *style[part.label])
        for part in points
        for when, places in (("baseline", part.baseline), ("current", part.current))
    ]
    x, y = axis_title(points[0].x), axis_title(points[0].y)
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}},
            "legend": {"orientation": "h", "y": -0.2},
            "margin": {"t": 20},
        },
    }


def _trace(
    label: str, when: str, places: list[tuple[str, float, float]], colour: str, symbol: str
) -> dict[str, Any]:
    ordered = sorted(places, key=lambda place: place[1:])
    now = when == "current"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{escape(label)}, {when}",
        "legendgroup": label,
        "x": [x for _, x, _ in ordered],
        "y": [y for _, _, y in ordered],
        "text": [f"{escape(name)}, {when}" for name, _, _ in ordered],
        "line": {"color": colour, "width": 1.5, "dash": "solid" if now else "dot"},
        "marker": {"symbol": symbol if now else f"{symbol}-open", "size": 8},
    }
