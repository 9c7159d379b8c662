"""Draws static figures as SVG: points and lines of variants on logarithmic axes."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f",
            "#bcbd22", "#17becf", "#393b79", "#637939", "#843c39", "#7b4173")  # fmt: skip
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 420, 60, 16, 210, 46


def svg(
    series: Mapping[str, tuple[Points, Points]],
    x_title: str,
    y_title: str,
    *,
    x_linear: bool = False,
) -> str:
    """A figure with each variant's runs as dots, and a line for each variant.

    Args:
        series: by variant, its points and the corners of its line; positive on logarithmic axes.
        x_title: the title of the horizontal axis.
        y_title: the title of the vertical axis.
        x_linear: whether the horizontal axis is linear.
    """
    everything = [point for points, line in series.values() for point in (*points, *line)]
    horizontal = _LinearAxis if x_linear else _Axis
    x_axis = horizontal([x for x, _ in everything])
    y_axis = _Axis([y for _, y in everything])

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = x_axis.share(point[0]), 1 - y_axis.share(point[1])
        return (round(_LEFT + x * (_WIDTH - _LEFT - _RIGHT), 1),
                round(_TOP + y * (_HEIGHT - _TOP - _BOTTOM), 1))  # fmt: skip

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    low, high = place((x_axis.low, y_axis.low)), place((x_axis.high, y_axis.high))
    for tick in x_axis.ticks:
        x, _ = place((tick, y_axis.low))
        parts.append(f'<path d="M{x} {low[1]}V{high[1]}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{low[1] + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y_axis.ticks:
        _, y = place((x_axis.low, tick))
        parts.append(f'<path d="M{low[0]} {y}H{high[0]}" stroke="#ddd"/>')
        parts.append(f'<text x="{low[0] - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    middle = (low[0] + high[0]) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">'
                 f"{escape(x_title)}</text>")  # fmt: skip
    parts.append(f'<text transform="translate(14 {(low[1] + high[1]) / 2}) rotate(-90)" '
                 f'text-anchor="middle">{escape(y_title)}</text>')  # fmt: skip
    for i, (label, (points, line)) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        corners = " ".join("{},{}".format(*place(point)) for point in line)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}"/>')
        for point in points:
            x, y = place(point)
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.2" fill="{colour}"/>')
        row = _TOP + 12 + 17 * i
        parts.append(f'<circle cx="{_WIDTH - _RIGHT + 14}" cy="{row - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 24}" y="{row}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>\n"])


class _Axis:
    """A logarithmic axis over positive values."""

    def __init__(self, values: Sequence[float]) -> None:
        self.low, self.high = 0.93 * min(values), 1.07 * max(values)

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    @property
    def ticks(self) -> list[float]:
        """The values 1, 2 and 5 times powers of ten within the range."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks = [float(f"{m}e{d}") for d in decades for m in (1, 2, 5)]
        return [tick for tick in ticks if self.low <= tick <= self.high]


class _LinearAxis:
    """A linear axis."""

    def __init__(self, values: Sequence[float]) -> None:
        self.low, self.high = min(values), max(values)

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """The whole numbers within the range."""
        return [float(tick) for tick in range(math.ceil(self.low), math.floor(self.high) + 1)]
