"""The cost of a training step per autoencoder: ``python benchmarks/training.py``.

Standard autoencoders (ReLU, L1, unit decoder rows, Adam) are trained on the same activations, with
the same batch and sizes, in one process. The contestants are a stack of 32, a single autoencoder (a
sweep trained one run after another), and, if they are installed, SAELens's ``SAETrainer``, its
``MultiSAETrainer`` (with which ``MultiSAETrainingRunner`` trains several on one pass of the model),
and dictionary_learning's ``trainSAE``. On a GPU there are stacks in each precision, and SAELens
with ``autocast`` too (on a CPU with ``--autocast``). Rounds of steps alternate between the
contestants. The first round starts from the initial weights, when half of all features are active;
each later one continues from the previous round. The cost of the other tools does not depend on
that, so they start from initial weights in each round.

Activations are sparse combinations of random directions, or a language model's (``--model``).
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from prolu_eval.lm import LanguageModel
from prolu_eval.precision import matrix_products
from prolu_eval.tokens import load_tokens
from prolu_eval.training.config import Plan, Shared, Sweep
from prolu_eval.training.initial import Statistics, measure_statistics
from prolu_eval.training.layouts import Dense, Layout
from prolu_eval.training.objectives import OBJECTIVES
from prolu_eval.training.on_device import GatheredMixed, GatheredOnDevice, Whole, WholeMixed
from prolu_eval.training.stack import Stack
from prolu_eval.training.stream import Stream, from_model

clock = time.perf_counter
Contestant = Callable[[list[Tensor]], float]
"""A function that trains on batches and returns the seconds per step and autoencoder."""


def made_activations(d_in: int, batch: int) -> Iterator[Tensor]:
    """Sparse nonnegative combinations of 8 d_in random directions, 12 active on average."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(8 * d_in, d_in, generator=generator))
    while True:
        active = torch.rand(batch, 8 * d_in, generator=generator) < 12 / (8 * d_in)
        yield (active * torch.rand(batch, 8 * d_in, generator=generator)) @ directions


def model_activations(options: argparse.Namespace) -> Iterator[Tensor]:
    """Activations of a language model, in shuffled batches."""
    known = options.model == "embedded"
    model = LanguageModel.load(options.model if known else str(Path(options.model).resolve()))
    tokens = load_tokens(
        options.tokens, model, split="train", n_tokens=options.batch * 256, context_length=128
    )
    rows = from_model(model, options.hook, tokens)
    stream = Stream(rows, len(tokens), options.batch, 1, 0)
    while True:
        yield next(stream).cpu()


def stack(
    options: argparse.Namespace,
    n: int,
    sample: Tensor,
    precision: Literal["tf32", "float32", "mixed"] = "tf32",
) -> Stack:
    """Autoencoders of one shape, over a range of coefficients."""
    shared = Shared(
        hook="",
        n_tokens=options.batch * options.steps * options.rounds,
        d_sae=options.d_sae,
        batch_size=options.batch,
        precision=precision,
    )
    low, high = options.coefficients
    steps = [i / max(1, n - 1) if n > 1 else 0.5 for i in range(n)]
    values = [low * (high / low) ** step for step in steps]
    sweep = Sweep(variant="relu", coefficients=values)
    statistics_ = measure_statistics(sample, shared)
    return Stack([Plan(sweep, value, options.rate, 0) for value in values], shared, statistics_)


def of_stack(trained: Stack) -> Contestant:
    """A contestant that continues to train a stack."""

    def train(batches: list[Tensor]) -> float:
        with matrix_products(tf32=trained.shared.precision_on(batches[0].device) == "tf32"):
            start = clock()
            for x in batches:
                losses = trained.step(x, sizes=False)  # as in the steps that are not logged
            float(losses.loss.sum())  # waits for a GPU
            return (clock() - start) / len(batches) / len(trained.plans)

    return train


