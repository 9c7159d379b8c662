"""What a comparison finds: one row for each thing that was judged."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Literal

from prolu_eval.errors import CHECK_FAILED, DONE
from prolu_eval.estimates import Estimate, number, rough

if TYPE_CHECKING:
    from prolu_eval.analysis import Answer

Verdict = Literal["pass", "improvement", "moved", "regression", "incomparable"]
FAILING: tuple[Verdict, ...] = ("regression", "incomparable")
# Said of what passes, and would at a worse value too.
WEAK = "a regression of twice the tolerance could be missed"
# Times as many tokens, beyond which asking for more is no help.
_MOST_TIMES = 1000
_PLURALS = {"regression": "regressions", "improvement": "improvements"}
VERDICTS: dict[Verdict, str] = {
    "regression": "worse by more than the tolerance, and statistically so",
    "incomparable": "cannot be compared; see the remedy",
    "improvement": "better by more than the tolerance, and statistically so",
    "moved": "worse on one axis of the frontier, better on the other, and not behind the "
    "baseline's frontier",
    "pass": "no worse than the tolerance allows, or not distinguishable from no change",
}


@dataclass(frozen=True)
class Judgement:
    """One judgement: of a metric of a run, of a run's place, or of a frontier's hypervolume.

    ``difference`` is current minus baseline; ``limit`` is the tolerance in
    the metric's unit, and ``detectable`` the smallest worsening that would be called a regression
    in 95 % of cases. ``p_value`` is that of being worse (of being better, for an improvement),
    corrected for the number of judgements. Undefined numbers are None.
    """

    run: str
    metric: str | None
    verdict: Verdict
    baseline: float | None = None
    current: float | None = None
    difference: Estimate | None = None
    tolerance: str | None = None
    limit: float | None = None
    detectable: float | None = None
    p_value: float | None = None
    reason: str | None = None
    remedy: str | None = None

    @property
    def title(self) -> str:
        """What was judged, in a few words."""
        return f"{self.run}: {self.metric}" if self.metric else self.run

    @property
    def could_miss(self) -> bool:
        """Whether it passes and a regression of twice the tolerance could have passed too."""
        return (
            self.verdict == "pass"
            and self.limit is not None
            and self.detectable is not None
            and self.detectable > 2 * self.limit
        )

    @property
    def shown_detectable(self) -> str:
        """What is sure to be caught, as the tolerance is written: in percent, or in the unit."""
        if self.detectable is None:
            return ""
        if (self.tolerance or "").endswith("%") and self.baseline:
            return f"{rough(100 * self.detectable / abs(self.baseline))}%"
        return number(self.detectable)

    @property
    def relative(self) -> Estimate | None:
        """The difference in percent of the baseline's value, where that is not zero."""
        if self.difference is None or not self.baseline:
            return None
        return self.difference.scaled(100 / abs(self.baseline))

    @property
    def values(self) -> tuple[str, str]:
        """The baseline's value and the current one, to the digits that their difference has."""
        error = None if self.difference is None else self.difference.standard_error
        return number(self.baseline, error), number(self.current, error)

    @property
    def explanation(self) -> str:
        """Why the verdict is what it is, in a sentence."""
        numbers = ""
        if self.difference is not None:
            old, new = self.values
            percent = f", {self.relative:+v}%" if self.relative else ""
            interval = f", 95% CI {self.difference:+i}" if f"{self.difference:i}" else ""
            numbers = f"{old} -> {new} ({self.difference:+v}{percent}{interval})"
            if self.tolerance:
                numbers += f", tolerance {self.tolerance}"
        return "; ".join(filter(None, (numbers, self.reason, self.remedy)))

    def document(self) -> dict[str, Any]:
        """The row in the JSON document: ``difference`` as its value, ``ci95`` as its interval."""
        known = self.difference or Estimate(value=None)
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "difference": known.value, "ci95": known.ci95}


