"""Tolerances: how much worse a metric may get (`ce_degradation=+2%`), or may change (`l0=±1`)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from prolu_eval.errors import UsageError
from prolu_eval.estimates import unrounded
from prolu_eval.metrics import METRICS, metric_key

HYPERVOLUME = "hypervolume"
DEFAULT = "ce_degradation=+2%,l0=+2%,hypervolume=-2%"
# Differences below this fraction of the value come from rounding: of stored numbers, or on another
# machine.
ROUNDING = 1e-6

_FORM = re.compile(
    r"(?P<key>\w+)=(?P<sign>[+-]|±|\+-)?(?P<number>(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)(?P<percent>%?)",
    re.IGNORECASE,
)
_WORSE = {"min": "+", "max": "-", "none": "±"}


@dataclass(frozen=True)
class Tolerance:
    """The largest worsening of a metric that passes, absolute or relative to the baseline.

    ``direction`` says whether less (`min`) or more (`max`) is better; it is `none` where any change
    counts as a worsening.
    """

    key: str
    amount: float
    relative: bool
    direction: str

    @property
    def worse(self) -> int:
        """+1 if larger is worse, -1 if smaller is worse, 0 if any change is."""
        return {"min": 1, "max": -1, "none": 0}[self.direction]

    def limit(self, baseline: float) -> float:
        """The largest worsening of a baseline's value, in the metric's unit."""
        allowed = self.amount * abs(baseline) if self.relative else self.amount
        return max(allowed, ROUNDING * abs(baseline))

    def __str__(self) -> str:
        amount = f"{unrounded(self.amount * 100)}%" if self.relative else unrounded(self.amount)
        return _WORSE[self.direction] + amount


def parse_tolerances(texts: Sequence[str] = (DEFAULT,)) -> dict[str, Tolerance]:
    """Tolerances by metric, from comma-separated `metric=amount` or `metric=percent%`.

    The amount may have the sign of the direction that is worse, or `±` (or `+-`) to judge changes
    in both directions.

    Raises:
        UsageError: if a metric is unknown or named twice, or has the sign of the direction that is
            better.
    """
    found: dict[str, Tolerance] = {}
    for item in (part.strip() for text in texts for part in text.split(",") if part.strip()):
        tolerance = _parse(item)
        if tolerance.key in found:
            raise UsageError("--tolerance", f"names {tolerance.key} twice", "name it once")
        found[tolerance.key] = tolerance
    if not found:
        raise UsageError("--tolerance", "names no metric", f"write for example {DEFAULT}")
    return found


def _parse(item: str) -> Tolerance:
    match = _FORM.fullmatch(item)
    if match is None:
        raise UsageError("--tolerance", f"cannot read {item!r}", f"write for example {DEFAULT}")
    key = match["key"]
    key = key if key == HYPERVOLUME else metric_key(key, "--tolerance")
    direction = "max" if key == HYPERVOLUME else METRICS[key].direction
    sign = (match["sign"] or _WORSE[direction]).replace("+-", "±")
    if sign == _WORSE["none"]:
        direction = "none"
    elif sign != _WORSE[direction] and direction != "none":
        better = {"min": "lower", "max": "higher"}[direction]
        raise UsageError(
            "--tolerance", f"{key} is better when {better}",
            f"write {key}={_WORSE[direction]}{match['number']}{match['percent']}",
        )  # fmt: skip
    amount = float(match["number"]) / (100 if match["percent"] else 1)
    if not math.isfinite(amount):
        raise UsageError("--tolerance", f"{item!r} is not a finite amount", "write a smaller one")
    return Tolerance(key, amount, bool(match["percent"]), direction)
