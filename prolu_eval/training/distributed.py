"""Training a sweep over the workers of a cluster, each of which trains a portion of the runs.

Workers send runs and checkpoints back, which are stored in the same folders as when one machine
trains. If a worker ends, another worker continues its portion from the last checkpoint. A call that
was interrupted also continues from these checkpoints.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from prolu_eval.cluster.address import check_device, shares_of
from prolu_eval.cluster.parcels import Shipping
from prolu_eval.cluster.pool import ERROR, Answered, Gone, Joined, Message, Pool, Worker, error_of
from prolu_eval.cluster.sight import MODEL, TOKENS, UNSEEN, described, parcel_of
from prolu_eval.errors import EvaluationError
from prolu_eval.progress import Progress
from prolu_eval.results import write_atomically
from prolu_eval.training.checkpoint import checkpoint_file, stored_runs
from prolu_eval.training.config import Plan, SweepFile
from prolu_eval.training.loop import Settings
from prolu_eval.training.portions import Portion, Trained, config_of, portions_of
from prolu_eval.training.steps import Steps

SERVICE = "prolu_eval.training.worker:TrainingWorker"
_PATIENCE = 1.0
# So many workers may end or fail one after another without any new checkpoint.
_TRIES = 3


def train_elsewhere(
    file: SweepFile,
    missing: Sequence[Plan],
    out: Path,
    settings: Settings,
    on_trained: Callable[[Trained], None],
) -> None:
    """Train missing runs of a grid on the cluster that settings name.

    Raises:
        EvaluationError: if no worker can be started, or all workers that try a portion end.
        ModelError, TokensError, ConfigError: as on one machine.
        ResultsError: if ``out`` cannot be written to.
        UsageError: if the cluster cannot be reached.
    """
    check_device(settings.device)
    from prolu_eval.cluster.on_ray import RayPool

    shares = shares_of(settings.ray)
    pool = RayPool(str(settings.on), SERVICE, config_of(file, settings), shares)
    try:
        train_over(pool, file, missing, out, settings, on_trained)
    finally:
        pool.close()


def train_over(
    pool: Pool,
    file: SweepFile,
    missing: Sequence[Plan],
    out: Path,
    settings: Settings,
    on_trained: Callable[[Trained], None],
) -> None:
    """Train missing runs of a grid over the workers of a pool."""
    with Progress("training", "step", shown=settings.progress) as shown:
        _Sharing(pool, file, missing, out, settings, on_trained, shown).train()


@dataclass
class _Begun:
    """A portion on a worker, and the steps that the worker reported: expected, found and taken."""

    portion: Portion
    message: dict[str, Any]
    steps: Counter[str] = field(default_factory=Counter)


class _Sharing:
    """The portions of a grid that remain to be trained, and the workers that train them."""

    def __init__(
        self,
        pool: Pool,
        file: SweepFile,
        missing: Sequence[Plan],
        out: Path,
        settings: Settings,
        on_trained: Callable[[Trained], None],
        shown: Progress,
    ) -> None:
        self._pool, self._file, self._out, self._settings = pool, file, out, settings
        self._on_trained, self._steps = on_trained, Steps(shown)
        self._missing = {plan.name: plan for plan in missing}
        self._shipping = Shipping(pool)
        self._waiting: deque[Portion] | None = None
        self._idle: list[Worker] = []
        self._begun: dict[int, _Begun] = {}
        self._tries: Counter[str] = Counter()
        shared = file.shared
        self._about = {
            MODEL: described(MODEL, shared.model),
            TOKENS: described(TOKENS, shared.dataset),
        }

    def train(self) -> None:
        """Train all portions."""
        while self._missing:
            for event in self._pool.events(_PATIENCE):
                match event:
                    case Joined(worker):
                        self._idle.append(worker)
                    case Gone(worker, reason):
                        self._lose(worker, reason)
                    case Answered(worker, _, answer):
                        self._take(worker, answer)
            self._hand_out()

    def _hand_out(self) -> None:
        if self._waiting is None and self._idle:
            n = min(self._pool.size, len(self._missing))
            plans = list(self._missing.values())
            self._waiting = deque(portions_of(self._file, plans, self._out, n))
        while self._waiting and self._idle:
            worker, portion = self._idle.pop(), self._waiting.popleft()
            path = self._out / portion.checkpoint
            checkpoint = self._pool.put(path.read_bytes()) if path.exists() else None
            message = {
                "do": "begin",
                "portion": portion.message(),
                "checkpoint": checkpoint,
                **self._about,
            }
            self._begun[worker.id] = _Begun(portion, message)
            self._pool.submit(worker, message)

    def _take(self, worker: Worker, answer: Message) -> None:
        begun = self._begun.get(worker.id)
        if begun is None:
            return
        if UNSEEN in answer:
            parcels = [
                self._shipping.sent(parcel_of(what, self._about[what] or {}))
                for what in answer[UNSEEN]
            ]
            self._pool.submit(worker, {**begun.message, "parcels": parcels})
            return
        for name, content in answer.get("files", {}).items():
            write_atomically(self._out / name, content)
            self._tries[begun.portion.checkpoint] = 0
        for message in answer.get("told", ()):
            self._told(begun, message)
        if ERROR in answer:
            self._refused(worker, begun, answer)
        elif answer.get("done"):
            self._end(worker)
        else:
            self._pool.submit(worker, {"do": "listen"})

    def _told(self, begun: _Begun, message: dict[str, Any]) -> None:
        if "log" in message:
            for logger in self._settings.loggers:
                logger.log(*message["log"])
        elif "trained" in message:
            plan = self._missing.pop(message.pop("trained"), None)
            if plan is not None:  # a run that an earlier worker stored is reported again
                self._on_trained(Trained(plan, self._out / plan.name, **message))
        else:
            if "filling" not in message:
                begun.steps.update(message)
            self._steps.take(message)

    def _end(self, worker: Worker) -> None:
        """Mark a portion as trained and remove its checkpoint, which is no longer needed."""
        begun = self._begun.pop(worker.id)
        (self._out / begun.portion.checkpoint).unlink(missing_ok=True)
        self._idle.append(worker)
        self._again(begun)

    def _refused(self, worker: Worker, begun: _Begun, answer: Message) -> None:
        """Let another worker try a portion that failed on one.

        Raises:
            ProluEvalError: once it failed on several workers.
        """
        tries = self._tries[begun.portion.checkpoint] = self._tries[begun.portion.checkpoint] + 1
        if tries >= _TRIES or not (self._idle or len(self._begun) > 1):
            raise error_of(answer[ERROR])
        del self._begun[worker.id]
        self._again(begun)
        self._idle.insert(0, worker)

    def _lose(self, worker: Worker, reason: str) -> None:
        self._idle = [idle for idle in self._idle if idle.id != worker.id]
        begun = self._begun.pop(worker.id, None)
        if begun is None:
            return
        logging.getLogger(__name__).warning(
            "A worker on %s ended (%s); another continues from its last checkpoint.",
            worker.node,
            reason,
        )
        self._tries[begun.portion.checkpoint] += 1
        if self._tries[begun.portion.checkpoint] > _TRIES:
            raise EvaluationError(
                begun.portion.plans[0].name,
                f"and each worker ended that trained its portion (the last: {reason})",
                "check that workers have enough memory, or use more workers",
            )
        self._again(begun)

    def _again(self, begun: _Begun) -> None:
        """Keep the rest of a portion for the next free worker."""
        told = begun.steps
        self._steps.expect(-(told["expected"] - told["found"] - told["taken"]))
        left = [plan for plan in begun.portion.plans if plan.name in self._missing]
        if not left or self._waiting is None:
            return
        name = begun.portion.checkpoint
        stored = stored_runs(self._out).get(name, frozenset())
        if stored & {plan.name for plan in left}:
            again = [plan for plan in begun.portion.plans if plan.name in stored]
            self._waiting.append(Portion(again, name, begun=True))
            left = [plan for plan in left if plan.name not in stored]
            taken = {portion.checkpoint for portion in self._waiting}
            taken |= {other.portion.checkpoint for other in self._begun.values()}
            name = next(n for n in map(checkpoint_file, count()) if n not in taken)
        if left:
            self._waiting.append(Portion(left, name))
