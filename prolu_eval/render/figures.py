"""Figures of runs over two metrics in Plotly's form, for pages, notebooks and papers."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from prolu_eval.analysis import Group, Surface, is_nondominated
from prolu_eval.estimates import HOVER, for_figure, unrounded
from prolu_eval.metrics import METRICS
from prolu_eval.render.looks import Look, looks

if TYPE_CHECKING:
    from plotly import graph_objects as go

# Texts of figures may have some of HTML's tags, but Plotly shows the escapes of quotes as they are.
escape = partial(html.escape, quote=False)
# Figures of more variants than this have a legend instead of names at the ends of lines.
_MOST_NAMED = 8
# With more runs than these, a figure leaves out their intervals, which would cover one another.
MOST_INTERVALS = 2000
_LONGEST_NAME = 28
# Pixels between two names at the ends of lines, and the height of a plot in pixels.
_BETWEEN_NAMES, _HEIGHT = 17, 290
_SOFT = "#7d7d85"


class _End(NamedTuple):
    """The end of a line and the name shown there; ``label`` is its variant, None without one."""

    name: str
    label: str | None
    x: float
    y: float
    colour: str


def axis_title(key: str) -> str:
    """A metric's name and unit."""
    if key == "coefficient":
        return "sparsity coefficient"
    metric = METRICS[key]
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def has_all(group: Group, *columns: str) -> bool:
    """Whether each of the columns has a number for some run of a group."""
    return all(c in group.table and group.table[c].notna().any() for c in columns)


@dataclass(frozen=True)
class View:
    """A figure of runs over two columns.

    A line joins a variant's nondominated runs if ``frontier`` is true, and else all of its runs in
    order of ``x``. ``topic`` is the section of the page that shows the figure, and ``reading`` a
    sentence on how to read it.
    """

    x: str
    y: str
    topic: str
    reading: str
    frontier: bool = False

    @property
    def title(self) -> str:
        """The names of the two columns, as a title."""
        name = "the coefficient" if self.x == "coefficient" else METRICS[self.x].title
        title = f"{METRICS[self.y].title} against {name}"
        return title[0].upper() + title[1:]


TOPICS = {
    "frontiers": "Frontiers",
    "suppression": "Feature suppression",
    "biases": "Encoder biases and thresholds",
    "activity": "Dead and dense features",
    "consistency": "Scale consistency",
    "geometry": "Geometry of decoder rows",
}

VIEWS = (
    View("l0", "ce_degradation", "frontiers",
         "Fewer active features and less damage to the language model are better: lower left.",
         frontier=True),
    View("l0", "ce_recovered_zero", "frontiers",
         "The share of the loss recovered, compared with zero ablation: upper left is better.",
         frontier=True),
    View("l0", "explained_variance", "frontiers",
         "The share of the activations' variance that is explained: upper left is better.",
         frontier=True),
    View("l1", "mse", "frontiers",
         "The proxy that training minimises. A variant that leads over L0 and CE degradation but "
         "not here gains from the slack between the proxy and the target.", frontier=True),
    View("l0", "l1", "suppression",
         "At equal L0, a variant with a larger L1 shrinks its active features less."),
    View("l0", "relative_reconstruction_bias", "suppression",
         "Below 1, reconstructions are smaller than they should be (shrinkage)."),
    View("l0", "l2_ratio", "suppression",
         "The norm of the reconstruction divided by that of the activation; 1 means no shrinkage."),
    View("coefficient", "bias_negative_fraction", "biases",
         "A positive ProLU bias acts as zero. Where most biases are negative, the variant loses "
         "nothing by that."),
    View("l0", "bias_negative_fraction", "biases",
         "The same against L0, which makes variants with different coefficients comparable."),
    View("l0", "dead_fraction", "activity",
         "Features that never fired on the evaluated tokens."),
    View("l0", "dense_fraction", "activity",
         "Features that fired on more than a tenth of the evaluated tokens."),
    View("l0", "scale_consistency_homogeneity", "consistency",
         "How far the activation of an active feature is from growing in proportion to its input; "
         "0 is scale-consistent."),
    View("l0", "scale_consistency_additivity", "consistency",
         "How far the response to a sum of two activations is from the sum of the two responses."),
    View("l0", "decoder_cosine", "geometry",
         "How much decoder rows overlap. By arXiv 2508.16560 it is least where L0 suits the data: "
         "with fewer active features or more of them, latents mix correlated features."),
    View("l0", "nth_projection", "geometry",
         "The median projection of activations on decoder rows. Like their overlap, it is least "
         "where L0 suits the data."),
)  # fmt: skip


