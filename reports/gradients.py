"""Do ProLU's synthetic gradients point more in the direction of less L0 than the exact ones do?

    python reports/gradients.py SWEEP_FILE --out reports/results/gradients-NAME.csv

Along training runs of ProLU_STE, at a dozen steps from the first to the last, the encoder's
parameters (``W_enc``, ``b_enc``) are frozen. Three steps that training could take from there are
compared on one large batch of activations. Each goes against a gradient of the training loss
(squared error plus coefficient times L1): that of ProLU_STE, that of ProLU_ReLU, and the exact one
(which is zero for the bias, and so only moves ``W_enc``).

The question is about L0 at equal error, so only the part of each step that leaves the error
unchanged to first order counts. Error and L0 are made differentiable by a smooth gate,
``a = ReLU(m) sigmoid((m + b) / tau)`` and ``L0 = sum_i [m_i > 0] sigmoid((m_i + b_i) / tau)``, with
tau = 0.1 in training units; their gradients over ``W_enc`` and ``b_enc`` are exact. Where P is the
projection orthogonal to the error's gradient, the script reports

    cosine(P step, P (-gradient of L0)):

which is 1 for the step that most reduces L0 at equal error, and -1 for the one that most increases
it.

As a check without smoothing, a step of 0.01 times the parameters' norm is taken along ``P step``,
and the changes of the real L0 and of the real squared error are measured on a second batch.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from prolu_eval.lm import LanguageModel
from prolu_eval.saes.prolu import ProluOptions
from prolu_eval.tokens import load_tokens
from prolu_eval.training import read_sweep_file
from prolu_eval.training.config import Plan, Shared, Sweep
from prolu_eval.training.initial import measure_statistics
from prolu_eval.training.stack import Stack
from prolu_eval.training.stream import Stream, from_model

TAU = 0.1
STEP = 0.01
BATCH = 4096
CANDIDATES = {"ste": "ste", "relu": "relu", "exact": "relu"}

Encoder = dict[str, Tensor]


def inner(one: Encoder, other: Encoder) -> Tensor:
    """The inner product over W_enc and b_enc for each autoencoder. [n]"""
    return sum((one[name] * other[name]).flatten(1).sum(1) for name in one)  # type: ignore[return-value]


def plus(one: Encoder, other: Encoder, factor: Tensor) -> Encoder:
    """The sum ``one + factor * other``, where factor [n] has a number for each autoencoder."""
    return {
        name: one[name] + factor.view(-1, *[1] * (one[name].dim() - 1)) * other[name]
        for name in one
    }


def cosine(one: Encoder, other: Encoder) -> Tensor:
    """The cosine of two directions for each autoencoder. [n]"""
    return inner(one, other) / (inner(one, one) * inner(other, other)).sqrt()


def smooth_gradients(stack: Stack, x: Tensor) -> tuple[Encoder, Encoder]:
    """The gradients of the smooth squared error and of the smooth L0, as means over a batch."""
    p = {name: t.detach() for name, t in stack.parameters.items()}
    encoder = {name: p[name].clone().requires_grad_() for name in ("W_enc", "b_enc")}
    m = (x - p["b_dec"][:, None]) @ encoder["W_enc"].transpose(1, 2)
    gate = (m > 0) * torch.sigmoid((m + encoder["b_enc"][:, None]) / TAU)
    x_hat = (m * gate) @ p["W_dec"] + p["b_dec"][:, None]
    found = []
    for value in ((x - x_hat).square().sum(), gate.sum()):
        gradients = torch.autograd.grad(value / len(x), list(encoder.values()), retain_graph=True)
        found.append(dict(zip(encoder, gradients, strict=True)))
    return found[0], found[1]


@torch.no_grad()
def real(stack: Stack, encoder: Encoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """The real L0 and squared error with the given encoder parameters. [n] each"""
    p = stack.parameters
    m = (x - p["b_dec"][:, None]) @ encoder["W_enc"].transpose(1, 2)
    codes = torch.where(m > (-encoder["b_enc"]).clamp(min=0)[:, None], m, 0)
    x_hat = codes @ p["W_dec"] + p["b_dec"][:, None]
    return (codes != 0).sum((1, 2)) / len(x), (x - x_hat).square().sum((1, 2)) / len(x)


def compare(stack: Stack, x: Tensor, other: Tensor) -> Iterator[dict[str, object]]:
    """A row for each autoencoder and candidate, from two batches of activations."""
    error, l0 = smooth_gradients(stack, x)

    def projected(direction: Encoder) -> Encoder:
        return plus(direction, error, -inner(direction, error) / inner(error, error))

    best = projected({name: -gradient for name, gradient in l0.items()})
    now = {name: stack.parameters[name].detach() for name in ("W_enc", "b_enc")}
    l0_now, error_now = real(stack, now, other)
    for candidate, gradient in CANDIDATES.items():
        options = stack.options.model_copy(update={"gradient": gradient})
        assert isinstance(options, ProluOptions)  # noqa: S101
        found = stack.gradients(x, options)
        step = {name: -found[name] for name in ("W_enc", "b_enc")}
        if candidate == "exact":
            step["b_enc"] = torch.zeros_like(step["b_enc"])
        free = projected(step)
        length = STEP * (inner(now, now) / inner(free, free)).sqrt()
        l0_then, error_then = real(stack, plus(now, free, length), other)
        for i, plan in enumerate(stack.plans):
            yield {
                "step": stack.n_done,
                "coefficient": plan.value,
                "seed": plan.seed,
                "gradient": candidate,
                "cosine": cosine(free, best)[i].item(),
                "cosine_unprojected": cosine(step, best)[i].item(),
                "l0": l0_now[i].item(),
                "l0_change": (l0_then - l0_now)[i].item() / l0_now[i].item(),
                "mse_change": (error_then - error_now)[i].item() / error_now[i].item(),
            }


def main() -> None:
    """Parse the options, train, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--coefficients", type=float, nargs="+", default=[0.2, 0.8, 3.2])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--n-tokens", type=int, default=122_880)
    options = parser.parse_args()

    shared = read_sweep_file(options.file, n_tokens=options.n_tokens).shared
    sweep = Sweep(variant="prolu", coefficients=options.coefficients)
    plans = [Plan(sweep, c, 8e-3, s) for c in options.coefficients for s in range(options.seeds)]
    x, other, batches, stack = prepare(shared, plans)
    rows: list[dict[str, object]] = []
    n_steps = shared.n_steps
    looked_at = {round(n_steps * i / 11) for i in range(12)} | {n_steps // 50, n_steps // 25}
    for done in range(n_steps + 1):
        if done in looked_at:
            rows += compare(stack, x, other)
        if done < n_steps:
            stack.step(next(batches))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def prepare(shared: Shared, plans: list[Plan]) -> tuple[Tensor, Tensor, Iterator[Tensor], Stack]:
    """Two batches to measure on, batches to train on, and the autoencoders; in training units."""
    model = LanguageModel.load(shared.model)
    tokens = load_tokens(
        shared.dataset, model, split="train", n_tokens=shared.n_tokens,
        context_length=shared.context_length,
    )  # fmt: skip
    source = from_model(model, shared.hook, tokens)
    stream = Stream(source, len(tokens), shared.batch_size, shared.buffer_size, shared.data_seed)
    sample = stream.peek(8192)
    statistics = measure_statistics(sample, shared)
    x, other = (statistics.scale * sample[: 2 * BATCH]).clone().split(BATCH)

    def batches() -> Iterator[Tensor]:
        while True:
            yield statistics.scale * next(stream)

    return x, other, batches(), Stack(plans, shared, statistics)


if __name__ == "__main__":
    main()