def of_sae_lens(
    options: argparse.Namespace, device: str, n: int | None = None, *, autocast: bool = False
) -> Contestant:
    """SAELens's trainer on its standard autoencoder, or on n of them with the same batches."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer
    from sae_lens.training.sae_trainer import SAETrainer

    def train(batches: list[Tensor]) -> float:
        config = StandardTrainingSAEConfig(
            d_in=options.d_in, d_sae=options.d_sae, l1_coefficient=1.0, device=device
        )
        settings = SAETrainerConfig(
            total_training_samples=options.batch * len(batches),
            train_batch_size_samples=options.batch,
            lr=options.rate,
            lr_end=options.rate,
            device=device,
            autocast=autocast,
            logger=LoggingConfig(log_to_wandb=False),
        )
        if n is None:
            trainer = SAETrainer(settings, StandardTrainingSAE(config), iter(batches))
        else:
            saes = {str(i): StandardTrainingSAE(config) for i in range(n)}
            hooks = dict.fromkeys(saes, "hook")
            trainer = MultiSAETrainer(settings, saes, hooks, ({"hook": x} for x in batches))
        start = clock()
        trainer.fit()
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / len(batches) / (n or 1)

    return train


def of_dictionary_learning(options: argparse.Namespace, device: str) -> Contestant:
    """dictionary_learning's ``trainSAE`` with its standard trainer."""
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.training import trainSAE

    def train(batches: list[Tensor]) -> float:
        config = {
            "trainer": StandardTrainer, "steps": 10_000, "activation_dim": options.d_in,
            "dict_size": options.d_sae, "layer": 0, "lm_name": "", "lr": options.rate,
            "l1_penalty": 1.0, "device": device,
        }  # fmt: skip
        start = clock()
        trainSAE(batches, [config], steps=len(batches), device=device)
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / len(batches)

    return train


_CHECKED = (
    ("relu", {}), ("relu", {"gradient": "ste"}), ("prolu", {}), ("prolu", {"gradient": "relu"}),
    ("prolu", {"estimator": "rectangle"}), ("jumprelu", {"bandwidth": 0.5}), ("gated", {}),
    ("topk", {}), ("batchtopk", {}),
)  # fmt: skip
_LAYOUTS: dict[str, tuple[type[Layout], float]] = {
    "whole": (Whole, 1e-4),
    "gathered": (GatheredOnDevice, 1e-4),
    "whole, bfloat16 products": (WholeMixed, 0.1),
    "gathered, bfloat16 products": (GatheredMixed, 0.1),
}