def view_figure(
    group: Group,
    view: View,
    styles: Mapping[str, Look] | None = None,
    surfaces: Mapping[str, Mapping[str, Surface]] | None = None,
) -> "go.Figure":
    """The figure of :func:`figure_document` as a Plotly object, for notebooks and papers."""
    from plotly.graph_objects import Figure

    return Figure(figure_document(group, view, styles, surfaces))


def figure_document(
    group: Group,
    view: View,
    styles: Mapping[str, Look] | None = None,
    surfaces: Mapping[str, Mapping[str, Surface]] | None = None,
) -> dict[str, Any]:
    """A figure of a group's runs, with markers and one line for each variant.

    In a frontier view, lines join a variant's nondominated configurations (runs that differ in
    nothing but the seed count by their mean), and a thin step line bounds the region that all runs
    dominate. Axes are logarithmic where all their values are positive and less is better.

    Returns:
        ``data`` and ``layout`` in the form of Plotly's JSON. Plotly's own objects are not used,
        because they validate every number, and a page has many figures of many runs.
    """
    styles = styles or looks(group.labels)
    traces: list[dict[str, Any]] = []
    table = group.table
    ends = []
    for label in group.labels:
        look = styles[label]
        rows = table.index[(table["label"] == label) & table[[view.x, view.y]].notna().all(axis=1)]
        line = _line(group, view, label)
        common = {"type": "scatter", "name": escape(label), "legendgroup": label}
        traces.append({
            "x": _numbers(line[view.x]), "y": _numbers(line[view.y]), "mode": "lines",
            "hoverinfo": "skip", "showlegend": False, "meta": "line",
            "line": {"color": look.colour, "width": 2, "dash": look.dash}, **common,
        })  # fmt: skip
        traces.append({
            "x": _numbers(table[view.x][rows]), "y": _numbers(table[view.y][rows]),
            "mode": "markers", "customdata": [int(row) for row in rows],
            "text": [escape(str(name)) for name in table["name"][rows]],
            "hovertemplate": f"<b>%{{text}}</b><br>{escape(label)}<br>{axis_title(view.x)} "
            f"%{{x:{HOVER}}}<br>{axis_title(view.y)} %{{y:{HOVER}}}<extra></extra>",
            "marker": {"color": look.colour, "symbol": look.symbol, "size": 9},
            **_errors(table, rows, "x", view.x, look.colour),
            **_errors(table, rows, "y", view.y, look.colour), **common,
        })  # fmt: skip
        for name, surface in (surfaces or {}).get(label, {}).items():
            traces += _surface(name, surface, look.colour, common)
        if len(line):
            name = label if len(label) <= _LONGEST_NAME else label[: _LONGEST_NAME - 1] + "…"
            x, y = line[[view.x, view.y]].iloc[-1]
            ends.append(_End(name, label, float(x), float(y), look.colour))
    if view.frontier:
        steps = _frontier_of_all(table, view)
        ends += [_End(steps["name"], None, steps["x"][-1], steps["y"][-1], _SOFT)] if ends else []
        traces += [steps, *_oracle(group, view), *_chance(group, view)]
    scales = {
        axis: _scale(group, key, view) for axis, key in zip("xy", (view.x, view.y), strict=True)
    }
    layout: dict[str, Any] = {
        **{f"{axis}axis": {"title": {"text": axis_title(key)}, **scales[axis]}
           for axis, key in zip("xy", (view.x, view.y), strict=True)},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
    }  # fmt: skip
    if view.frontier and len(ends) <= _MOST_NAMED + 1:
        _name_ends(traces, layout, ends)
    return {"data": traces, "layout": layout}


def _line(group: Group, view: View, label: str) -> pd.DataFrame:
    """The points that a variant's line joins, in order of x."""
    keys = [view.x, view.y]
    own = group.table["label"] == label
    if view.frontier:
        configuration = np.empty(len(group.table), int)
        for i, rows in enumerate(group.configurations):
            configuration[rows] = i
        points = group.table.loc[own, keys].groupby(configuration[own.to_numpy()]).mean()
    else:
        points = group.table.loc[own, keys]
    points = points.dropna().sort_values(keys, kind="stable")
    return points[is_nondominated(points, *keys)] if view.frontier else points


def _numbers(values: Any) -> list[float | None]:
    """Numbers in the form that JSON can hold."""
    return [for_figure(value) for value in values]


