"""How variants are drawn: each has one colour, marker and dash, the same in every report.

Every colour has a contrast of at least 3:1 with both the light and the dark page. Markers and
dashes tell variants apart without colour.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

COLOURS = ("#2a78c8", "#c8501e", "#14876c", "#b5569a", "#a87400", "#7a5fd0", "#5c8a1f", "#7d7d85")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot")


class Look(NamedTuple):
    """How a variant is drawn, with Plotly's names of markers and dashes."""

    colour: str
    symbol: str
    dash: str


ALL = tuple(Look(COLOURS[(i + i // 8) % 8], SYMBOLS[i % 8], DASHES[i // 8 % 4]) for i in range(64))
# The places in the list above of variants, by label.
_KNOWN = {
    "prolu/ste+l1": 0, "relu+l1": 1, "prolu/relu+l1": 2, "relu+sqrt_l1": 3, "topk": 4,
    "batchtopk": 5, "jumprelu": 6, "gated": 7,
}  # fmt: skip


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """The look of each variant: that of a known variant, else one derived from its name.

    If two names in one report lead to the same look, the alphabetically later one gets the next
    look.
    """
    found: dict[str, Look] = {}
    taken: set[int] = set()
    for label in sorted(set(labels), key=lambda label: (label not in _KNOWN, label)):
        place = _KNOWN.get(label)
        if place is None:
            place = len(_KNOWN) + hashlib.sha256(label.encode()).digest()[0] % 56
        while place in taken and len(taken) < len(ALL):
            place = (place + 1) % len(ALL)
        taken.add(place)
        found[label] = ALL[place]
    return found
