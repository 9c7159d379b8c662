"""Points that another tool measured on other tokens: shown in figures, never used in judgements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prolu_eval.estimates import HOVER
from prolu_eval.render.figures import escape

_SOFT = "#7d7d85"


@dataclass(frozen=True)
class ReferencePoint:
    """What another tool measured of an autoencoder.

    Attributes:
        name: the autoencoder's name.
        tool: the tool that measured it.
        hook: the hook point that it reads; None if the file does not say.
        values: the values by this package's metric names, for metrics with the same definition.
    """

    name: str
    tool: str
    hook: str | None
    values: Mapping[str, float]


def add_references(
    document: dict[str, Any], hook: str, points: Sequence[ReferencePoint]
) -> dict[str, Any]:
    """A group's document with the points of its hook point added to the figures.

    A point is added to every figure of two metrics that it has values of. No frontier, test or
    table takes the points into account.
    """
    near = [point for point in points if point.hook in (None, hook)]
    return document | {"views": [_with_points(view, near) for view in document["views"]]}


def _with_points(view: dict[str, Any], points: Sequence[ReferencePoint]) -> dict[str, Any]:
    x, y = view["x"], view["y"]
    shown = [p for p in points if x in p.values and y in p.values]
    if not shown:
        return view
    tools = " and ".join(sorted({point.tool for point in shown}))
    measured = f"measured by {tools} on other tokens"
    trace = {
        "type": "scatter", "mode": "markers", "name": f"{measured}", "meta": "all",
        "x": [p.values[x] for p in shown], "y": [p.values[y] for p in shown],
        "text": [escape(p.name) for p in shown],
        "marker": {"symbol": "diamond-open", "size": 9, "color": _SOFT},
        "hovertemplate": f"<b>%{{text}}</b><br>{escape(measured)}<br>%{{x:{HOVER}}}, %{{y:{HOVER}}}"
        "<extra></extra>",
    }  # fmt: skip
    figure = view["figure"]
    reading = f"{view['reading']} Open diamonds were {measured}."
    return view | {
        "reading": reading,
        "figure": {**figure, "data": [*figure["data"], trace]},
    }