def _errors(table: pd.DataFrame, rows: Any, axis: str, key: str, colour: str) -> dict[str, Any]:
    """Error bars over 95 % intervals, cut off where a fraction or a norm has its bounds.

    Empty if a metric has no intervals, or if so many runs have one that they would hide the points.
    """
    if f"{key}_low" not in table or len(table) > MOST_INTERVALS:
        return {}
    value, low, high = (table[key + end][rows].to_numpy(float) for end in ("", "_low", "_high"))
    if (value >= 0).all() and METRICS[key].direction != "max" and key != "ce_degradation":
        low = np.maximum(low, 0)
    if METRICS[key].unit == "fraction" and (value <= 1).all():  # a normalised MSE may be above
        high = np.minimum(high, 1)
    return {f"error_{axis}": {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": colour,
        "array": _numbers(np.nan_to_num(high - value)),
        "arrayminus": _numbers(np.nan_to_num(value - low)),
    }}  # fmt: skip


def _scale(group: Group, key: str, view: View) -> dict[str, Any]:
    """An axis: logarithmic with readable ticks, or linear, from zero where less is better."""
    table = group.with_chance().table if view.frontier else group.table
    values = table[key].dropna().to_numpy(float)
    lows = table[f"{key}_low"].dropna().to_numpy(float) if f"{key}_low" in table else values
    wanted = key in ("l0", "coefficient") or (view.frontier and METRICS[key].direction == "min")
    if wanted and len(values) and values.min() > 0 and lows.min(initial=np.inf) > 0:
        return {"type": "log", **_ticks(values.min(), values.max())}
    if far := _far(group, key) if view.frontier else None:
        return {"type": "linear", "range": far}
    less_is_better = key == "coefficient" or METRICS[key].direction == "min"
    from_zero = less_is_better and len(values) > 0 and values.min() >= 0
    return {"type": "linear", "rangemode": "tozero" if from_zero else "normal"}


def _ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten; fewer over many powers, more within few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps: tuple[float, ...] = (1, 2, 5) if len(powers) <= 5 else (1,)
    if high < 5 * low:
        steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    values = [float(f"{step}e{power}") for power in powers for step in steps]
    return {"tickvals": values, "ticktext": [unrounded(value) for value in values]}


