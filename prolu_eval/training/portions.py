"""Portions of a grid's runs, one for each process that trains, and the results of runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from prolu_eval.processes import Message
from prolu_eval.training.checkpoint import checkpoint_file, stored_runs
from prolu_eval.training.config import Plan, SweepFile
from prolu_eval.training.loop import Settings


@dataclass(frozen=True)
class Trained:
    """The result of one planned run.

    ``not_converged`` says why its training is called unfinished, by the rule of
    :func:`~prolu_eval.training.convergence.not_converged`; it is None if the training converged.
    """

    plan: Plan
    folder: Path
    status: Literal["trained", "present", "failed"]
    error: str | None = None
    not_converged: str | None = None

    def message(self) -> Message:
        """The result as plain data, for a process that knows the run's plan and folder."""
        return {
            "trained": self.plan.name,
            "status": self.status,
            "error": self.error,
            "not_converged": self.not_converged,
        }


@dataclass(frozen=True)
class Portion:
    """Runs that one process trains, in several rounds if they do not fit in memory together.

    ``checkpoint`` is the name of the file from which the runs continue. If they are ``begun``, they
    are the runs of one interrupted round, including those that it has already stored.
    """

    plans: Sequence[Plan]
    checkpoint: str
    begun: bool = False

    def message(self) -> Message:
        """The portion as plain data."""
        names = [plan.name for plan in self.plans]
        return {"plans": names, "checkpoint": self.checkpoint, "begun": self.begun}

    @classmethod
    def of(cls, message: Message, file: SweepFile) -> "Portion":
        """The portion of a grid that :meth:`message` described."""
        by_name = {plan.name: plan for plan in file.plans()}
        plans = [by_name[name] for name in message["plans"]]
        return cls(plans, message["checkpoint"], message["begun"])


def config_of(file: SweepFile, settings: Settings) -> Message:
    """The grid and its training's settings as plain data, for a process that trains portions."""
    return {
        "file": file.model_dump(mode="json"),
        "device": settings.device,
        "cache": settings.cache and os.path.abspath(settings.cache),  # noqa: PTH100
        "minutes": settings.checkpoint_minutes,
        "logs": bool(settings.loggers),
    }


def portions_of(file: SweepFile, missing: Sequence[Plan], out: Path, n: int) -> list[Portion]:
    """Missing runs as portions: begun rounds stay together, and the rest is divided into n."""
    names = {plan.name for plan in missing}
    begun = {name: runs for name, runs in stored_runs(out).items() if runs & names}
    portions = [
        Portion([plan for plan in file.plans() if plan.name in runs], name, begun=True)
        for name, runs in begun.items()
    ]
    rest = [plan for plan in missing if not any(plan.name in runs for runs in begun.values())]
    free = (name for name in map(checkpoint_file, count()) if name not in begun)
    return portions + [Portion(rest[i::n], next(free)) for i in range(n) if rest[i::n]]
