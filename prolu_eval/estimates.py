"""Numbers with their uncertainty, and how numbers are written.

This module formats every number that is shown; the scripts of pages use the same number of digits.
"""

import math
from statistics import NormalDist

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

CONFIDENCE = 0.95
# Significant digits of a number without an interval that would say how many of them are meaningful.
SIGNIFICANT = 4
# Significant digits of a number of which only the size matters, such as a p-value.
_OF_SIZE = 2
# Significant digits of numbers that are drawn, not read.
_IN_FIGURES = 6
# Plotly's format for the numbers of a point in a figure.
HOVER = f".{SIGNIFICANT}g"
# Numbers that need more decimals are written with an exponent.
_MOST_DECIMALS = 7


# A result has dozens of these, and an evaluation of a folder may have thousands of results, so they
# have slots: as pydantic's models they would take three times the memory.
@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Estimate:
    """A value with its standard error and 95 % interval; undefined parts are None.

    Formatting writes as many digits as the interval justifies::

        f"{estimate}"      1.31 [1.28, 1.35]
        f"{estimate:%}"    31.2 % [29.8, 32.5], for a fraction
        f"{estimate:se}"   1.31 ±0.02, where the ± is one standard error
        f"{estimate:v}"    1.31
        f"{estimate:i}"    [1.28, 1.35], or nothing without an interval
        f"{estimate:+v}"   +1.31, for a difference; likewise ``+`` and ``+i``
    """

    value: float | None
    standard_error: float | None = None
    ci95: tuple[float | None, float | None] = (None, None)

    @property
    def low(self) -> float | None:
        """The lower end of the 95 % interval."""
        return self.ci95[0]

    @property
    def high(self) -> float | None:
        """The upper end of the 95 % interval."""
        return self.ci95[1]

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of zero."""
        return self.low is not None and self.high is not None and self.low * self.high > 0

    def scaled(self, factor: float) -> "Estimate":
        """The estimate in another unit; a negative factor exchanges the interval's ends."""
        ends = [None if end is None else factor * end for end in self.ci95]
        low, high = ends if factor >= 0 else reversed(ends)
        return Estimate(
            value=None if self.value is None else factor * self.value,
            standard_error=(
                None if self.standard_error is None else abs(factor) * self.standard_error
            ),
            ci95=(low, high),
        )

    def to_json(self) -> dict[str, float | list[float | None] | None]:
        """The estimate as JSON documents hold it: ``value``, ``standard_error``, ``ci95``."""
        return {
            "value": self.value,
            "standard_error": self.standard_error,
            "ci95": list(self.ci95),
        }

    def __format__(self, spec: str) -> str:
        """Write the estimate in a format that the class documents; an undefined one is a dash.

        Raises:
            ValueError: if the format is another one.
        """
        kind, half = spec.removeprefix("+"), self._half_width
        if kind not in ("", "%", "se", "v", "i"):
            raise ValueError(f"unknown format {spec!r} of an estimate")
        if kind == "%":
            scaled = self.scaled(100)
            unit = "" if self.value is None else " %"
            return f"{scaled:{spec[:-1]}v}{unit} {scaled:{spec[:-1]}i}".rstrip()
        write = signed if spec.startswith("+") else number
        if kind == "se":
            error = self.standard_error
            known = f" ±{number(error, error)}" if error and self.value is not None else ""
            return f"{write(self.value, error)}{known}"
        value = write(self.value, half)
        ends = "" if half is None else f"[{write(self.low, half)}, {write(self.high, half)}]"
        return {"v": value, "i": ends, "": f"{value} {ends}".rstrip()}[kind]

    @property
    def _half_width(self) -> float | None:
        if self.value is None or self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2


def bounded(value: float, standard_error: float) -> Estimate:
    """A fraction or an AUC with the part of its normal interval that lies between 0 and 1."""
    half = standard_error * NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    interval = (max(0.0, value - half), min(1.0, value + half))
    return Estimate(value=value, standard_error=standard_error, ci95=interval)


def number(value: float | None, uncertainty: float | None = None) -> str:
    """A number to two digits of its uncertainty, or to four significant digits without one.

    The uncertainty is the half-width of an interval, or a standard error. A missing number is
    written ``-``.
    """
    if value is None or math.isnan(value):
        return "-"
    if not math.isfinite(value):
        return f"{value:g}"
    if not uncertainty or not math.isfinite(uncertainty):
        return f"{value:.{SIGNIFICANT}g}"
    decimals = 1 - math.floor(math.log10(uncertainty))
    if decimals > _MOST_DECIMALS and value:
        return f"{value:.{max(1, decimals + 1 + math.floor(math.log10(abs(value))))}g}"
    decimals = min(decimals, _MOST_DECIMALS)
    return f"{round(value, decimals) + 0.0:.{max(0, decimals)}f}"  # no negative zero


def signed(value: float | None, uncertainty: float | None = None) -> str:
    """A number as :func:`number` writes it, with a plus sign if it is above zero."""
    text = number(value, uncertainty)
    return f"+{text}" if value is not None and value > 0 else text


def two_digits(value: float | None) -> str:
    """A number of which only the size matters, such as a p-value, to two significant digits."""
    return "-" if value is None or math.isnan(value) else f"{float(f'{value:.{_OF_SIZE}g}'):g}"


def unrounded(value: float | None) -> str:
    """A number that was chosen, such as a coefficient, unrounded; a missing number is ``-``."""
    return "-" if value is None or math.isnan(value) else f"{value:g}"


def for_figure(value: float, digits: int = _IN_FIGURES) -> float | int | None:
    """A number to the significant digits that a figure needs; None if it is not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
