"""Training a whole grid: one stream of activations, every stack in turn on each batch."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from tqdm import tqdm

from prolu_eval.checkpoints.native import read_config, save_run
from prolu_eval.errors import ConfigError, EvaluationError
from prolu_eval.lm import LanguageModel
from prolu_eval.results import write_atomically
from prolu_eval.runs import CONFIG_FILE, RunConfig
from prolu_eval.tokens import load_tokens
from prolu_eval.training.config import Plan, Shared, SweepFile
from prolu_eval.training.history import History
from prolu_eval.training.stack import Stack
from prolu_eval.training.stream import activations, shuffled_batches

HISTORY_FILE = "history.safetensors"
_LOGS = 50


@dataclass(frozen=True)
class Trained:
    """What came of one planned run."""

    plan: Plan
    folder: Path
    status: Literal["trained", "present", "failed"]
    error: str | None = None


def train(
    file: SweepFile,
    out: Path,
    *,
    device: str | None = None,
    progress: bool = False,
    on_trained: Callable[[Trained], Any] = lambda _: None,
) -> list[Trained]:
    """Train every run of a grid that is not in ``out`` yet, one folder each.

    A run whose loss stops being finite is ``failed``; the others go on.

    Raises:
        ConfigError: if a run's folder holds a run of another configuration.
        ModelError, TokensError: if the model, hook or dataset cannot be used.
        ResultsError: if ``out`` cannot be written to.
    """
    done: list[Trained] = []

    def settle(trained: Trained) -> None:
        done.append(trained)
        on_trained(trained)

    missing = []
    for plan in file.plans():
        if _present(out / plan.name, plan, file.shared):
            settle(Trained(plan, out / plan.name, "present"))
        else:
            missing.append(plan)
    if missing:
        _train(missing, file.shared, out, device, progress, settle)
    return done


def _train(
    plans: list[Plan],
    shared: Shared,
    out: Path,
    device: str | None,
    progress: bool,
    settle: Callable[[Trained], None],
) -> None:
    model = LanguageModel.load(shared.model, device=device)
    model.site(shared.hook)
    tokens = load_tokens(
        shared.dataset,
        model,
        split="train",
        n_tokens=shared.n_tokens,
        context_length=shared.context_length,
    )
    generator = torch.Generator().manual_seed(shared.data_seed)
    batches = shuffled_batches(
        activations(model, shared.hook, tokens, generator),
        shared.batch_size,
        shared.buffer_size,
        generator,
    )
    n_steps = max(1, shared.n_tokens // shared.batch_size)
    x = next(batches)
    if not torch.isfinite(x).all():
        raise EvaluationError(
            shared.hook, f"has NaN or infinite activations in {model.name}", "check the model"
        )
    # In training units activations have mean norm sqrt(d_in), so that coefficients carry over
    # between models and hook points.
    scale = float(x.shape[1] ** 0.5 / x.norm(dim=1).mean())
    stacks = [Stack(group, shared, scale * x.mean(0), n_steps) for group in _groups(plans)]
    histories = [History(stack) for stack in stacks]
    log_every = max(1, n_steps // _LOGS)
    bar = tqdm(total=n_steps, unit="step", disable=None if progress else True, leave=False)
    for step in range(n_steps):
        z = scale * x
        for stack, history in zip(stacks, histories, strict=True):
            losses = stack.step(z)
            history.observe(losses)
            if step % log_every == 0 or step == n_steps - 1:
                history.log(step, z, losses)
        bar.set_postfix(_live_l0(stacks, histories), refresh=False)
        bar.update()
        x = next(batches)
    bar.close()
    for stack, history in zip(stacks, histories, strict=True):
        for index, plan in enumerate(stack.plans):
            folder = out / plan.name
            if history.failed(index):
                error = EvaluationError(plan.name, "diverged: its loss is not finite",
                                        "lower the learning rate")  # fmt: skip
                settle(Trained(plan, folder, "failed", str(error)))
                continue
            write_atomically(folder / HISTORY_FILE, save(history.tensors(index)))
            sae = stack.autoencoder(index, scale)
            save_run(folder, sae, run_config(plan, shared, n_steps))
            settle(Trained(plan, folder, "trained"))


def _live_l0(stacks: list[Stack], histories: list[History]) -> dict[str, str]:
    return {
        stack.plans[0].label: f"L0 {history.l0:.0f}"
        for stack, history in zip(stacks, histories, strict=True)
    }


def _groups(plans: list[Plan]) -> list[list[Plan]]:
    """Plans that can be stacked, together: those of one sweep and learning rate."""

    def key(plan: Plan) -> str:
        return json.dumps([plan.sweep.model_dump(exclude={"coefficients"}), plan.learning_rate])

    return [list(group) for _, group in groupby(sorted(plans, key=key), key=key)]


def run_config(plan: Plan, shared: Shared, n_steps: int) -> RunConfig:
    """What a run's config.json says of its training."""
    return RunConfig(
        variant=plan.sweep.variant,
        options=plan.sweep.options,
        d_in=1,
        d_sae=shared.d_sae,
        model=shared.model,
        hook=shared.hook,
        dataset=shared.dataset,
        context_length=shared.context_length,
        tokens_seen=n_steps * shared.batch_size,
        penalty=plan.sweep.penalty,
        coefficient=plan.coefficient,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        training=shared.model_dump(mode="json"),
    )


def _present(folder: Path, plan: Plan, shared: Shared) -> bool:
    """Whether a finished run of this very configuration lies in a folder."""
    path = folder / CONFIG_FILE
    if not path.exists():
        return False
    if read_config(path).training != shared.model_dump(mode="json"):
        raise ConfigError(
            folder, "holds a run of another configuration", "choose another --out, or remove it"
        )
    return True
