"""The data of a group in the form in which a page holds it, which `columns.js` undoes.

Whatever follows from other parts of the data is left out, and columns whose values repeat each
other say them once. A page of thousands of runs is a fraction of its size by that.
"""

import os
from collections.abc import Sequence
from typing import Any

# Columns with at most so many different values are written as places in a list of these.
_FEW = 100
# Columns of at least so many values for each different one.
_REPEATED = 4
# Beginnings that all values share are written once if they have at least so many characters.
_SHARED = 3


def condensed(document: dict[str, Any]) -> dict[str, Any]:
    """The document of :func:`~prolu_eval.render.page_document.group_document` in fewer bytes.

    Columns of the table of runs are those of :func:`condensed_column`. Settings are columns by
    name, None where a run has none of that name. Points of runs, and lines through all runs of a
    variant, have no coordinates, which are in the table of runs.
    """
    runs = document["runs"]
    n = len(runs["name"])
    names = dict.fromkeys(name for own in runs["settings"] for name in own)
    columns = {
        name: condensed_column(column)
        for name, column in runs.items()
        if name not in ("metrics", "settings", "shared_settings")
    }
    return {
        **document,
        "runs": {
            **columns,
            "n": n,
            "shared_settings": runs["shared_settings"],
            "settings": {
                name: condensed_column([own.get(name) for own in runs["settings"]])
                for name in names
            },
            "metrics": {
                key: {part: condensed_column(column) for part, column in parts.items()}
                for key, parts in runs["metrics"].items()
            },
        },
        "views": [_view(view) for view in document["views"]],
    }


def condensed_column(values: Sequence[Any]) -> Any:
    """A column as it is, or shorter: one value, different values with places, or their rests.

    Returns:
        ``values``, or ``{"every": value}``, or ``{"values": [...], "at": [...]}``, where ``at`` has
        the place of each run's value, or ``{"prefix": text, "rest": [...]}``.
    """
    different = list(dict.fromkeys(values))
    if len(different) == 1:
        return {"every": different[0]}
    if len(different) <= min(_FEW, len(values) // _REPEATED):
        places = {value: i for i, value in enumerate(different)}
        return {"values": different, "at": [places[value] for value in values]}
    if all(isinstance(value, str) for value in different):
        prefix = os.path.commonprefix(different)  # noqa: RUF071 (of characters, not of folders)
        if len(prefix) >= _SHARED:
            return {"prefix": prefix, "rest": [value[len(prefix) :] for value in values]}
    return values


def _view(view: dict[str, Any]) -> dict[str, Any]:
    figure = view["figure"]
    kept = {key: value for key, value in view.items() if view["frontier"] or key != "lines"}
    return kept | {"figure": figure | {"data": [_trace(view, t) for t in figure["data"]]}}


def _trace(view: dict[str, Any], trace: dict[str, Any]) -> dict[str, Any]:
    follows: tuple[str, ...] = ()
    if "customdata" in trace:
        follows = ("x", "y", "customdata", "text")
    elif trace.get("meta") == "line" and not view["frontier"]:
        follows = ("x", "y")
    return {key: value for key, value in trace.items() if key not in follows}