def check() -> None:
    """Compare three steps on a GPU with the CPU's, and print PASS or FAIL for layouts and variants.

    The numbers are the largest relative differences, by norm, of a parameter's gradient and of its
    change after three steps.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(256, 96, generator=generator) for _ in range(3)]
    centre = Statistics(1.0, torch.full((96,), 0.1), torch.full((96,), 0.1))
    on_gpu = Statistics(1.0, centre.mean.cuda(), centre.centre.cuda())
    for variant, given in _CHECKED:
        varying = {"k": [8]} if OBJECTIVES[variant].takes_k else {"coefficients": [0.1, 0.5]}
        sweep = Sweep(variant=variant, options=given, **varying)
        plans = [Plan(sweep, value, 1e-3, seed) for value in sweep.k or sweep.coefficients
                 for seed in (0, 1)]  # fmt: skip
        settings = {"hook": "", "n_tokens": 25_600, "d_sae": 500, "batch_size": 256}
        for name, (layout, most) in _LAYOUTS.items():
            shared = Shared(**settings)
            there = Stack(plans, shared, on_gpu, layout=layout)
            here = Stack(plans, shared, centre, layout=Dense)
            first = {key: p.detach().clone() for key, p in here.parameters.items()}
            with matrix_products(tf32=False):
                gradients = there.gradients(batches[0].cuda())
            largest = max(
                float((gradients[key].cpu() - own).norm() / own.norm().clamp(min=1e-6))
                for key, own in here.gradients(batches[0]).items()
            )
            for x in batches:
                there.step(x.cuda())
                here.step(x)
            moved = max(
                float((there.parameters[key].detach().cpu() - p).norm() / (p - first[key]).norm())
                for key, parameter in here.parameters.items()
                if key in here.trained and (p := parameter.detach()) is not None
            )
            verdict = "PASS" if largest < most and moved < 0.2 else "FAIL"
            print(f"{verdict} {variant} {given} {name}: gradients {largest:.1e}, steps {moved:.1e}")


def profiled(name: str, trained: Stack, x: Tensor) -> None:
    """Print where three steps of a stack spend a GPU's time."""
    from torch.profiler import ProfilerActivity, profile

    tf32 = trained.shared.precision_on(x.device) == "tf32"
    with matrix_products(tf32=tf32), profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(3):
            trained.step(x, sizes=False)
        torch.cuda.synchronize()
    print(name)
    print(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=14,
                                     max_name_column_width=70))  # fmt: skip


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-in", type=int, default=64)
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--saes", type=int, default=32)
    parser.add_argument("--peers-together", type=int, default=4, help="for MultiSAETrainer")
    parser.add_argument("--autocast", action="store_true", help="autocast on a CPU too")
    parser.add_argument("--steps", type=int, default=60, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--coefficients", type=float, nargs=2, default=[1, 6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure CPU time, for a machine that is also used for other work",
    )
    parser.add_argument("--check", action="store_true", help="first check training on a GPU")
    parser.add_argument("--profile", action="store_true", help="profile each stack on a GPU")
    parser.add_argument("--model", help="take activations from this model")
    parser.add_argument("--tokens", default="embedded")
    parser.add_argument("--hook", default="blocks.2.hook_resid_post")
    options = parser.parse_args()

    if options.cpu_time:
        global clock
        clock = time.process_time
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.check:
        check()
    source = (
        model_activations(options)
        if options.model
        else made_activations(options.d_in, options.batch)
    )
    batches = [x.to(device) for x in islice(source, options.steps)]
    options.d_in = batches[0].shape[1]
    sample = torch.cat(batches)[:8192]
    scale = float(options.d_in**0.5 / sample.norm(dim=1).mean())
    batches = [scale * x for x in batches]
    many = stack(options, options.saes, scale * sample)
    stacks = {f"stack of {options.saes}": many}
    if device == "cuda":
        for precision in ("mixed", "float32"):
            other = stack(options, options.saes, scale * sample, precision)
            stacks[f"stack of {options.saes}, {precision}"] = other
    contestants = {name: of_stack(trained) for name, trained in stacks.items()}
    contestants["one after another"] = of_stack(stack(options, 1, scale * sample))
    several = options.peers_together
    peers: dict[str, Callable[[], Contestant]] = {
        "SAELens": lambda: of_sae_lens(options, device),
        f"SAELens, {several} together": lambda: of_sae_lens(options, device, several),
        "dictionary_learning": lambda: of_dictionary_learning(options, device),
    }
    if options.autocast or device == "cuda":
        peers |= {
            "SAELens, autocast": lambda: of_sae_lens(options, device, autocast=True),
            f"SAELens, {several} together, autocast": lambda: of_sae_lens(
                options, device, several, autocast=True
            ),
        }
    for name, make in peers.items():
        try:
            contestants[name] = make()
        except ImportError as error:
            print(f"{name} is not installed ({error})", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, train in contestants.items():
            with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
                times[name].append(train(batches))
    report(options, times, many, batches[0])
    if options.profile and device == "cuda":
        for name, trained in stacks.items():
            print(f"layout: {trained.layout.__name__}")
            profiled(name, trained, batches[0])


def report(
    options: argparse.Namespace, times: dict[str, list[float]], many: Stack, x: Tensor
) -> None:
    """Print the table."""
    where = torch.cuda.get_device_name() if x.is_cuda else f"{options.threads} threads"
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {where}, torch {torch.__version__}")
    print(f"d_in {options.d_in}, d_sae {options.d_sae}, batch {options.batch}, "
          f"{options.rounds} rounds of {options.steps} steps")  # fmt: skip
    l0 = sorted(many.step(x).l0.tolist())
    print(f"L0 of the stack at the end: {l0[0]:.0f} to {l0[-1]:.0f}, median "
          f"{statistics.median(l0):.0f}")  # fmt: skip
    whole = {name: statistics.mean(spent) for name, spent in times.items()}
    later = {name: statistics.median(spent[1:]) for name, spent in times.items()}
    ours = next(iter(times))
    print("| trainer | first round | later rounds, median | whole run | ours is faster, later "
          "| ours is faster, whole |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for name, spent in times.items():
        print(f"| {name} | {1e3 * spent[0]:.2f} ms | {1e3 * later[name]:.2f} ms "
              f"| {1e3 * whole[name]:.2f} ms | {later[name] / later[ours]:.1f} "
              f"| {whole[name] / whole[ours]:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
