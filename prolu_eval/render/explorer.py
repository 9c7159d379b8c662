"""What a reader can choose in the figure of any two metrics: axes, colours, panels, filters."""

import re
from collections.abc import Sequence
from typing import Any

from prolu_eval.analysis import Group
from prolu_eval.metrics import METRICS
from prolu_eval.render.figures import VIEWS, axis_title, has_all
from prolu_eval.render.looks import ALL

# The properties other than metrics that tell runs apart, by column of the page's table of runs.
DIMENSIONS = {
    "label": "variant", "layer": "layer", "hook": "hook point", "d_sae": "dictionary size",
    "seed": "seed", "penalty": "penalty", "learning_rate": "learning rate", "folder": "folder",
    "evaluation": "evaluation",
}  # fmt: skip
# With more values than this, a filter would be longer than the figure.
_MOST_FILTERED = 24
# With more runs than this, intervals hide each other.
_MANY = 200


def layer_of(hook: str) -> int | None:
    """The layer of a hook point: the first number in its name, None if it has none."""
    found = re.search(r"\d+", hook)
    return int(found[0]) if found else None


def explorer_document(groups: Sequence[Group]) -> dict[str, Any]:
    """Everything that can be chosen, with the names that a reader sees, over all groups of a page.

    Returns:
        ``axes`` and ``dimensions`` by key, the latter with their distinct values in order;
        ``filters``, the keys of the dimensions with filters; ``presets``, the figures that can be
        chosen by name; ``palette``, the looks for values without a look of their own; and
        ``start``, what is shown first.
    """
    keys = [k for k in ("coefficient", *METRICS) if any(has_all(group, k) for group in groups)]
    dimensions = {key: values for key in DIMENSIONS if len(values := _distinct(groups, key)) > 1}
    many = sum(len(group.results) for group in groups) > _MANY
    panels = "evaluation" if len(groups) > 1 else ""
    return {
        "axes": {key: {"title": axis_title(key), **_direction(key)} for key in keys},
        "dimensions": {
            key: {"title": DIMENSIONS[key], "values": values}
            for key, values in ({"label": _distinct(groups, "label")} | dimensions).items()
        },
        "filters": [key for key, values in dimensions.items() if len(values) <= _MOST_FILTERED],
        "presets": [
            {"x": view.x, "y": view.y, "title": view.title,
             "join": "frontier" if view.frontier else "all"}
            for view in VIEWS if view.x in keys and view.y in keys
        ],
        "palette": ALL,
        "start": {"panels": panels, "points": "alone" if many else "intervals"},
    }  # fmt: skip


def _direction(key: str) -> dict[str, Any]:
    better = METRICS[key].direction if key in METRICS else "none"
    return {"better": better, "log": key == "coefficient" or better == "min"}


def _distinct(groups: Sequence[Group], key: str) -> list[Any]:
    if key == "evaluation":
        return [group.title for group in groups]
    found = {value for group in groups for value in of_runs(group, key) if value is not None}
    return sorted(found)


def of_runs(group: Group, key: str) -> list[Any]:
    """The value of a dimension for each run of a group, None where it is not known."""
    runs = [result.run for result in group.results]
    if key == "layer":
        return [layer_of(run.hook) for run in runs]
    if key == "folder":
        return [result.folder or None for result in group.results]
    return [getattr(run, key) for run in runs]
