"""Data on single features: histograms for every run, full tables for as many runs as fit a page."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from prolu_eval.analysis import Group
from prolu_eval.estimates import SIGNIFICANT, for_figure
from prolu_eval.results import Examples, Result
from prolu_eval.runs import hooks_in, is_of_two_models

Array = NDArray[Any]

N_BINS = 48
# The most numbers that a page may hold in tables of features, in histories of biases, in response
# curves and in training curves; and the most tokens in examples.
TABLE_BUDGET, HISTORY_BUDGET, CURVE_BUDGET = 300_000, 250_000, 80_000
TRAINING_BUDGET, EXAMPLE_BUDGET, LAYER_BUDGET = 250_000, 500_000, 50_000
_STEPS, _TRAINING_STEPS = 25, 40
# The most runs whose histograms a page holds.
MOST_HISTOGRAMS = 2000
# The most tokens in the examples of one run, and the fewest examples shown of a feature.
_OF_ONE_RUN, _FEWEST = 100_000, 3

# The titles of the curves that are logged while a run trains, by their names in the history.
LOGGED = {
    "loss": "loss",
    "l0": "L0 (features)",
    "explained_variance": "explained variance",
    "dead_fraction": "fraction of dead features",
    "bias_negative_fraction": "fraction of negative biases",
}

# The titles of the values of each layer of a run that covers several, by their names in results.
LAYERED = {
    "fvu": "fraction of variance unexplained",
    "ce_degradation": "CE degradation, replaced alone (nats)",
    "kl": "KL divergence, replaced alone (nats)",
    "l0": "L0 (features)",
}

# Per-feature arrays: title, unit, whether their logarithm is shown, and how to read them.
ARRAYS = {
    "bias": ("encoder bias", "activation", False,
             "A positive ProLU bias acts as zero."),
    "effective_threshold": ("effective threshold", "activation", False,
                            "A feature is inactive where m = (x - b_dec) W_enc is at or below this "
                            "value."),
    "firing_rate": ("firing rate", "fraction of tokens", True,
                    "On a logarithmic axis; features that never fired are counted separately."),
    "mean_when_active": ("mean activation when active", "activation", True,
                         "On a logarithmic axis; features that never fired are counted "
                         "separately."),
    "alignment": ("decoder-encoder alignment", "cosine", False,
                  "The cosine of a feature's encoder column and decoder row. It is low where the "
                  "direction that a feature reads differs from the one that it writes."),
}  # fmt: skip


def features_document(group: Group, important: Sequence[int]) -> dict[str, Any]:
    """Histograms and details of features, for as many runs as fit a page.

    Runs that ``important`` names first come first. Each run's arrays are read at most twice, and
    the arrays of different runs are never in memory together.
    """
    counted = sorted(important[:MOST_HISTOGRAMS])
    logged = [row for row in important if history_file(group.results[row]) is not None]
    edges = _edges([group.results[row] for row in counted])
    counts: dict[str, dict[int, list[int]]] = {name: {} for name in edges}
    left_out: dict[str, dict[int, int]] = {name: {} for name in edges}
    for row in counted:
        arrays = group.results[row].per_feature()
        for name, bounds in edges.items():
            if (values := _shown(name, arrays.get(name))) is None:
                continue
            ends = float(bounds[0]), float(bounds[-1])
            counts[name][row] = np.histogram(values.clip(*ends), N_BINS, ends)[0].tolist()
            left_out[name][row] = len(arrays[name]) - len(values)
    return {
        "histograms": {
            name: {
                "title": ARRAYS[name][0],
                "unit": ARRAYS[name][1],
                "logarithmic": ARRAYS[name][2],
                "edges": np.round(bounds, 7).tolist(),
                "counts": counts[name],
                "left_out": left_out[name],
            }
            for name, bounds in edges.items()
        },
        "tables": _within(group, important, TABLE_BUDGET, _table),
        "training": _within(group, logged, TRAINING_BUDGET, _training),
        "histories": _within(group, logged, HISTORY_BUDGET, _history),
        "curves": _within(group, important, CURVE_BUDGET, _curves),
        "examples": _within(group, important, EXAMPLE_BUDGET, _examples),
        "layers": _within(group, important, LAYER_BUDGET, _layers),
    }


def _shown(name: str, values: Array | None) -> Array | None:
    """The values that a histogram counts: the finite ones, or the logarithms of positive ones."""
    return None if values is None else _scaled(name, _counted(name, values))


def _counted(name: str, values: Array) -> Array:
    return np.asarray(values[values > 0 if ARRAYS[name][2] else np.isfinite(values)])


def _scaled(name: str, values: Array) -> Array:
    values = values.astype(float)
    return np.asarray(np.log10(values)) if ARRAYS[name][2] else values


def _edges(results: Sequence[Result]) -> dict[str, Array]:
    """Bins for all these runs, over the range of most features; the outermost include the rest."""
    ranges: dict[str, list[Array]] = {name: [] for name in ARRAYS}
    for result in results:
        arrays = result.per_feature()
        for name, found in ranges.items():
            # A logarithm preserves order, so it is only needed for the two ends.
            values = _counted(name, arrays[name]) if name in arrays else ()
            if len(values):
                ends = (len(values) // 1000, len(values) - 1 - len(values) // 1000)
                found.append(_scaled(name, np.partition(values, ends)[list(ends)]))
    edges = {}
    for name, found in ranges.items():
        if found:
            low, high = np.min([r[0] for r in found]), np.max([r[1] for r in found])
            pad = 0.0 if low < high else 0.5
            edges[name] = np.linspace(low - pad, high + pad, N_BINS + 1)
    return edges


def _within(group: Group, important: Sequence[int], budget: int, make: Any) -> dict[int, Any]:
    """The details of runs by row of the group's table, until the budget of numbers is used up."""
    found: dict[int, Any] = {}
    for row in important:
        size, detail = make(group.results[row])
        if detail is None:
            continue
        if size > budget:
            break
        budget -= size
        found[row] = detail
    return found


