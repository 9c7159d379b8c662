"""The outcome of a run in an evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prolu_eval.errors import ProluEvalError
from prolu_eval.results import Result
from prolu_eval.runs import Run


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run: its result, new or stored before, or the reason of its failure.

    A run is ``partial`` if its measured shards are stored and shards of other processes are still
    missing. It is ``dropped`` if it left a race with a result on fewer tokens; ``result.dropped``
    says why. ``result`` reads its arrays from the files when they are used.
    """

    name: str
    path: Path
    status: Literal["ok", "cached", "partial", "dropped", "failed"]
    variant: str | None = None
    format: str | None = None
    result: Result | None = None
    error: str | None = None


def settled(run: Run, status: Literal["ok", "cached"], result: Result | None) -> Outcome:
    """The outcome of a run that was measured, completely or on its share of the tokens."""
    known = "partial" if result is None else status
    return Outcome(run.name, run.path, known, run.variant, run.format, result)


def failed(run: Run, error: ProluEvalError) -> Outcome:
    """The outcome of a run that could not be measured."""
    return Outcome(run.name, run.path, "failed", run.variant, run.format, error=str(error))
