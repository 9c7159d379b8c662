"""A comparison as one page that needs no network: both frontiers overlaid, and every judgement."""

from importlib.resources import files

import plotly.graph_objects as go
from jinja2 import Environment
from plotly.colors import qualitative

from prolu_eval.comparison.rows import VERDICTS, Comparison, FrontierPoints
from prolu_eval.comparison.text import HEADER, cells, remarks
from prolu_eval.metrics import METRICS


def render(comparison: Comparison) -> str:
    """The page. Everything that comes from files is escaped."""
    template = files("prolu_eval.comparison").joinpath("page.html.j2").read_text(encoding="utf-8")
    drawn = figure(comparison.points).to_html(full_html=False, include_plotlyjs=True)
    return Environment(autoescape=True).from_string(template).render(
        comparison=comparison,
        figure=drawn if comparison.points else "",
        header=HEADER,
        rows=[(row.verdict, cells(row), remarks(row)) for row in comparison.rows],
        meanings=VERDICTS,
    )  # fmt: skip


def figure(points: tuple[FrontierPoints, ...]) -> go.Figure:
    """Each label's runs then (open, dashed) and now (filled, solid) on the frontier's axes."""
    drawn = go.Figure()
    for part, colour in zip(points, qualitative.D3 * (1 + len(points) // 10), strict=False):
        for when, dash, symbol, places in (
            ("baseline", "dot", "circle-open", part.baseline),
            ("current", "solid", "circle", part.current),
        ):
            ordered = sorted(places, key=lambda place: place[1:])
            drawn.add_scatter(
                x=[x for _, x, _ in ordered],
                y=[y for _, _, y in ordered],
                text=[_plain(name) for name, _, _ in ordered],
                name=_plain(f"{part.label}, {when}"),
                legendgroup=_plain(part.label),
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"symbol": symbol, "size": 8},
            )
    if points:
        x, y = (METRICS[key] for key in (points[0].x, points[0].y))
        drawn.update_xaxes(title=f"{x.title} {x.unit and f'({x.unit})'}".strip())
        drawn.update_yaxes(title=f"{y.title} {y.unit and f'({y.unit})'}".strip())
    drawn.update_layout(template="plotly_white", height=560, margin={"t": 30})
    return drawn


def _plain(text: str) -> str:
    """Text that plotly, which knows a little HTML, shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
