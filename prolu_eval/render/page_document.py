"""The data of the page: every run's metrics, every figure's points, every run's features."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from prolu_eval.analysis import Frontier, Group, Surface, is_nondominated
from prolu_eval.estimates import for_figure, unrounded
from prolu_eval.metrics import METRICS
from prolu_eval.render.explorer import DIMENSIONS, of_runs
from prolu_eval.render.features import features_document
from prolu_eval.render.figures import (
    MOST_INTERVALS,
    VIEWS,
    View,
    axis_title,
    figure_document,
    has_all,
)
from prolu_eval.render.looks import Look
from prolu_eval.results import Result

_COLUMNS = ("name", "label", "coefficient", "seed", "format", "path", "fingerprint")
_OF_RUN = tuple(key for key in DIMENSIONS if key not in (*_COLUMNS, "evaluation"))
# The metrics in the table of runs; the details of a run show all metrics.
TABLE = (
    "l0", "ce_degradation", "ce_recovered_zero", "kl", "explained_variance", "mse", "l1", "sqrt_l1",
    "relative_reconstruction_bias", "dead_fraction", "dense_fraction", "bias_negative_fraction",
    "scale_consistency_homogeneity",
)  # fmt: skip


def group_document(
    group: Group,
    answer: Frontier,
    others: dict[tuple[str, ...], Frontier],
    identity: str,
    styles: Mapping[str, Look] | None = None,
) -> dict[str, Any]:
    """Everything the page shows of one group.

    Args:
        group: comparable runs.
        answer: their frontier over the objectives that were asked for.
        others: their frontiers over other objectives, by objectives.
        identity: the beginning of the ids of the group's sections.
        styles: how variants look on the page; None for the looks that every report uses.

    Returns:
        The document. Its ``best`` has one row for each variant: the run whose details come first.
    """
    views = figure_views(group, answer.keys)
    answers = {answer.keys: answer, **others}
    order = importance(group, answer)
    best: dict[str, int] = {}
    labels = group.table["label"].tolist()
    for row in order:
        best.setdefault(labels[row], row)
    return {
        "id": identity,
        "best": list(best.values()),
        "title": group.title,
        "keys": answer.keys,
        "runs": runs_document(group, answer),
        "views": [
            view_document(group, view, answers.get((view.x, view.y)), styles) for view in views
        ],
        "features": features_document(group, order),
    }


def figure_views(group: Group, keys: tuple[str, ...]) -> list[View]:
    """The figures that a group has numbers for; those of the objectives asked for come first."""
    reading = "The objectives that were asked for."
    if len(keys) > 2:
        reading = "Two of the objectives that were asked for; lines show frontiers over these two."
    known = {(view.x, view.y): view for view in VIEWS if view.frontier}
    asked = {pair: known.get(pair) or View(*pair, "frontiers", reading, frontier=True)
             for pair in combinations(keys, 2)}  # fmt: skip
    same = constants(group)
    others = (v for v in VIEWS if (v.x, v.y) not in asked and v.y not in same)
    return [view for view in (*asked.values(), *others) if has_all(group, view.x, view.y)]


def constants(group: Group) -> dict[str, float]:
    """Metrics that are the same for every run of a group, so that a figure would show nothing.

    A dead fraction of 0 or a share of negative biases of 1 takes only a sentence.
    """
    if len(group.results) < 2:
        return {}
    columns = {view.y: group.table[view.y] for view in VIEWS if has_all(group, view.y)}
    return {
        key: float(c.iloc[0]) for key, c in columns.items() if c.notna().all() and c.nunique() == 1
    }


def importance(group: Group, answer: Frontier) -> list[int]:
    """Rows of the table in the order in which their details are added to the page.

    First the runs on the frontier of all, then those on their variant's frontier, then the others,
    in turn from each variant.
    """
    names = group.table["name"]
    on_own = {name for variant in answer.variants for name in variant.frontier}
    on = set(answer.frontier)
    turn = group.table.groupby("label").cumcount().tolist()
    ranks = [(name not in on, name not in on_own, turn[row], row) for row, name in enumerate(names)]
    return [row for *_, row in sorted(ranks)]


def runs_document(group: Group, answer: Frontier) -> dict[str, Any]:
    """The columns of the table of runs: identity, settings, metrics, and place on the frontier.

    ``configuration`` is equal for runs that differ in nothing but the seed.
    """
    table = group.table
    shared, own = settings(group)
    configuration = np.empty(len(table), int)
    for i, rows in enumerate(group.configurations):
        configuration[rows] = i
    return {
        **{column: _plain(table[column]) for column in _COLUMNS},
        **{key: of_runs(group, key) for key in _OF_RUN},
        "shared_settings": shared,
        "settings": own,
        "configuration": configuration.tolist(),
        "on_frontier": table["name"].isin(answer.frontier).tolist(),
        "membership": [for_figure(answer.membership.get(name, math.nan)) for name in table["name"]],
        "metrics": {
            key: {
                part: _plain(table[key + suffix])
                for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
            }
            for key in METRICS
            if key in table
        },
    }


def settings(group: Group) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The training settings of runs as text: those that all share, and each run's others."""
    told = [
        {_words(name): _text(value) for name, value in _settings(result).items()}
        for result in group.results
    ]
    shared = dict(set(told[0].items()).intersection(*(own.items() for own in told)))
    shared = {name: text for name, text in told[0].items() if name in shared}
    return shared, [{n: text for n, text in own.items() if n not in shared} for own in told]


