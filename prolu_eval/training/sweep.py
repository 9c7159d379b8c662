"""Training a grid of runs, each into a folder of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from safetensors.torch import save

from prolu_eval.checkpoints.native import read_config, save_run
from prolu_eval.errors import ConfigError, EvaluationError, Interrupted, ResultsError
from prolu_eval.results import check_writable, write_atomically
from prolu_eval.runs import CONFIG_FILE, RunConfig
from prolu_eval.training.checkpoint import stored_runs
from prolu_eval.training.config import Plan, Shared, SweepFile
from prolu_eval.training.cost import rounds
from prolu_eval.training.loop import Settings, Training
from prolu_eval.training.source import load_source, training_rows

HISTORY_FILE = "history.safetensors"
_LOCK_FILE = ".sweep.lock"


@dataclass(frozen=True)
class Trained:
    """What came of one planned run.

    ``not_converged`` says why its training is called unfinished, if it is, by the rule of
    :func:`~prolu_eval.training.convergence.not_converged`.
    """

    plan: Plan
    folder: Path
    status: Literal["trained", "present", "failed"]
    error: str | None = None
    not_converged: str | None = None


def train_sweep(
    file: SweepFile,
    out: Path,
    settings: Settings | None = None,
    on_trained: Callable[[Trained], Any] = lambda _: None,
) -> list[Trained]:
    """Train every run of a grid that is not in ``out`` yet, one folder each.

    A run whose loss stops being finite is ``failed``; the others go on. A call that was interrupted
    and is made again continues from its last checkpoint. What does not fit in memory at once is
    trained in rounds.

    Raises:
        ConfigError: if a run's folder holds a run of another configuration, or a sweep does not
            suit the model's width.
        Interrupted: on Ctrl-C or SIGTERM; what was trained is stored.
        ModelError, TokensError: if the model, hook or dataset cannot be used.
        ResultsError: if ``out`` cannot be written to, or another sweep is training into it.
    """
    settings = settings or Settings()
    done: list[Trained] = []

    def settle(trained: Trained) -> None:
        done.append(trained)
        on_trained(trained)

    with ExitStack() as around:
        if any(_present(out / plan.name, file.shared) is None for plan in file.plans()):
            around.enter_context(_alone(out))
        missing = []
        for plan in file.plans():
            if (known := _present(out / plan.name, file.shared)) is not None:
                reason = known.not_converged
                settle(Trained(plan, out / plan.name, "present", not_converged=reason))
            else:
                missing.append(plan)
        if missing:
            try:
                _train(file, missing, out, settings, settle)
            except KeyboardInterrupt as stop:
                raise _told(stop) from None
    return done


def _told(stop: KeyboardInterrupt) -> Interrupted:
    """An interruption that says what a second call does."""
    if isinstance(stop, Interrupted):
        return stop
    return Interrupted("run the same command again to go on from what is stored")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder until the block ends, however it ends.

    The folder is made if need be, and removed if nothing came of it.
    """
    check_writable(out)  # rather than after minutes of training
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
        (out / _LOCK_FILE).unlink(missing_ok=True)  # held still, so that nobody's own is removed
        lock.release()
        with suppress(OSError):
            out.rmdir()


def _train(
    file: SweepFile,
    missing: Sequence[Plan],
    out: Path,
    settings: Settings,
    settle: Callable[[Trained], None],
) -> None:
    shared = file.shared
    model = load_source(shared, settings.device)
    d_in = model.width(shared.hook)
    file.check(d_in)
    tokens = training_rows(shared, model)
    # An interrupted round goes on as it was, with those of its runs that were stored already.
    interrupted = stored_runs(out)
    if {plan.name for plan in missing} & interrupted:
        going_on = [plan for plan in file.plans() if plan.name in interrupted]
        rest = [plan for plan in missing if plan.name not in interrupted]
    else:
        going_on, rest = [], list(missing)
    for part in filter(None, [going_on, *rounds(rest, shared, d_in, model.device)]):
        training = Training(part, shared, model, tokens, out, settings)
        training.run()
        for plan, sae, history, reason in training.results():
            folder = out / plan.name
            if sae is None:
                error = EvaluationError(plan.name, "diverged: its loss is not finite",
                                        "lower the learning rate")  # fmt: skip
                settle(Trained(plan, folder, "failed", str(error)))
            elif not (folder / CONFIG_FILE).exists():
                write_atomically(folder / HISTORY_FILE, save(history))
                config = run_config(plan, shared, d_in)
                save_run(folder, sae, config.model_copy(update={"not_converged": reason}))
                settle(Trained(plan, folder, "trained", not_converged=reason))
        training.finish()


def run_config(plan: Plan, shared: Shared, d_in: int) -> RunConfig:
    """What a run's config.json says of its training."""
    return RunConfig(
        variant=plan.sweep.variant,
        d_in=d_in,
        d_sae=shared.dictionary_size(d_in),
        model=shared.model,
        hook=shared.hook,
        dataset=shared.dataset,
        text_column=shared.text_column,
        context_length=shared.context_length,
        tokens_seen=shared.n_steps * shared.batch_size,
        penalty=plan.sweep.penalty,
        coefficient=plan.coefficient,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        training=shared.model_dump(mode="json"),
    )


def _present(folder: Path, shared: Shared) -> RunConfig | None:
    """The finished run of this very configuration that lies in a folder, if there is one."""
    path = folder / CONFIG_FILE
    if not path.exists():
        return None
    config = read_config(path)
    if config.training != shared.model_dump(mode="json"):
        raise ConfigError(
            folder, "holds a run of another configuration", "choose another --out, or remove it"
        )
    return config
