"""A small plot for the terminal: runs over two metrics, with a letter for each variant."""

from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from prolu_eval.analysis import Frontier, Group
from prolu_eval.estimates import number
from prolu_eval.metrics import METRICS
from prolu_eval.plain_text import wrapped

_WIDTH, _HEIGHT = 64, 18


def plot(group: Group, answer: Frontier, width: int | None = None) -> str:
    """Runs as letters, capitals on the frontier of all; axes of positive values are logarithmic.

    Args:
        group: the runs.
        answer: their frontier.
        width: of the terminal, which the plot is fitted to; None for its usual width.
    """
    n_columns = _WIDTH if width is None else max(2, min(_WIDTH, width - 1))
    table = group.table.dropna(subset=list(answer.keys))
    if table.empty:
        return "No run has both metrics: nothing to plot."
    letters = {v.label: ascii_lowercase[i % 26] for i, v in enumerate(answer.variants)}
    places = [_places(table[key].to_numpy(float)) for key in answer.keys]
    columns, rows = (
        np.round(at * (size - 1)).astype(int)
        for (at, _), size in zip(places, (n_columns, _HEIGHT), strict=True)
    )
    canvas = [[" "] * n_columns for _ in range(_HEIGHT)]
    on = table["name"].isin(answer.frontier)
    for row in np.argsort(on.to_numpy(), kind="stable"):  # runs on the frontier are drawn last
        letter = letters[table["label"].iloc[row]]
        canvas[_HEIGHT - 1 - rows[row]][columns[row]] = letter.upper() if on.iloc[row] else letter
    x, y = (
        f"{METRICS[key].title} {number(table[key].min())} to {number(table[key].max())}{scale}"
        for key, (_, scale) in zip(answer.keys, places, strict=True)
    )
    key = ", ".join(f"{letter} {label}" for label, letter in letters.items())
    drawn = ["│" + "".join(line).rstrip() for line in canvas]
    below = f"{x} (right)\n{key}; capitals are on the frontier of all runs"
    return "\n".join(
        [wrapped(f"{y} (up)", width), *drawn, "└" + "─" * n_columns, wrapped(below, width)]
    )


def _places(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """Places in [0, 1], and the words that say whether the axis is logarithmic."""
    positive = bool((values > 0).all())
    at = np.log(values) if positive else values
    span = np.ptp(at)
    return (at - at.min()) / (span if span > 0 else 1), ", logarithmic" if positive else ""
