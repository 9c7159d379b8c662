"""The pictures of the documentation, as SVG that reads on light and on dark pages.

    python docs/pictures/draw.py

writes them anew, beside this file. Figures of data are drawn from ``reports/results``; the page
that shows one says which.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from prolu_eval.analysis import comparable, group_frontier, resample
from prolu_eval.analysis.frontiers import Computation
from prolu_eval.analysis.pareto import nondominated
from prolu_eval.baseline import load_baseline

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "reports" / "results" / "embedded.json"
KEYS = ("l0", "ce_degradation")
WORSE, BETTER, THIRD = "relu+l1", "prolu/relu+l1", "prolu/ste+l1"

# Each picture has a ground of its own, so that it reads wherever it stands.
STYLE = """<style>
.ground { fill: #ffffff; } .grid { stroke: #e3e6e8; } .ink { stroke: #37474f; fill: none; }
.box { fill: #eceff1; stroke: #78909c; } text { fill: #263238; } .quiet { fill: #607d8b; }
.a { --c: #00796b; } .b { --c: #d84315; } .c { --c: #5e35b1; }
.line { stroke: var(--c); fill: none; stroke-width: 2; } .dot { fill: var(--c); }
.open { stroke: var(--c); fill: none; stroke-width: 1.5; } .band { fill: var(--c); opacity: 0.18; }
.name { fill: var(--c); } .own { stroke: var(--c); fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.ground { fill: #1f2326; } .grid { stroke: #353b40; } .ink { stroke: #b0bec5; }
.box { fill: #2f373c; stroke: #78909c; } text { fill: #eceff1; } .quiet { fill: #90a4ae; }
.a { --c: #4db6ac; } .b { --c: #ff8a65; } .c { --c: #b39ddb; } }
</style>"""


class Picture:
    """Parts of an SVG of some width and height, with a title for those who do not see it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'role="img" font-family="sans-serif" font-size="13"><title>{escape(title)}</title>',
            STYLE,
            f'<rect class="ground" width="{width}" height="{height}" rx="6"/>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" '
            'fill="context-stroke"/></marker></defs>',
        ]

    def add(self, *parts: str) -> None:
        """Append elements."""
        self._parts += parts

    def text(self, x: float, y: float, words: str, anchor: str = "middle", of: str = "") -> None:
        """Write some words."""
        kind = f' class="{of}"' if of else ""
        self.add(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, words: str, *, own: bool = False) -> None:
        """A box of height 36 with words in it; the autoencoder's own have its colour."""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="36" rx="4"'
        self.add(f'<rect class="box" {place}/>')
        if own:
            self.add(f'<g class="a"><rect class="own" {place}/></g>')
        self.text(x + width / 2, y + 23, words)

    def arrow(self, path: str, *, both: bool = False) -> None:
        """A line with a tip."""
        start = ' marker-start="url(#tip)"' if both else ""
        self.add(f'<path class="ink" d="{path}"{start} marker-end="url(#tip)"/>')

    def write(self, name: str) -> None:
        """Write it beside this file."""
        (HERE / name).write_text("\n".join([*self._parts, "</svg>\n"]), encoding="utf-8")


class Axes:
    """Logarithmic axes in a picture."""

    def __init__(
        self, picture: Picture, area: tuple[float, float, float, float],
        x: tuple[float, float], y: tuple[float, float], titles: tuple[str, str],
    ) -> None:  # fmt: skip
        self.picture, self.area, self._x, self._y = picture, area, x, y
        left, top, right, bottom = area
        for value in _ticks(*x):
            at = self.place(value, y[0])[0]
            picture.add(f'<path class="grid" d="M{at} {top}V{bottom}"/>')
            picture.text(at, bottom + 17, f"{value:g}", of="quiet")
        for value in _ticks(*y):
            at = self.place(x[0], value)[1]
            picture.add(f'<path class="grid" d="M{left} {at}H{right}"/>')
            picture.text(left - 6, at + 4, f"{value:g}", "end", "quiet")
        picture.text((left + right) / 2, bottom + 36, titles[0])
        middle = (top + bottom) / 2
        picture.add(f'<text transform="translate(16 {middle}) rotate(-90)" '
                    f'text-anchor="middle">{escape(titles[1])}</text>')  # fmt: skip

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where values lie in the picture."""
        left, top, right, bottom = self.area
        across = math.log(x / self._x[0]) / math.log(self._x[1] / self._x[0])
        up = math.log(y / self._y[0]) / math.log(self._y[1] / self._y[0])
        return round(left + across * (right - left), 1), round(bottom - up * (bottom - top), 1)

    def path(self, points: Iterable[Sequence[float]]) -> str:
        """A line through points."""
        return "M" + "L".join("{:g} {:g}".format(*self.place(*point)) for point in points)

    def dots(self, points: Iterable[Sequence[float]], of: str, kind: str = "dot") -> None:
        """A circle at each point."""
        for point in points:
            x, y = self.place(*point)
            self.picture.add(
                f'<g class="{of}"><circle class="{kind}" cx="{x}" cy="{y}" r="4"/></g>'
            )


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{m}e{d}") for d in decades for m in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def splice() -> None:
    """The language model's pass, clean and with a reconstruction put in."""
    picture = Picture(720, 250, "A clean pass of the model, and one with x replaced by x_hat")
    for y, words in ((40, "clean pass"), (190, "spliced pass")):
        picture.text(16, y - 12, words, "start", "quiet")
        picture.box(16, y, 90, "text")
        picture.arrow(f"M106 {y + 18}H140")
        picture.box(140, y, 120, "first blocks")
        picture.box(480, y, 120, "later blocks")
        picture.arrow(f"M600 {y + 18}H634")
    picture.arrow("M260 58H480")
    picture.add('<g class="a"><circle class="dot" cx="300" cy="58" r="5"/></g>')
    picture.text(300, 46, "x")
    picture.text(640, 63, "CE clean", "start")
    picture.text(640, 213, "CE spliced", "start")
    picture.arrow("M300 62V106")
    picture.box(240, 108, 120, "encode", own=True)
    picture.arrow("M360 126H398")
    picture.text(379, 118, "a")
    picture.box(400, 108, 120, "decode", own=True)
    picture.arrow("M430 144V206H478")
    picture.text(420, 178, "x_hat", "end")
    picture.add('<path class="ink" d="M260 208H300" stroke-dasharray="4 4"/>')
    picture.text(310, 213, "x is dropped", "start", "quiet")
    picture.write("splice.svg")


def _means(labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Configurations of variants in order of L0, means over seeds. [n, 2] each"""
    (group,) = comparable(load_baseline(RESULTS))
    table = group.table[group.table["label"].isin(labels)]
    means = table.groupby(["label", "coefficient"])[list(KEYS)].mean().sort_values("l0")
    return {label: means.loc[label].to_numpy(float) for label in labels}


def frontier() -> None:
    """Which runs are on a frontier, and which are dominated."""
    points = _means([WORSE, BETTER])
    every = np.concatenate([*points.values()])
    every = every[(every[:, 0] > 4) & (every[:, 0] < 95)]
    picture = Picture(720, 400, "L0 against CE degradation: the runs on the frontier are filled")
    area = (64, 20, 520, 344)
    axes = Axes(picture, area, (4, 100), (0.05, 4), ("L0", "CE degradation, nats"))
    on = every[nondominated(every)]
    on = on[np.argsort(on[:, 0])]
    corners = [(on[0, 0], 4.0)]
    for before, after in itertools.pairwise(on):
        corners += [tuple(before), (after[0], before[1])]
    corners += [tuple(on[-1]), (100.0, on[-1, 1])]
    picture.add(f'<path class="ink" stroke-dasharray="5 4" d="{axes.path(corners)}"/>')
    front = {tuple(point) for point in on}
    for of, label in (("a", BETTER), ("b", WORSE)):
        own = [tuple(p) for p in points[label] if 4 < p[0] < 95]
        axes.dots([p for p in own if p in front], of)
        axes.dots([p for p in own if p not in front], of, "open")
    for row, (of, words) in enumerate((("a", BETTER), ("b", WORSE))):
        picture.add(
            f'<g class="{of}"><circle class="dot" cx="540" cy="{40 + 22 * row}" r="4"/></g>'
        )
        picture.text(552, 44 + 22 * row, words, "start")
    picture.text(540, 100, "filled: nondominated", "start", "quiet")
    picture.text(540, 120, "open: dominated", "start", "quiet")
    picture.text(540, 140, "dashed: the frontier", "start", "quiet")
    picture.text(540, 180, "better is down", "start", "quiet")
    picture.text(540, 200, "and to the left", "start", "quiet")
    picture.write("frontier.svg")


def savings() -> None:
    """Two curves with their bands, and what is saved at equal CE degradation."""
    (group,) = comparable(load_baseline(RESULTS))
    rows = np.flatnonzero(group.table["label"].isin([WORSE, BETTER]))
    part, replicates = group.subset(rows), resample(group, KEYS)
    if replicates is None:
        raise SystemExit(f"{RESULTS}: holds no per-sequence sums")
    curves = Computation(part, KEYS, replicates.subset(rows), {}).curves
    if curves is None:
        raise SystemExit("two metrics have curves")
    points = _means([WORSE, BETTER])
    picture = Picture(720, 400, "Curves of two variants with bands, and a saving between them")
    axes = Axes(picture, (64, 20, 520, 344), (4, 100), (0.05, 4), ("L0", "CE degradation, nats"))
    drawn = {}
    for of, label in (("a", BETTER), ("b", WORSE)):
        read = [(curves.scales[0].value(place), curves.read_off(reading, 0))
                for place, reading in curves.over[0].curve(label)]  # fmt: skip
        read = [(x, e) for x, e in read if 4.2 < x < 95]
        upper = [(x, e.ci95[1]) for x, e in read if e.ci95[1] is not None]
        lower = [(x, e.ci95[0]) for x, e in read if e.ci95[0] is not None]
        line = [(x, e.value) for x, e in read if e.value is not None]
        picture.add(f'<g class="{of}"><path class="band" d="{axes.path([*upper, *lower[::-1]])}z"/>'
                    f'<path class="line" d="{axes.path(line)}"/></g>')  # fmt: skip
        axes.dots([p for p in points[label] if 4.2 < p[0] < 95], of)
        drawn[label] = line
    level = 0.5
    ends = [_crossing(drawn[label], level) for label in (BETTER, WORSE)]
    (x0, y), (x1, _) = (axes.place(end, level) for end in ends)
    picture.arrow(f"M{x0 + 3} {y}H{x1 - 3}", both=True)
    saved = f"{100 * (1 - ends[0] / ends[1]):.0f} % fewer active features"
    picture.text(x0 - 10, y + 14, saved, "end")
    for row, (of, words) in enumerate((("a", BETTER), ("b", WORSE))):
        picture.add(f'<g class="{of}"><path class="line" d="M532 {40 + 22 * row}H550"/></g>')
        picture.text(556, 44 + 22 * row, words, "start")
    for row, words in enumerate(
        ("dots: runs, mean of", "3 seeds", "bands: 95 %", "arrow: saved here")
    ):
        picture.text(532, 100 + 20 * row, words, "start", "quiet")
    picture.write("savings.svg")


def _crossing(line: Sequence[tuple[float, float]], level: float) -> float:
    """Where a falling line is at a level."""
    x, y = np.log(np.array(line)).T
    return float(np.exp(np.interp(-np.log(level), -y, x)))


def intervals() -> None:
    """Savings with their intervals: one that is told from nothing, and one that is a tie."""
    (group,) = comparable(load_baseline(RESULTS))
    labels = [WORSE, BETTER, THIRD, "relu+sqrt_l1"]
    rows = np.flatnonzero(group.table["label"].isin(labels))
    replicates = resample(group, KEYS)
    if replicates is None:
        raise SystemExit(f"{RESULTS}: holds no per-sequence sums")
    part = group.subset(rows)
    found = group_frontier(part, *KEYS, replicates=replicates.subset(rows))
    shown = [s for s in found.savings
             if s.first == BETTER and s.metric == "l0" and s.amount.value is not None]  # fmt: skip
    picture = Picture(720, 60 + 44 * len(shown) + 40, "Savings of one variant with 95 % intervals")
    low, high, left, right = -40.0, 70.0, 250.0, 690.0

    def at(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    bottom = 40 + 44 * len(shown)
    for tick in (-40, -20, 0, 20, 40, 60):
        kind = "ink" if tick == 0 else "grid"
        picture.add(f'<path class="{kind}" d="M{at(tick)} 26V{bottom}"/>')
        picture.text(at(tick), bottom + 18, f"{tick} %", of="quiet")
    picture.text((left + right) / 2, bottom + 40, f"active features that {BETTER} saves")
    for row, saving in enumerate(shown):
        value, ends = 100 * (saving.amount.value or 0.0), saving.amount.ci95
        first, last = (100 * (end or 0.0) for end in ends)
        y = 52 + 44 * row
        of = "a" if saving.status in ("certain", "likely") else "c"
        picture.text(left - 16, y, f"against {saving.second}", "end")
        picture.text(
            left - 16, y + 16, "tied" if saving.status == "tied" else "better", "end", "quiet"
        )
        picture.add(f'<g class="{of}"><path class="line" d="M{at(first)} {y}H{at(last)}"/>'
                    f'<circle class="dot" cx="{at(value)}" cy="{y}" r="5"/></g>')  # fmt: skip
        picture.text(at(last) + 8, y + 5, f"{value:.0f} [{first:.0f}, {last:.0f}]", "start")
    picture.write("intervals.svg")


if __name__ == "__main__":
    splice()
    frontier()
    savings()
    intervals()