def _settings(result: Result) -> dict[str, Any]:
    run = result.run
    about = {k: v for k, v in run.provenance.items() if isinstance(v, str | int | float)}
    config = run.provenance.get("config")
    native = config if run.format == "native" and isinstance(config, dict) else {}
    ran = {"seed": run.seed, **about, "not converged": native.get("not_converged")}
    ran["trained with"] = run.trained_with
    known = {**run.configuration, **ran}
    left_out = ("label", "format", "training.hook", "training.d_sae")
    return {k: v for k, v in known.items() if v is not None and k not in left_out}


def _words(name: str) -> str:
    return name.removeprefix("training.").removeprefix("options.").replace("_", " ")


def _text(value: Any) -> str:
    return unrounded(value) if isinstance(value, float) else str(value)


def _plain(column: "pd.Series[Any]") -> list[Any]:
    """A column in the form that JSON can hold: numbers to six digits, None for undefined values."""
    if column.isna().all():
        return [None] * len(column)
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
        return column.astype(object).where(column.notna(), None).tolist()
    return [for_figure(value) for value in column.to_numpy(float)]


def view_document(
    group: Group,
    view: View,
    answer: Frontier | None,
    styles: Mapping[str, Look] | None = None,
) -> dict[str, Any]:
    """A figure with its columns, the rows that its lines join, and those on the frontier of all."""
    table = group.table.sort_values([view.x, view.y], kind="stable")
    finite = table[[view.x, view.y]].notna().all(axis=1)
    lines = {}
    for label, rows in table.groupby("label"):
        own = is_nondominated(rows, view.x, view.y) if view.frontier else finite[rows.index]
        lines[str(label)] = [int(row) for row in rows.index[np.asarray(own)]]
    on = is_nondominated(table, view.x, view.y) if view.frontier else np.zeros(len(table), bool)
    surfaces = answer.surfaces if answer else {}
    figure = figure_document(group, view, styles, surfaces)
    many = len(table) > MOST_INTERVALS
    unseen = " Intervals of so many runs are in the table and on each run's page." if many else ""
    return {
        "id": f"{view.x}-{view.y}",
        "figure": figure,
        "x": view.x,
        "y": view.y,
        "topic": view.topic,
        "title": view.title,
        "x_title": axis_title(view.x),
        "y_title": axis_title(view.y),
        "reading": f"{view.reading}{unseen}",
        "frontier": view.frontier,
        "logarithmic": {a: figure["layout"][a]["type"] == "log" for a in ("xaxis", "yaxis")},
        "lines": lines,
        "front": [int(row) for row in table.index[on]],
        "surfaces": surfaces_document(surfaces),
        "definitions": [key for key in (view.x, view.y) if key in METRICS],
    }


def surfaces_document(surfaces: Mapping[str, Mapping[str, Surface]]) -> dict[str, Any]:
    """Attainment surfaces by variant and name, as points of their corners and of their bands."""
    return {
        label: {
            name: {
                part: [[for_figure(x), for_figure(y)] for x, y in points]
                for part, points in vars(surface).items()
            }
            for name, surface in named.items()
        }
        for label, named in surfaces.items()
    }


def environments(group: Group) -> list[str]:
    """The distinct environments in which the results of a group were measured."""
    return sorted({result.measured_with for result in group.results if result.environment})
