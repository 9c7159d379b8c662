"""Training a grid of runs and storing each run in its own folder."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import save

from prolu_eval.checkpoints.native import read_config, save_run
from prolu_eval.cluster.address import SLURM, engine_of
from prolu_eval.devices import devices_of, threads_each, working_on
from prolu_eval.errors import (
    ConfigError,
    EvaluationError,
    Interrupted,
    ResultsError,
    UsageError,
)
from prolu_eval.processes import Helpers, Message
from prolu_eval.progress import Progress
from prolu_eval.results import check_writable, write_atomically
from prolu_eval.runs import CONFIG_FILE, RunConfig
from prolu_eval.training.config import Plan, Shared, SweepFile
from prolu_eval.training.cost import rounds
from prolu_eval.training.distributed import train_elsewhere
from prolu_eval.training.loop import Settings, Training, TrainingOutcome, fitted
from prolu_eval.training.portions import Portion, Trained, config_of, portions_of
from prolu_eval.training.source import load_source, training_rows
from prolu_eval.training.steps import Steps

HISTORY_FILE = "history.safetensors"
_LOCK_FILE = ".sweep.lock"
# Seconds between two checks for messages from helpers.
_POLL = 0.2


def train_sweep(
    file: SweepFile,
    out: Path,
    settings: Settings | None = None,
    on_trained: Callable[[Trained], Any] = lambda _: None,
) -> list[Trained]:
    """Train every run of a grid that is not in ``out`` yet, and store each in its own folder.

    A run whose loss becomes infinite or NaN is ``failed``; the others continue. After an
    interruption, the same call continues from the last checkpoint. Runs that do not fit in memory
    together are trained in rounds. Several devices share the runs, with one process each. If one of
    these processes ends early, the first device trains the runs that it left.

    Raises:
        ConfigError: if a run's folder holds a run of another configuration, or a sweep does not
            suit the model's width or does not fit in memory.
        Interrupted: on Ctrl-C or SIGTERM; the steps done so far are stored.
        ModelError, TokensError: if the model, hook or dataset cannot be used.
        ResultsError: if ``out`` cannot be written to, or another sweep is training into it.
        UsageError: if a device does not exist.
    """
    if not isinstance(settings, Settings | None):
        reason = f"are of type {type(settings).__name__}"
        raise UsageError("settings", reason, "give prolu_eval.training.Settings(...)")
    settings = settings or Settings()
    if (searched := file.still_to_be_found) is not None:
        subject = f"the sweep of {searched}"
        unknown = "has target_l0, whose coefficients are still to be found"
        raise ConfigError(subject, unknown, "find them with prolu_eval.train")
    elsewhere = settings.on is not None
    if settings.on is not None and engine_of(settings.on) == SLURM:
        raise UsageError("--on slurm", "is for evaluations", "train with --on ray, or in one job")
    devices = [None] if elsewhere else devices_of(settings.device)
    done: list[Trained] = []

    def record(trained: Trained) -> None:
        done.append(trained)
        on_trained(trained)

    with ExitStack() as around:
        if any(_present(out / plan.name, file.shared) is None for plan in file.plans()):
            around.enter_context(_alone(out))
        missing = []
        for plan in file.plans():
            if (known := _present(out / plan.name, file.shared)) is not None:
                reason = known.not_converged
                record(Trained(plan, out / plan.name, "present", not_converged=reason))
            else:
                missing.append(plan)
        if missing:
            try:
                if elsewhere:
                    train_elsewhere(file, missing, out, settings, record)
                else:
                    _train_on(devices, file, missing, out, settings, record)
            except KeyboardInterrupt as stop:
                raise _told(stop) from None
    return done


def _told(stop: KeyboardInterrupt) -> Interrupted:
    """An interruption whose message says what a second call does."""
    if isinstance(stop, Interrupted):
        return stop
    return Interrupted("run the same command again to go on from what is stored")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder until the block ends, also if it ends with an exception.

    The folder is created if it does not exist, and removed at the end if it is empty.
    """
    check_writable(out)  # fails now, not after minutes of training
    lock = FileLock(out / _LOCK_FILE, is_singleton=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ResultsError(
            out, "is being trained into by another sweep", "wait for it, or choose another --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResultsError(
            out, f"cannot be locked ({reason})", "choose an --out on a file system with locks"
        ) from None
    try:
        yield
    finally:
        (out / _LOCK_FILE).unlink(missing_ok=True)  # while it is still locked
        lock.release()
        with suppress(OSError):
            out.rmdir()


def _train_on(
    devices: Sequence[str | None],
    file: SweepFile,
    missing: Sequence[Plan],
    out: Path,
    settings: Settings,
    on_trained: Callable[[Trained], None],
) -> None:
    """Train missing runs, one portion of them on each of several devices."""
    n = len(devices)
    portions = portions_of(file, missing, out, n)
    settled: set[str] = set()

    def done(trained: Trained) -> None:
        settled.add(trained.plan.name)
        on_trained(trained)

    by_name = {plan.name: plan for plan in missing}

    def take(message: Message) -> None:
        if "log" in message:
            for logger in settings.loggers:
                logger.log(*message["log"])
        else:
            plan = by_name[message.pop("trained")]
            done(Trained(plan, out / plan.name, **message))

    given = {**config_of(file, settings), "out": str(out)}
    tasks = [
        (str(device), {**given, "device": device, "portions": [p.message() for p in own]})
        for i, device in enumerate(devices[1:], 1)
        if (own := portions[i::n])
    ]
    with (
        Helpers("prolu_eval.training.helper", tasks, threads_each(devices)) as helpers,
        Progress("training", "step", shown=settings.progress) as shown,
        working_on(devices[0], threads_each(devices)),
    ):
        steps = Steps(shown, helpers=helpers, on_message=take)
        here = replace(settings, device=devices[0])
        train_portions(file, portions[::n], out, here, done, steps)
        while not all(helper.is_done for helper in helpers.running):
            steps.listen()
            time.sleep(_POLL)
        steps.listen()
        ended = {h.device: why for h in helpers.running if (why := h.failure()) is not None}
    for device, reason in ended.items():
        logging.getLogger(__name__).warning(
            "The process on %s ended early (%s); the first device trains the runs that it left.",
            device,
            reason,
        )
    if left := [plan for plan in missing if plan.name not in settled]:
        _train_on(devices[:1], file, left, out, settings, on_trained)


def train_portions(
    file: SweepFile,
    portions: Sequence[Portion],
    out: Path,
    settings: Settings,
    on_trained: Callable[[Trained], None],
    steps: Steps,
    local_paths: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Train portions of a grid in this process, on one device.

    Args:
        file: the grid.
        portions: the runs to train, and the checkpoints from which they continue.
        out: the folder for runs and checkpoints.
        settings: how the grid is trained.
        on_trained: a function that is called with the result of each run.
        steps: the counter of steps.
        local_paths: by name, the paths of a model or text that is stored elsewhere on this
            machine.

    Raises:
        ConfigError, EvaluationError, Interrupted, ModelError, ResultsError, TokensError: as
            :func:`train_sweep`.
    """
    shared = file.shared
    model = load_source(shared, settings.device, local_paths)
    d_in = model.width(shared.hook)
    file.check(d_in)
    tokens = training_rows(shared, model, local_paths)
    for portion in portions:
        if computed := [plan for plan in portion.plans if plan.is_fitted]:
            outcomes = fitted(computed, shared, model, tokens, settings, steps)
            _store(outcomes, shared, d_in, out, on_trained)
        parts = [portion.plans]
        if not portion.begun:
            parts = [*rounds(portion.plans, shared, d_in, model.device)]
        steps.expect(shared.n_steps * len(parts))
        for part in parts:
            checkpoint = out / portion.checkpoint
            training = Training(part, shared, model, tokens, checkpoint, settings, steps)
            training.run()
            _store(training.results(), shared, d_in, out, on_trained)
            training.finish()


def _store(
    outcomes: Iterable[TrainingOutcome],
    shared: Shared,
    d_in: int,
    out: Path,
    on_trained: Callable[[Trained], None],
) -> None:
    """Store the trained runs, except those that were stored before an interruption."""
    for plan, sae, history, reason, environments in outcomes:
        folder = out / plan.name
        if sae is None:
            error = EvaluationError(plan.name, "diverged: its loss is not finite",
                                    "lower the learning rate")  # fmt: skip
            on_trained(Trained(plan, folder, "failed", str(error)))
        elif not (folder / CONFIG_FILE).exists():
            if history:
                write_atomically(folder / HISTORY_FILE, save(history))
            told = {"not_converged": reason, "environments": environments}
            save_run(folder, sae, run_config(plan, shared, d_in).model_copy(update=told))
            on_trained(Trained(plan, folder, "trained", not_converged=reason))


def run_config(plan: Plan, shared: Shared, d_in: int) -> RunConfig:
    """The description of a run's training for its config.json."""
    return RunConfig(
        variant=plan.sweep.variant,
        d_in=d_in,
        d_sae=shared.dictionary_size(d_in),
        model=shared.model,
        hook=shared.hook,
        dataset=shared.dataset,
        text_column=shared.text_column,
        context_length=shared.context_length,
        tokens_seen=shared.buffer_size if plan.is_fitted else shared.n_steps * shared.batch_size,
        penalty=plan.sweep.penalty,
        coefficient=plan.coefficient,
        learning_rate=None if plan.is_fitted else plan.learning_rate,
        seed=plan.seed,
        target_l0=plan.target_l0,
        chance=plan.sweep.chance,
        training=shared.model_dump(mode="json"),
    )


def _present(folder: Path, shared: Shared) -> RunConfig | None:
    """The finished run of the same configuration in a folder, or None."""
    path = folder / CONFIG_FILE
    if not path.exists():
        return None
    config = read_config(path)
    # A setting that did not exist in the version that trained the run had its default value.
    fields = Shared.model_fields.items()
    defaults = {name: field.default for name, field in fields if not field.is_required()}
    if defaults | (config.training or {}) != shared.model_dump(mode="json"):
        raise ConfigError(
            folder, "holds a run of another configuration", "choose another --out, or remove it"
        )
    return config
