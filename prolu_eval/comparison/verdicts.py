"""The judgements of a comparison: one row for each judgement, and the verdict on all of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Literal

from prolu_eval.errors import CHECK_FAILED, DONE
from prolu_eval.estimates import Estimate, number, two_digits

if TYPE_CHECKING:
    from prolu_eval.analysis import Answer

Verdict = Literal["pass", "improvement", "moved", "regression", "incomparable"]
FAILING: tuple[Verdict, ...] = ("regression", "incomparable")
# The remark on a row that passes but would probably pass at a much worse value too.
WEAK = "a regression of twice the tolerance could be missed"
# If more than this many times the tokens would be needed, asking for more tokens is no help.
_MOST_TIMES = 1000
_PLURALS = {"regression": "regressions", "improvement": "improvements"}
VERDICTS: dict[Verdict, str] = {
    "regression": "worse by more than the tolerance, and significantly so",
    "incomparable": "cannot be compared; see the remedy",
    "improvement": "better by more than the tolerance, and significantly so",
    "moved": "worse on one axis of the frontier, better on the other, and not dominated by the "
    "baseline's frontier",
    "pass": "no worse than the tolerance allows, or not distinguishable from no change",
}


@dataclass(frozen=True)
class Judgement:
    """One judgement: of a metric of a run, of a run's place, or of a frontier's hypervolume.

    ``difference`` is current minus baseline; ``limit`` is the tolerance in the metric's unit, and
    ``detectable`` the smallest worsening that would be called a regression in 95 % of cases.
    ``p_value`` is the p-value for being worse (for being better, if the verdict is an improvement),
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
        """Whether this row passes, and a worsening of twice the tolerance might pass too."""
        return (
            self.verdict == "pass"
            and self.limit is not None
            and self.detectable is not None
            and self.detectable > 2 * self.limit
        )

    @property
    def shown_detectable(self) -> str:
        """The detectable worsening in the tolerance's form: in percent or in the metric's unit."""
        if self.detectable is None:
            return ""
        if (self.tolerance or "").endswith("%") and self.baseline:
            return f"{two_digits(100 * self.detectable / abs(self.baseline))}%"
        return number(self.detectable)

    @property
    def relative(self) -> Estimate | None:
        """The difference in percent of the baseline's value; None where that is zero."""
        if self.difference is None or not self.baseline:
            return None
        return self.difference.scaled(100 / abs(self.baseline))

    @property
    def values(self) -> tuple[str, str]:
        """The baseline's and the current value, with the digits that the difference justifies."""
        error = None if self.difference is None else self.difference.standard_error
        return number(self.baseline, error), number(self.current, error)

    @property
    def explanation(self) -> str:
        """The numbers, reason and remedy of the verdict, in one sentence."""
        numbers = ""
        if self.difference is not None:
            old, new = self.values
            percent = f", {self.relative:+v}%" if self.relative else ""
            interval = f", 95% CI {self.difference:+i}" if f"{self.difference:i}" else ""
            numbers = f"{old} -> {new} ({self.difference:+v}{percent}{interval})"
            if self.tolerance:
                numbers += f", tolerance {self.tolerance}"
        return "; ".join(filter(None, (numbers, self.reason, self.remedy)))


@dataclass(frozen=True, repr=False)
class Comparison:
    """Everything a comparison found.

    ``runs`` are the rows about metrics of runs, and ``frontiers`` those about whole frontiers and
    runs' places on them. ``missing_runs`` have no current result; of these, ``unevaluated_runs``
    are there and need only be evaluated. ``provenance`` says in words on which tokens, with which
    models and in which environments both sides were measured. ``axes`` are the frontier's metrics.
    If the baseline is a folder of results, ``folders`` says for each group of comparable runs which
    of the two folders is better.
    """

    runs: list[Judgement]
    frontiers: list[Judgement]
    new_runs: list[str]
    matched_by: str
    method: str
    missing_runs: Sequence[str] = ()
    unevaluated_runs: Sequence[str] = ()
    update: str | None = None
    points: "tuple[FrontierPoints, ...]" = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[str, str] | None = None
    folders: "tuple[Answer, ...]" = ()

    def __repr__(self) -> str:
        return f"<Comparison: {self.headline}>"

    @property
    def rows(self) -> list[Judgement]:
        """All rows, with those that fail first."""
        order = {verdict: i for i, verdict in enumerate(VERDICTS)}
        return sorted([*self.frontiers, *self.runs], key=lambda row: order[row.verdict])

    @property
    def verdict(self) -> Literal["pass", "regression", "incomparable"]:
        """The verdict of the whole comparison: a regression outweighs incomparable rows."""
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
        """A sentence for each metric in which a worsening of twice the tolerance could be missed.

        It is about the metric's least certain run, and says which worsening would be detected.
        """
        weak: dict[str | None, list[Judgement]] = defaultdict(list)
        for row in self.rows:
            if row.could_miss:
                weak[row.metric].append(row)
        return [_shortfall(rows) for rows in weak.values()]

    def with_update(self, command: str) -> "Comparison":
        """The same comparison, with the command that accepts the changes if there are any.

        Runs that have yet to be evaluated are no change.
        """
        rows = (row for row in self.rows if row.run not in self.unevaluated_runs)
        changed = self.new_runs or any(row.verdict != "pass" for row in rows)
        return replace(self, update=command if changed else None)

    def to_json(self) -> dict[str, Any]:
        """The JSON document as plain data; the reference publishes its schema."""
        from prolu_eval.comparison.documents import comparison_document

        return comparison_document(self).to_json()


def _shortfall(rows: list[Judgement]) -> str:
    """The sentence on how many tokens one metric lacks, about its least certain row.

    In these rows significance decides, not the tolerance, so that the detectable worsening falls
    with the square root of the number of sequences.
    """

    def lack(row: Judgement) -> float:
        return row.detectable / (2 * row.limit) if row.detectable and row.limit else inf

    worst = max(rows, key=lack)
    times = ceil(10 * lack(worst) ** 2) / 10 if lack(worst) < inf else inf
    many = f"evaluate on {times:g} times as many tokens"
    more = many if times <= _MOST_TIMES else "choose a larger tolerance"
    return (
        f"{worst.metric}: on these tokens, a worsening of {worst.run} is detected reliably only "
        f"from {worst.shown_detectable} on, which is more than twice the tolerance of "
        f"{worst.tolerance}; {more}"
    )


DrawnRun = tuple[str, float, float]


@dataclass(frozen=True)
class FrontierPoints:
    """One label's runs on the frontier's two axes, to be drawn: (run, x, y) on both sides."""

    label: str
    x: str
    y: str
    baseline: list[DrawnRun]
    current: list[DrawnRun]