def _surface(
    name: str, surface: Surface, colour: str, common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """An attainment surface over seeds and its band; hidden until the reader asks for them."""
    dash = {"best": "dot", "median": "solid", "worst": "dash"}[name]
    band = [*surface.better, *reversed(surface.worse)]
    traces: list[dict[str, Any]] = []
    if band:
        traces.append({
            "x": _numbers(p[0] for p in band), "y": _numbers(p[1] for p in band), "mode": "lines",
            "line": {"width": 0}, "fill": "toself", "fillcolor": colour, "opacity": 0.15,
            "hoverinfo": "skip", "showlegend": False, "meta": "band", "visible": False, **common,
        })  # fmt: skip
    traces.append({
        "x": _numbers(p[0] for p in surface.corners), "y": _numbers(p[1] for p in surface.corners),
        "mode": "lines", "line": {"color": colour, "width": 1, "shape": "hv", "dash": dash},
        "showlegend": False, "meta": "surface", "visible": False,
        "hovertemplate": f"{common['name']}: {name} over seeds<extra></extra>", **common,
    })  # fmt: skip
    return traces


def _frontier_of_all(table: pd.DataFrame, view: View) -> dict[str, Any]:
    points = table[[view.x, view.y]].dropna().sort_values([view.x, view.y], kind="stable")
    points = points[is_nondominated(points, view.x, view.y)]
    return {
        "type": "scatter", "x": _numbers(points[view.x]), "y": _numbers(points[view.y]),
        "mode": "lines", "hoverinfo": "skip", "line": {"shape": "hv", "width": 1, "color": _SOFT},
        "name": "frontier of all", "meta": "all",
    }  # fmt: skip


def _chance(group: Group, view: View) -> list[dict[str, Any]]:
    """The runs of chance baselines in grey, each baseline's in order of x and with its name."""
    if group.chance is None or not has_all(group.chance, view.x, view.y):
        return []
    traces = []
    for label, rows in group.chance.table.dropna(subset=[view.x, view.y]).groupby("label"):
        points = rows.sort_values([view.x, view.y], kind="stable")
        name = str(label)
        traces.append({
            "type": "scatter", "x": _numbers(points[view.x]), "y": _numbers(points[view.y]),
            "mode": "lines+markers+text", "name": escape(name), "meta": "all", "opacity": 0.7,
            "text": [escape(name.removeprefix("chance: "))] + [""] * (len(points) - 1),
            "textposition": "top right", "textfont": {"color": _SOFT, "size": 11},
            "hovertemplate": f"{escape(name)}<br>{axis_title(view.x)} %{{x:{HOVER}}}<br>"
            f"{axis_title(view.y)} %{{y:{HOVER}}}<extra></extra>",
            "line": {"width": 1, "color": _SOFT}, "showlegend": False,
            "marker": {"color": _SOFT, "symbol": "circle-open", "size": 6},
        })  # fmt: skip
    return traces


def _far(group: Group, key: str) -> list[float] | None:
    """The ends of a linear axis that still shows variants well if chance baselines are far away.

    The axis reaches at most one range of the variants' values beyond them on either side. None if
    the baselines lie within that.
    """
    if group.chance is None or key not in group.chance.table:
        return None
    own, chance = (part.table[key].dropna().to_numpy(float) for part in (group, group.chance))
    if not len(own) or not len(chance):
        return None
    low, high, span = own.min(), own.max(), np.ptp(own) or abs(own[0]) or 1.0
    if chance.min() >= low - span and chance.max() <= high + span:
        return None
    ends = max(low - span, min(low - 0.05 * span, chance.min()))
    return [float(ends), float(min(high + span, max(high + 0.05 * span, chance.max())))]


def _oracle(group: Group, view: View) -> list[dict[str, Any]]:
    """The line that the true codes reach if only the largest are kept; empty without a truth."""
    if view.x != "l0" or view.y not in ("mse", "nmse", "explained_variance"):
        return []
    known = group.results[0].truth()
    if "oracle_l0" not in known:
        return []
    l0 = known["oracle_l0"]
    y = 1 - known["oracle_nmse"] if view.y == "explained_variance" else known[f"oracle_{view.y}"]
    on = (l0 > 0) & (y > 0)
    return [{
        "type": "scatter", "x": _numbers(l0[on]), "y": _numbers(y[on]), "mode": "lines+text",
        "text": ["oracle: the true codes"] + [""] * (int(on.sum()) - 1),
        "textposition": "bottom center", "textfont": {"color": _SOFT}, "hoverinfo": "skip",
        "line": {"width": 2, "dash": "dot", "color": _SOFT}, "name": "oracle", "meta": "all",
    }]  # fmt: skip


def _name_ends(
    traces: Sequence[dict[str, Any]], layout: dict[str, Any], ends: Sequence[_End]
) -> None:
    """Replace the legend by names of lines, to the right of everything drawn, without overlap."""
    place_x, place_y = (
        math.log10 if layout[f"{axis}axis"]["type"] == "log" else float for axis in "xy"
    )
    left, right = _extent(traces, "x", place_x)
    bottom, top = _extent(traces, "y", place_y)
    last = -math.inf
    notes = layout["annotations"] = []
    for end in sorted(ends, key=lambda end: (place_y(end.y), end.label is not None)):
        at = _HEIGHT * place_y(end.y) / (top - bottom or 1.0)
        raised = max(at, last + _BETWEEN_NAMES)
        last = raised
        notes.append({
            "x": place_x(end.x), "y": place_y(end.y), "showarrow": True, "arrowhead": 0,
            "ax": right + 0.04 * (right - left), "axref": "x", "ay": at - raised,
            "xanchor": "left", "standoff": 5, "arrowwidth": 1, "arrowcolor": _faint(end.colour),
            "text": escape(end.name),
            **({} if end.label is None else {"name": end.label, "font": {"color": end.colour}}),
        })  # fmt: skip
    for trace in traces:
        trace["showlegend"] = False


def _extent(
    traces: Sequence[Mapping[str, Any]], axis: str, place: Callable[[float], float]
) -> tuple[float, float]:
    """The lowest and the highest place on an axis that traces draw at, including error bars."""
    found = [0.0]
    for trace in traces:
        if trace.get("meta") in ("band", "surface"):  # not drawn until the reader asks for them
            continue
        values = [value for value in trace[axis] if value is not None]
        bars = trace.get(f"error_{axis}", {})
        shown = zip(trace[axis], bars.get("array", ()), strict=False)
        highs = [value + more for value, more in shown if value is not None and more is not None]
        found += [place(value) for value in (*values, *highs)]
    return min(found[1:], default=0.0), max(found[1:], default=0.0)


def _faint(colour: str) -> str:
    """A colour of six hexadecimal digits, at half its opacity."""
    parts = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return f"rgba({parts}, 0.5)"
