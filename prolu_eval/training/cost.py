"""What a grid costs, before it is trained: memory, operations, time."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

import torch

from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.initial import Statistics
from prolu_eval.training.stack import Stack

# Parameters, their gradients and Adam's two moments, in float32.
_BYTES_PER_PARAMETER = 16
# The share of free memory that stacks may take.
_MEMORY_SHARE = 0.6
_CALIBRATION_RUNS, _CALIBRATION_STEPS = 16, 7
# The pre-activations of Gaussian activations under unit rows exceed 1.28 in a tenth of cases.
_TENTH_BELOW = -1.28


@dataclass(frozen=True)
class Cost:
    """An estimate for a whole grid.

    Attributes:
        runs: autoencoders.
        steps: optimiser steps of each.
        parameters: of one autoencoder.
        memory: bytes of all parameters, gradients and moments.
        rounds: how often the text is gone through, because of memory.
        flops: operations of the products, were every code active: six of 2 batch d_in d_sae a step.
        seconds: of training, without the language model, by a short measured calibration.
    """

    runs: int
    steps: int
    parameters: int
    memory: int
    rounds: int
    flops: float
    seconds: float


def rounds(
    plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device
) -> list[list[Plan]]:
    """Plans in parts, each of which fits in memory."""
    at_once = max(1, int(_MEMORY_SHARE * free_memory(device)) // _run_memory(shared, d_in))
    return [list(plans[i : i + at_once]) for i in range(0, len(plans), at_once)]


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def estimate(plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device) -> Cost:
    """What training plans costs; takes a few steps of each sweep to find out."""
    d_sae, steps = shared.dictionary_size(d_in), shared.n_steps
    groups = [list(group) for _, group in groupby(plans, key=lambda plan: plan.label)]
    seconds = sum(_seconds_per_step(group, shared, d_in, device) for group in groups)
    return Cost(
        runs=len(plans),
        steps=steps,
        parameters=2 * d_in * d_sae,
        memory=_run_memory(shared, d_in) * len(plans),
        rounds=len(rounds(plans, shared, d_in, device)),
        flops=6 * 2.0 * shared.batch_size * d_in * d_sae * steps * len(plans),
        seconds=seconds * steps,
    )


def _run_memory(shared: Shared, d_in: int) -> int:
    return _BYTES_PER_PARAMETER * 2 * d_in * shared.dictionary_size(d_in)


def _seconds_per_step(
    plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device
) -> float:
    """Seconds that a step of a sweep takes, from a few steps of some of it on Gaussian activations.

    Where there is an encoder bias it lets a tenth of the features be active, more than most
    autoencoders have after their first few hundred steps.
    """
    statistics = Statistics(1.0, torch.zeros(d_in, device=device), torch.zeros(d_in, device=device))
    stack = Stack(plans[:_CALIBRATION_RUNS], shared, statistics)
    for name in {"b_enc", "b_gate"} & stack.parameters.keys():
        stack.parameters[name].detach().fill_(_TENTH_BELOW)
    x = torch.randn(shared.batch_size, d_in, device=device)
    times = []
    for _ in range(_CALIBRATION_STEPS):
        start = time.perf_counter()
        float(stack.step(x, sizes=False).loss.sum())  # waits for a GPU
        times.append(time.perf_counter() - start)
    return median(times) * len(plans) / len(stack.plans)