@dataclass(frozen=True)
class Comparison:
    """Everything a comparison found.

    ``frontiers`` are the rows about frontiers as wholes; ``provenance`` says in words where both
    sides are from, on what and with what they were measured; ``axes`` the frontier's metrics;
    ``folders`` answer which of two folders is better, where the baseline is one, for each group of
    comparable runs.
    """

    runs: list[Judgement]
    frontiers: list[Judgement]
    new_runs: list[str]
    matched_by: str
    method: str
    missing_runs: Sequence[str] = ()
    update: str | None = None
    points: "tuple[FrontierPoints, ...]" = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[str, str] | None = None
    folders: "tuple[Answer, ...]" = ()

    @property
    def rows(self) -> list[Judgement]:
        """All rows, those that fail first."""
        order = {verdict: i for i, verdict in enumerate(VERDICTS)}
        return sorted([*self.frontiers, *self.runs], key=lambda row: order[row.verdict])

    @property
    def verdict(self) -> Literal["pass", "regression", "incomparable"]:
        """The whole's verdict: a regression before what could not be compared."""
        found = {row.verdict for row in self.rows}
        return "regression" if "regression" in found else (
            "incomparable" if "incomparable" in found else "pass"
        )  # fmt: skip

    @property
    def exit_code(self) -> int:
        """0 if all passed, else 1."""
        return DONE if self.verdict == "pass" else CHECK_FAILED

    @property
    def headline(self) -> str:
        """The verdict and the counts in one line."""
        counts = {v: sum(row.verdict == v for row in self.rows) for v in VERDICTS}
        shown = ", ".join(f"{n} {_PLURALS.get(v, v) if n > 1 else v}"
                          for v, n in counts.items() if n)  # fmt: skip
        extra = f"; {len(self.new_runs)} new" if self.new_runs else ""
        if weak := sum(row.could_miss for row in self.rows):
            extra += f"; in {weak}, {WEAK}: evaluate on more tokens"
        return f"{self.verdict}: {shown}{extra}"

    @property
    def too_few_tokens(self) -> list[str]:
        """By metric, what these tokens are sure to show where twice the tolerance could be missed.

        A sentence for each metric, about its least certain run.
        """
        weak: dict[str | None, list[Judgement]] = defaultdict(list)
        for row in self.rows:
            if row.could_miss:
                weak[row.metric].append(row)
        return [_shortfall(rows) for rows in weak.values()]

    def with_update(self, command: str) -> "Comparison":
        """The same, with the command that accepts what changed, if anything would change."""
        changed = self.new_runs or any(row.verdict != "pass" for row in self.rows)
        return replace(self, update=command if changed else None)

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "verdict": self.verdict,
            "runs": [row.document() for row in self.runs],
            "frontiers": [row.document() for row in self.frontiers],
            "new_runs": self.new_runs,
            "missing_runs": list(self.missing_runs),
            "too_few_tokens": self.too_few_tokens,
            "matched_by": self.matched_by,
            "method": self.method,
            "update": self.update,
            "folders": [
                {
                    "group": answer.title,
                    "statement": answer.sentence,
                    "savings": [part.to_json() for part in answer.folders],
                }
                for answer in self.folders
            ],
        }


def _shortfall(rows: list[Judgement]) -> str:
    """What is missing for certainty in rows of one metric that could miss a regression.

    These are rows whose significance is the bottleneck, so that what they are sure to catch falls
    with the root of the number of sequences.
    """

    def lack(row: Judgement) -> float:
        return row.detectable / (2 * row.limit) if row.detectable and row.limit else inf

    worst = max(rows, key=lack)
    times = ceil(10 * lack(worst) ** 2) / 10 if lack(worst) < inf else inf
    more = f"evaluate on {times:g} times as many" if times <= _MOST_TIMES else "tolerate more"
    return (
        f"{worst.metric}: these tokens are sure to show a worsening from {worst.shown_detectable} "
        f"on ({worst.run}), more than twice the tolerance of {worst.tolerance}: {more}"
    )


DrawnRun = tuple[str, float, float]


@dataclass(frozen=True)
class FrontierPoints:
    """One label's runs on the frontier's two axes, for drawing: (run, x, y) then and now."""

    label: str
    x: str
    y: str
    baseline: list[DrawnRun]
    current: list[DrawnRun]
