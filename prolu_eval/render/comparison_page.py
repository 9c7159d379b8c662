"""A comparison as one offline page, with both frontiers in one figure and every judgement."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from plotly import graph_objects as go

from prolu_eval.analysis import pareto_frontier
from prolu_eval.comparison.verdicts import VERDICTS, Comparison, DrawnRun, FrontierPoints
from prolu_eval.estimates import HOVER
from prolu_eval.render.environment import plotly_library, rendered
from prolu_eval.render.figures import axis_title, escape
from prolu_eval.render.looks import Look, looks
from prolu_eval.render.tables import HEADER, N_TEXTS, cells, remarks

_WORSE = "#d1242f"


def comparison_page(comparison: Comparison) -> str:
    """The page: what got worse comes first, the command that accepts it last. All is escaped."""
    return rendered(
        "comparison_page.html.j2",
        comparison=comparison,
        figure=_document(figure(comparison)) if comparison.points else None,
        header=HEADER,
        n_texts=N_TEXTS,
        cells=cells,
        remarks=remarks,
        notable=[row for row in comparison.rows if row.verdict != "pass"],
        passed=[row for row in comparison.rows if row.verdict == "pass"],
        meanings=VERDICTS,
        plotly=plotly_library() if comparison.points else "",
    )


def figure(comparison: Comparison) -> go.Figure:
    """Each label's runs on the frontier's axes, in the baseline and now.

    Markers and lines of the baseline are open and dotted, current ones filled and solid. Lines join
    the nondominated runs of a label. Rings mark runs that got worse, and a line connects each of
    them with its place in the baseline.
    """
    points = comparison.points
    styles = looks([part.label for part in points])
    made = go.Figure()
    for part in points:
        for when, places in (("baseline", part.baseline), ("current", part.current)):
            if places:
                _add(made, part, when, places, styles[part.label])
    failing = {row.run for row in comparison.runs if row.verdict == "regression"}
    _add_failing(made, points, failing)
    titles = {"xaxis": axis_title(points[0].x), "yaxis": axis_title(points[0].y)}
    made.update_layout(
        **{name: {"title": {"text": title}, "automargin": True} for name, title in titles.items()},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        margin={"l": 56, "r": 16, "t": 24, "b": 48},
        hovermode="closest",
    )
    return made


def _document(made: go.Figure) -> dict[str, Any]:
    content: dict[str, Any] = made.to_plotly_json()
    content["layout"].pop("template", None)  # the page sets its own colours
    return content


def _add(
    made: go.Figure, part: FrontierPoints, when: str, places: list[DrawnRun], look: Look
) -> None:
    """The line of one side's frontier, and the markers of all its runs."""
    table = pd.DataFrame(places, columns=["run", part.x, part.y])
    line = pareto_frontier(table, part.x, part.y)
    now = when == "current"
    name = escape(part.label) + ("" if now else ", baseline")
    made.add_scatter(
        x=line[part.x].tolist(), y=line[part.y].tolist(), mode="lines", hoverinfo="skip",
        showlegend=False, legendgroup=name, name=name,
        line={"color": look.colour, "width": 1.5, "dash": "solid" if now else "dot"},
    )  # fmt: skip
    made.add_scatter(
        x=table[part.x].tolist(), y=table[part.y].tolist(), mode="markers",
        legendgroup=name, name=name,
        text=[f"{escape(run)}, {when}" for run in table["run"]],
        hovertemplate=f"%{{text}}<br>%{{x:{HOVER}}}, %{{y:{HOVER}}}<extra></extra>",
        marker={
            "color": look.colour, "symbol": look.symbol if now else f"{look.symbol}-open",
            "size": 7 if now else 11,
        },
    )  # fmt: skip


def _add_failing(made: go.Figure, points: Sequence[FrontierPoints], failing: set[str]) -> None:
    now = {run: (x, y) for part in points for run, x, y in part.current if run in failing}
    before = {run: (x, y) for part in points for run, x, y in part.baseline if run in now}
    if not now:
        return
    ways: list[tuple[float | None, float | None]] = []
    for run, place in before.items():
        ways += [place, now[run], (None, None)]
    made.add_scatter(
        x=[x for x, _ in ways], y=[y for _, y in ways], mode="lines", hoverinfo="skip",
        showlegend=False, name="way", line={"width": 1, "color": _WORSE},
    )  # fmt: skip
    made.add_scatter(
        x=[x for x, _ in now.values()], y=[y for _, y in now.values()], mode="markers",
        name="worse", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 19, "color": _WORSE, "line": {"width": 2}},
    )  # fmt: skip
