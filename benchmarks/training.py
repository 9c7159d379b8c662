"""What a training step costs per autoencoder: ``python benchmarks/training.py``.

Standard autoencoders (ReLU, L1, unit decoder rows, Adam) are trained on the same activations, with
the same batch and sizes, in one process: a stack of 32, one alone (a sweep trained one after
another), and, where they are installed, SAELens's ``SAETrainer`` and dictionary_learning's
``trainSAE``. Rounds of steps alternate between them. The first round starts from the first weights,
when half of all features are active; the later ones go on from where the last ended. What the peers
spend does not depend on that, so they start afresh in each round.

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

import torch
from torch import Tensor

from prolu_eval.lm import LanguageModel
from prolu_eval.tokens import load_tokens
from prolu_eval.training.config import Plan, Shared, Sweep
from prolu_eval.training.initial import measure
from prolu_eval.training.stack import Stack
from prolu_eval.training.stream import Stream, from_model

clock = time.perf_counter
Contestant = Callable[[list[Tensor]], float]
"""Trains on batches; seconds per step and autoencoder."""


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


def stack(options: argparse.Namespace, n: int, sample: Tensor) -> Stack:
    """Autoencoders of one shape, over a range of coefficients."""
    shared = Shared(
        hook="",
        n_tokens=options.batch * options.steps * options.rounds,
        d_sae=options.d_sae,
        batch_size=options.batch,
    )
    low, high = options.coefficients
    steps = [i / max(1, n - 1) if n > 1 else 0.5 for i in range(n)]
    values = [low * (high / low) ** step for step in steps]
    sweep = Sweep(variant="relu", coefficients=values)
    statistics_ = measure(sample, shared)
    return Stack([Plan(sweep, value, options.rate, 0) for value in values], shared, statistics_)


def of_stack(trained: Stack) -> Contestant:
    """A contestant that goes on with a stack."""

    def train(batches: list[Tensor]) -> float:
        start = clock()
        for x in batches:
            losses = trained.step(x, sizes=False)  # as between two logged steps
        float(losses.loss.sum())  # waits for a GPU
        return (clock() - start) / len(batches) / len(trained.plans)

    return train


def of_sae_lens(options: argparse.Namespace, device: str) -> Contestant:
    """SAELens's trainer on its standard autoencoder."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
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
            logger=LoggingConfig(log_to_wandb=False),
        )
        trainer = SAETrainer(settings, StandardTrainingSAE(config), iter(batches))
        start = clock()
        trainer.fit()
        return (clock() - start) / len(batches)

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
        return (clock() - start) / len(batches)

    return train


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-in", type=int, default=64)
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--saes", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--coefficients", type=float, nargs=2, default=[1, 6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the process's seconds, on a machine that others use too",
    )
    parser.add_argument("--model", help="take activations from this model")
    parser.add_argument("--tokens", default="embedded")
    parser.add_argument("--hook", default="blocks.2.hook_resid_post")
    options = parser.parse_args()

    if options.cpu_time:
        global clock
        clock = time.process_time
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
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
    many, one = (stack(options, n, scale * sample) for n in (options.saes, 1))
    contestants = {f"stack of {options.saes}": of_stack(many),
                   "one after another": of_stack(one)}  # fmt: skip
    for name, make in (("SAELens", of_sae_lens), ("dictionary_learning", of_dictionary_learning)):
        try:
            contestants[name] = make(options, device)
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, train in contestants.items():
            with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
                times[name].append(train(batches))
    report(options, times, many, batches[0])


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
