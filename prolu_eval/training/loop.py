"""Training stacks on one stream of activations, each in turn on every batch."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from prolu_eval.errors import EvaluationError
from prolu_eval.lm import LanguageModel
from prolu_eval.progress import Progress
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows
from prolu_eval.training.cache import cached
from prolu_eval.training.checkpoint import Checkpoint
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.dead import resample
from prolu_eval.training.history import History
from prolu_eval.training.initial import measure
from prolu_eval.training.loggers import Logger
from prolu_eval.training.stack import Stack
from prolu_eval.training.stream import Stream, from_model

_LOGS = 50
# Enough for the mean norm and the centre; the geometric median of more takes long.
_SAMPLE = 8192


@dataclass(frozen=True)
class Settings:
    """How a grid is trained, beside what its file says: nothing here changes what is learned.

    Attributes:
        device: a torch device; None for CUDA where there is one, else the CPU.
        cache: folder in which activations are kept for later sweeps; None for none.
        checkpoint_minutes: time between checkpoints, from which an interrupted training goes on.
        progress: whether to show how far it is: a bar on a terminal, else a line a minute.
        loggers: further places for what is logged.
    """

    device: str | None = None
    cache: Path | None = None
    checkpoint_minutes: float = 5
    progress: bool = False
    loggers: Sequence[Logger] = field(default=())


class Training:
    """Plans of one grid, trained together.

    Args:
        plans: the runs.
        shared: what they share.
        model, tokens: where activations come from.
        out: folder of the checkpoint.
        settings: how.

    Raises:
        EvaluationError: if activations are not finite.
        ResultsError: if the cache cannot be written to, or a checkpoint is damaged.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        shared: Shared,
        model: LanguageModel,
        tokens: TokenRows,
        out: Path,
        settings: Settings,
    ) -> None:
        self._shared, self._settings = shared, settings
        source = (
            from_model(model, shared.hook, tokens)
            if settings.cache is None
            else cached(model, shared.hook, tokens, settings.cache)
        )
        self._stream = Stream(
            source, len(tokens), shared.batch_size, shared.buffer_size, shared.data_seed
        )
        sample = self._stream.peek(_SAMPLE)
        if not torch.isfinite(sample).all():
            raise EvaluationError(
                shared.hook, f"has NaN or infinite activations in {model.name}", "check the model"
            )
        self._units = SparseAutoencoder(sample.shape[1], 1, normalisation=shared.sae_normalisation)
        self.statistics = measure(self._units.normalise(sample).z, shared)
        self.stacks = [Stack(group, shared, self.statistics) for group in _stackable(plans)]
        self.histories = [History(stack) for stack in self.stacks]
        self._checkpoint = Checkpoint(
            out, trained_plan(plans, shared, tokens), self._stream, self.stacks, self.histories
        )

    def run(self) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        n_steps = self._shared.n_steps
        start = self._checkpoint.read(self.statistics.mean.device)
        written = time.monotonic()
        shown = self._settings.progress
        with Progress("training", "step", n_steps, done=start, shown=shown) as progress:
            for step in range(start, n_steps):
                self._step(step)
                progress.update(note=self._live_l0())
                late = time.monotonic() - written > 60 * self._settings.checkpoint_minutes
                if late or step == n_steps - 1:
                    self._checkpoint.write(step + 1)
                    written = time.monotonic()

    def results(self) -> Iterator[tuple[Plan, SparseAutoencoder | None, History, int]]:
        """Each run's autoencoder in the model's units, None if it diverged, with its history.

        The number is the run's place in the history.
        """
        for stack, history in zip(self.stacks, self.histories, strict=True):
            for index, plan in enumerate(stack.plans):
                failed = history.failed(index)
                sae = None if failed else stack.autoencoder(index, self.statistics.scale)
                yield plan, sae, history, index

    def finish(self) -> None:
        """Forget the checkpoint: what was trained has been stored."""
        self._checkpoint.remove()

    def _step(self, step: int) -> None:
        shared = self._shared
        x = self.statistics.scale * self._units.normalise(next(self._stream)).z
        last = step == shared.n_steps - 1
        logging = last or step % max(1, shared.n_steps // _LOGS) == 0
        resampling = shared.resamples_at(step)
        for stack, history in zip(self.stacks, self.histories, strict=True):
            losses = stack.step(x, sizes=logging)
            history.observe(losses)
            if logging:
                history.log(step, x, losses)
                self._tell(step, stack, history)
            if resampling:
                resample(stack, x, stack.reconstructions(x))

    def _tell(self, step: int, stack: Stack, history: History) -> None:
        for logger in self._settings.loggers:
            for index, plan in enumerate(stack.plans):
                values = {name: float(v[index]) for name, v in history.latest.items()}
                logger.log(plan.name, step, values)

    def _live_l0(self) -> str:
        return ", ".join(
            f"{stack.plans[0].label} L0 {float(history.latest['l0'].mean()):.0f}"
            for stack, history in zip(self.stacks, self.histories, strict=True)
            if history.latest
        )


def trained_plan(plans: Sequence[Plan], shared: Shared, tokens: TokenRows) -> dict[str, Any]:
    """What decides a training, as plain data: a checkpoint continues the same one only."""
    return {
        "shared": shared.model_dump(mode="json"),
        "tokens": tokens.fingerprint,
        "runs": {
            plan.name: plan.sweep.model_dump(mode="json", include={"variant", "options", "penalty"})
            for plan in plans
        },
    }


def _stackable(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans that can be stacked, together: those of one sweep and learning rate."""

    def key(plan: Plan) -> str:
        varying = {"coefficients", "k", "learning_rates", "seeds"}
        return json.dumps([plan.sweep.model_dump(exclude=varying), plan.learning_rate])

    return [list(group) for _, group in groupby(sorted(plans, key=key), key=key)]
