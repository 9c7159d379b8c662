"""What comes of a run in an evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prolu_eval.errors import ProluEvalError
from prolu_eval.results import Result
from prolu_eval.runs import Run


@dataclass(frozen=True)
class Outcome:
    """What came of one run: its result, measured now or found stored, or the reason of failure.

    A run is ``partial`` if what is measured of it is stored, but other shares are still missing,
    and ``dropped`` if it left a race (``result.dropped`` says why) with a result on fewer tokens.
    ``result`` reads its arrays from the files when they are asked for.
    """

    name: str
    path: Path
    status: Literal["ok", "cached", "partial", "dropped", "failed"]
    variant: str | None = None
    format: str | None = None
    result: Result | None = None
    error: str | None = None


def settled(run: Run, status: Literal["ok", "cached"], result: Result | None) -> Outcome:
    """The outcome of a run that was measured, as far as was asked for."""
    known = "partial" if result is None else status
    return Outcome(run.name, run.path, known, run.variant, run.format, result)


def failed(run: Run, error: ProluEvalError) -> Outcome:
    """The outcome of a run that could not be measured."""
    return Outcome(run.name, run.path, "failed", run.variant, run.format, error=str(error))