def _table(result: Result) -> tuple[int, Any]:
    arrays = {name: a for name, a in result.per_feature().items() if name in (*ARRAYS, "max")}
    packed = {name: packed_floats(values) for name, values in arrays.items()}
    return sum(map(len, arrays.values())), packed or None


def packed_floats(values: Array) -> str:
    """Numbers as little-endian float32 in base64."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _curves(result: Result) -> tuple[int, Any]:
    """Responses divided by the activation of a feature without bias at scale 1.

    Features for which that activation is not positive are left out.
    """
    found = result.response()
    if not found:
        return 0, None
    kept = found["pre_activations"] > 0
    plain = found["pre_activations"][kept].astype(float)
    relative = found["activations"][kept].astype(float) / plain[:, None]
    detail = {
        "features": found["features"][kept].tolist(),
        "scales": np.round(found["scales"].astype(float), 4).tolist(),
        "responses": np.round(relative, 4).tolist(),
    }
    return relative.size, detail if kept.any() else None


def _layers(result: Result) -> tuple[int, Any]:
    """What is known of each layer, with what the layers are called; nothing of a single one."""
    found = result.per_layer()
    if not found:
        return 0, None
    site = result.run.site
    places = re.findall(r"blocks\.(\d+)\.", " ".join(hooks_in(site)))
    of_two = is_of_two_models(site)
    detail = {
        "axis": "model" if of_two else "block",
        "places": ["first", "second"] if of_two else places,
        **{name: [for_figure(value) for value in found[name]] for name in LAYERED},
    }
    return len(found) * len(places), detail


def _logged(result: Result) -> dict[str, Array]:
    """What was logged while a run trained; empty if the file is missing or damaged."""
    path = history_file(result)
    try:
        return {} if path is None else load_file(path)
    except (OSError, SafetensorError):
        return {}


def _training(result: Result) -> tuple[int, Any]:
    """The curves of training, at up to 40 of the logged steps."""
    logged = _logged(result)
    names = [name for name in LOGGED if name in logged]
    if "step" not in logged or not names:
        return 0, None
    chosen = _spread(len(logged["step"]), _TRAINING_STEPS)
    curves = {
        name: [for_figure(v, SIGNIFICANT) for v in logged[name][chosen].tolist()] for name in names
    }
    steps = logged["step"][chosen].astype(int).tolist()
    return len(steps) * (len(names) + 1), {"step": steps, **curves}


def _spread(length: int, most: int) -> Array:
    return np.unique(np.linspace(0, length - 1, most).round().astype(int))


def _history(result: Result) -> tuple[int, Any]:
    """Histograms of the biases in training units, at up to 25 of the logged steps."""
    logged = _logged(result)
    if not {"bias_histogram", "bias_edges", "step"} <= logged.keys():
        return 0, None
    chosen = _spread(len(logged["step"]), _STEPS)
    counts = logged["bias_histogram"][chosen]
    return counts.size, {
        "steps": logged["step"][chosen].astype(int).tolist(),
        "edges": np.round(logged["bias_edges"].astype(float), 4).tolist(),
        "counts": counts.tolist(),
    }


def _examples(result: Result) -> tuple[int, Any]:
    """The strongest examples of the features that fire most often, as many as fit.

    Returns:
        By feature a list of examples; each has the activation, the text before the token, the
        token, and the text after it.
    """
    found = Examples.of(result)
    if found is None:
        return 0, None
    rate = result.per_feature()["firing_rate"]
    alive = [int(feature) for feature in np.argsort(-rate, kind="stable") if rate[feature] > 0]
    width = found.width
    each = max(_FEWEST, min(found.most, _OF_ONE_RUN // (width * max(1, len(alive)))))
    texts = {
        feature: [
            [for_figure(e.activation, SIGNIFICANT), "".join(e.before), e.token, "".join(e.after)]
            for e in found.strongest(feature)[:each]
        ]
        for feature in alive[: _OF_ONE_RUN // (width * each)]
    }
    return width * sum(map(len, texts.values())), texts or None


def history_file(result: Result) -> Path | None:
    """The file that was logged while a run trained, next to its result or checkpoint, if any."""
    folders = [Path(result.run.path)]
    if result.file is not None:
        folders.insert(0, result.file.parent.parent)
    paths = (folder / "history.safetensors" for folder in folders)
    return next((path for path in paths if path.is_file()), None)
