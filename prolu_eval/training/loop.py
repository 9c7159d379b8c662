"""Training stacks on one stream of activations; every stack trains on every batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prolu_eval.errors import EvaluationError, Interrupted
from prolu_eval.json_text import canonical
from prolu_eval.lm import ActivationSource
from prolu_eval.precision import matrix_products
from prolu_eval.provenance import environment
from prolu_eval.saes import SparseAutoencoder
from prolu_eval.tokens import TokenRows
from prolu_eval.training.cache import cached
from prolu_eval.training.checkpoint import Checkpoint
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.convergence import not_converged
from prolu_eval.training.dead import resample_dead
from prolu_eval.training.fitted import fit
from prolu_eval.training.history import History
from prolu_eval.training.initial import measure_statistics
from prolu_eval.training.interruption import Interruption
from prolu_eval.training.loggers import Logger
from prolu_eval.training.stack import Stack
from prolu_eval.training.steps import Steps
from prolu_eval.training.stream import Ahead, Stream, from_model
from prolu_eval.training.threads import quickest, using_threads

_LOGS = 50
# Number of activations from which the mean norm and the centre are computed. More of them would
# make the geometric median slow.
_SAMPLE = 8192
# The settings of a sweep that decide a run's training and are not part of the run's name.
_OF_SWEEP = {"variant", "options", "penalty", "chance"}


@dataclass(frozen=True)
class Settings:
    """How a grid is trained, besides the settings of its file; nothing here changes the results.

    Attributes:
        device: a torch device, or several, separated by commas, that share the runs, or ``all`` for
            every GPU; None for CUDA where it is available, else the CPU.
        cache: a folder in which activations are kept for later sweeps; None for no cache.
        checkpoint_minutes: the time between checkpoints; an interrupted training continues from the
            last one.
        progress: whether to show the progress: a bar on a terminal, else one line a minute.
        loggers: loggers besides each run's own history.
        on: ``ray`` or ``ray://HOST:PORT`` to train on a cluster; None for this machine alone.
        ray: the cluster's workers, as ``cpus=4,gpus=1,workers=8``.
    """

    device: str | None = None
    cache: Path | None = None
    checkpoint_minutes: float = 5
    progress: bool = False
    loggers: Sequence[Logger] = field(default=())
    on: str | None = None
    ray: str | None = None


class TrainingOutcome(NamedTuple):
    """The result of a plan: its autoencoder in the model's units, or None if training diverged.

    ``history`` holds the logged values in the form of :meth:`History.tensors`; ``not_converged``
    says why the training is called unfinished, or is None; ``environments`` are the versions and
    devices with which it was trained.
    """

    plan: Plan
    sae: SparseAutoencoder | None
    history: dict[str, Tensor]
    not_converged: str | None
    environments: list[dict[str, Any]]


class Training:
    """The training of plans of one grid, all together.

    Args:
        plans: the runs.
        shared: the settings that they share.
        model, tokens: the model and the text that activations come from.
        checkpoint: the file from which an interrupted training continues.
        settings: how the grid is trained.
        steps: the counter of steps.

    Raises:
        EvaluationError: if activations are not finite.
        ResultsError: if the cache cannot be written to, or a checkpoint is damaged.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        shared: Shared,
        model: ActivationSource,
        tokens: TokenRows,
        checkpoint: Path,
        settings: Settings,
        steps: Steps,
    ) -> None:
        self._shared, self._settings, self._steps = shared, settings, steps
        self._tf32 = shared.precision_on(model.device) == "tf32"
        self._interruption = Interruption()
        self._stream, sample = opened(
            shared, model, tokens, settings, steps, _SAMPLE, self._interruption.check
        )
        self._units = SparseAutoencoder(sample.shape[1], 1, normalisation=shared.sae_normalisation)
        self.statistics = measure_statistics(self._units.normalise(sample).z, shared)
        self._first = self.statistics.scale * self._units.normalise(sample[: shared.batch_size]).z
        self.stacks = [Stack(group, shared, self.statistics) for group in _stackable(plans)]
        self.histories = [History(stack) for stack in self.stacks]
        self._checkpoint = Checkpoint(
            checkpoint,
            trained_plan(plans, shared, tokens),
            self._stream,
            self.stacks,
            self.histories,
            environment_on(model.device, shared),
        )

    def run(self) -> None:
        """Train to the end, from the last checkpoint if there is one.

        After Ctrl-C or SIGTERM, training ends with the current step, or between two passes of the
        language model, and writes a checkpoint; a second signal ends it at once.

        Raises:
            Interrupted: after such a signal; it says from which step a second call continues.
            ResultsError: if the checkpoint is damaged, or cannot be written.
        """
        n_steps = self._shared.n_steps
        done = start = self._checkpoint.read(self.statistics.mean.device)
        self._steps.found(start)
        written = time.monotonic()
        with ExitStack() as around:
            around.enter_context(self._interruption)
            around.enter_context(matrix_products(tf32=self._tf32))
            threads = self._threads()
            if threads is not None:
                around.enter_context(using_threads(threads))
            try:
                for step in range(start, n_steps):
                    self._interruption.check()
                    self._step(step)
                    done = step + 1
                    self._steps.taken(self._live_l0())
                    late = time.monotonic() - written > 60 * self._settings.checkpoint_minutes
                    if late or done == n_steps:
                        self._checkpoint.write(done, threads)
                        written = time.monotonic()
            except KeyboardInterrupt:
                raise self._stopped(done, threads) from None

    def results(self) -> Iterator[TrainingOutcome]:
        """The result of each plan, one after another."""
        tokens = self._shared.n_steps * self._shared.batch_size
        for stack, history in zip(self.stacks, self.histories, strict=True):
            for index, plan in enumerate(stack.plans):
                logged = history.tensors(index)
                if history.failed(index):
                    yield TrainingOutcome(plan, None, logged, None, self._checkpoint.environments)
                else:
                    sae = stack.autoencoder(index, self.statistics.scale)
                    reason = not_converged(logged, stack.silent[index], tokens, self._shared.decay)
                    environments = self._checkpoint.environments
                    yield TrainingOutcome(plan, sae, logged, reason, environments)

    def finish(self) -> None:
        """Remove the checkpoint, once the trained runs are stored."""
        self._checkpoint.remove()

    def _threads(self) -> int | None:
        """On a CPU, the number of threads to use: the checkpoint's, or else the fastest."""
        if self.statistics.mean.device.type != "cpu":
            return None
        return self._checkpoint.threads or quickest(partial(self.stacks[0].try_out, self._first))

    def _stopped(self, done: int, threads: int | None) -> Interrupted:
        """Write a checkpoint if the last step is complete, and say where training will continue."""
        n_steps = self._shared.n_steps
        if self._interruption.orderly and done:
            self._checkpoint.write(done, threads)
        if stored := self._checkpoint.step:
            return Interrupted(
                f"step {stored:,} of {n_steps:,} is stored; run the same command again to go on "
                "from there"
            )
        return Interrupted(
            "no step is stored yet; run the same command again to start from the beginning"
        )

    def _step(self, step: int) -> None:
        shared = self._shared
        batch = self.statistics.scale * self._units.normalise(next(self._stream)).z
        last = step == shared.n_steps - 1
        logging = last or step % max(1, shared.n_steps // _LOGS) == 0
        resampling = shared.resamples_at(step)
        for stack, history in zip(self.stacks, self.histories, strict=True):
            x = stack.batch_for_step(batch)
            losses = stack.step(x, sizes=logging)
            history.observe(losses)
            if logging:
                history.log(step, x, losses)
                self._tell(step, stack, history)
            if resampling and not stack.holds_decoder:
                resample_dead(stack, x, stack.reconstructions(x))

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


def opened(
    shared: Shared,
    model: ActivationSource,
    tokens: TokenRows,
    settings: Settings,
    steps: Steps,
    n: int,
    check: Callable[[], object] = lambda: None,
) -> tuple[Stream, Tensor]:
    """A sweep's stream of activations, and a sample: its first n activations. [n, d_in] at most

    ``steps`` shows how full the first buffer is. ``check`` is called before each pass of the model.

    Raises:
        EvaluationError: if activations are not finite.
        ResultsError: if the cache cannot be written to.
    """
    precision = shared.precision_on(model.device)

    def activations(rows: Tensor) -> Tensor:
        check()
        return source(rows)

    ahead = model.device.type == "cuda" and settings.cache is None
    stream = Stream(
        Ahead(activations, model.device) if ahead else activations,
        len(tokens),
        shared.batch_size,
        shared.buffer_size,
        shared.data_seed,
    )
    with matrix_products(tf32=precision == "tf32"):
        source = (
            from_model(model, shared.hook, tokens, mixed=precision == "mixed")
            if settings.cache is None
            else cached(
                model,
                shared.hook,
                tokens,
                settings.cache,
                precision,
                partial(steps.filling, "cache"),
            )
        )
        sample = stream.peek(n, partial(steps.filling, "buffer"))
    if not torch.isfinite(sample).all():
        raise EvaluationError(
            shared.hook, f"has NaN or infinite activations in {model.name}", "check the model"
        )
    return stream, sample


def fitted(
    plans: Sequence[Plan],
    shared: Shared,
    model: ActivationSource,
    tokens: TokenRows,
    settings: Settings,
    steps: Steps,
) -> Iterator[TrainingOutcome]:
    """The results of chance baselines that are computed from the first buffer of activations.

    Raises:
        EvaluationError, ResultsError: as :class:`Training`.
    """
    _, sample = opened(shared, model, tokens, settings, steps, shared.buffer_size)
    units = SparseAutoencoder(sample.shape[1], 1, normalisation=shared.sae_normalisation)
    for plan, sae in zip(plans, fit(plans, units.normalise(sample).z, shared), strict=True):
        yield TrainingOutcome(plan, sae, {}, None, [environment_on(model.device, shared)])


def environment_on(device: torch.device, shared: Shared) -> dict[str, Any]:
    """What a grid is trained with in this process: versions, and the device and its precision."""
    told = environment() | {"device": device.type, "precision": shared.precision_on(device)}
    return dict(sorted(told.items()))  # as a checkpoint gives it back: files are the same bytes


def trained_plan(plans: Sequence[Plan], shared: Shared, tokens: TokenRows) -> dict[str, Any]:
    """All that decides a training, as plain data; a checkpoint continues only an equal one."""
    return {
        "shared": shared.model_dump(mode="json"),
        "tokens": tokens.fingerprint,
        "runs": {
            plan.name: plan.sweep.model_dump(mode="json", include=_OF_SWEEP) for plan in plans
        },
    }


def _stackable(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Groups of plans that can be stacked: those of one sweep and learning rate."""

    def key(plan: Plan) -> str:
        varying = {"coefficients", "k", "learning_rates", "seeds"}
        return canonical([plan.sweep.model_dump(exclude=varying), plan.learning_rate])

    return [list(group) for _, group in groupby(sorted(plans, key=key), key=key)]
