"""Estimating the memory, operations and time of a grid before it is trained."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

import psutil
import torch

from prolu_eval.devices import free_memory
from prolu_eval.errors import ConfigError
from prolu_eval.training.config import Plan, Shared
from prolu_eval.training.forward import CODES_AT_ONCE, DENSE_TENSORS
from prolu_eval.training.heap import give_back_freed
from prolu_eval.training.initial import Statistics
from prolu_eval.training.layouts import Layout
from prolu_eval.training.products import Full, Gathered
from prolu_eval.training.stack import Stack

_FLOAT = 4
# Parameters, their gradients and Adam's two moments.
_TENSORS_PER_PARAMETER = 4
# Memory at the peak of refilling the buffer of activations, in multiples of its size: the old
# buffer, the new activations, and the two concatenated.
_BUFFERS = 2.5
# Memory of one pass on a CPU over gathered entries, in multiples of the size of its codes, as
# measured: pre-activations, the mask, the indices of active entries and the memory of the products
# over them.
_GATHERED = 5.5
# Tensors of the codes' size that a whole pass on a CPU holds at its peak, as measured.
_WHOLE: dict[str, int] = {"relu": 7, "batchtopk": 12, "gated": 16, "jumprelu": 20}
_WHOLE_OF_OTHERS = 11
# The C library keeps smaller tensors in its heap (GNU's has this limit), where the fragments that
# passes of several autoencoders leave take about as much again.
_IN_HEAP_BELOW, _FRAGMENTED = 32 << 20, 2
# The share of free memory that stacks may take.
_MEMORY_SHARE = 0.6
_CALIBRATION_RUNS, _CALIBRATION_STEPS = 16, 7
# The pre-activations of Gaussian activations under unit rows exceed 1.28 in a tenth of cases.
_TENTH_BELOW = -1.28


@dataclass(frozen=True)
class Memory:
    """The memory that training uses at its peak, in bytes.

    Attributes:
        process: memory in use before training: the language model and, on a CPU, torch.
        stacks: parameters, gradients, Adam's moments, and when each feature last fired.
        activations: the shuffled buffer while it is refilled.
        passes: codes and gradients of the autoencoders that are computed at one time.
        total: the peak of all of these together.
    """

    process: int
    stacks: int
    activations: int
    passes: int
    total: int


@dataclass(frozen=True)
class Cost:
    """An estimate for a whole grid.

    Attributes:
        runs: the number of autoencoders.
        steps: the number of optimiser steps of each.
        parameters: the number of parameters of one autoencoder.
        memory: the peak of the largest round, in bytes.
        rounds: in how many rounds, each with a pass through the text, the grid fits in memory.
        flops: operations of the matrix products if every code were active: in each step six
            products of 2 batch d_in d_sae operations.
        seconds: the time of training without the language model, from a short calibration.
    """

    runs: int
    steps: int
    parameters: int
    memory: "Memory"
    rounds: int
    flops: float
    seconds: float


def rounds(
    plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device
) -> list[list[Plan]]:
    """The plans that are trained, divided into rounds that each fit in memory.

    Raises:
        ConfigError: if a single plan does not fit.
    """
    plans = [plan for plan in plans if not plan.is_fitted]
    if not plans:
        return []
    fixed = _buffers(shared, d_in) + max(_passes([p], shared, d_in, device) for p in plans)
    free = free_memory(device)
    if (needed := fixed + _run_memory(shared, d_in)) > free:
        raise ConfigError(
            "a run",
            f"needs {needed / 2**30:,.1f} GiB of memory, but {free / 2**30:,.1f} are free",
            "choose a smaller d_sae, batch_size or buffer_size",
        )
    room = int(_MEMORY_SHARE * free) - fixed
    at_once = max(1, room // _run_memory(shared, d_in))
    return [list(plans[i : i + at_once]) for i in range(0, len(plans), at_once)]


def memory(plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device) -> Memory:
    """The peak memory of training plans together. The language model must be loaded already."""
    process = held(device)
    stacks = len(plans) * _run_memory(shared, d_in)
    together: dict[tuple[str, float], list[Plan]] = {}
    for plan in plans:
        together.setdefault((plan.label, plan.learning_rate), []).append(plan)
    activations = _buffers(shared, d_in)
    passes = max((_passes(own, shared, d_in, device) for own in together.values()), default=0)
    # Refilling the buffer and computing a pass never happen together, so only the larger of their
    # two temporary needs is added.
    extra = max(activations, activations / _BUFFERS + passes)
    return Memory(process, stacks, activations, passes, int(process + stacks + extra))


def held(device: torch.device) -> int:
    """Bytes that this process uses now on a device; on a GPU, those of its tensors."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    give_back_freed()
    return int(psutil.Process().memory_info().rss)


def estimate_cost(plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device) -> Cost:
    """Estimate the cost of training plans, by taking a few steps of each sweep.

    Baselines that are computed cost next to nothing; they are counted in ``runs`` only.
    """
    d_sae, steps = shared.dictionary_size(d_in), shared.n_steps
    parts = rounds(plans, shared, d_in, device)
    needed = memory(max(parts, key=len, default=[]), shared, d_in, device)
    trained = [plan for part in parts for plan in part]
    groups = [list(group) for _, group in groupby(trained, key=lambda plan: plan.label)]
    seconds = sum(_seconds_per_step(group, shared, d_in, device) for group in groups)
    return Cost(
        runs=len(plans),
        steps=steps,
        parameters=2 * d_in * d_sae,
        memory=needed,
        rounds=len(parts),
        flops=6 * 2.0 * shared.batch_size * d_in * d_sae * steps * len(trained),
        seconds=seconds * steps,
    )


def _run_memory(shared: Shared, d_in: int) -> int:
    d_sae = shared.dictionary_size(d_in)
    return _TENSORS_PER_PARAMETER * _FLOAT * 2 * d_in * d_sae + 8 * d_sae


def _buffers(shared: Shared, d_in: int) -> int:
    return int(_BUFFERS * _FLOAT * max(shared.buffer_size, 2 * shared.batch_size) * d_in)


def _passes(plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device) -> int:
    """Memory of a pass of a stack besides parameters: codes, and gradients not yet stored.

    On a CPU this is the larger of a whole pass's need, early in training, and a gathered one's.
    """
    d_sae = shared.dictionary_size(d_in)
    own = shared.batch_size * d_sae
    if device.type == "cuda":
        at_once = len(plans) * own
        return _FLOAT * (DENSE_TENSORS * at_once + 2 * 2 * len(plans) * d_in * d_sae)

    def fitting(layout: type[Layout]) -> int:
        return min(len(plans), max(1, CODES_AT_ONCE[layout] // own))

    tensors = max(_WHOLE.get(plan.sweep.variant, _WHOLE_OF_OTHERS) for plan in plans)
    if len(plans) > 1 and _FLOAT * fitting(Full) * own < _IN_HEAP_BELOW:
        tensors *= _FRAGMENTED
    codes = max(tensors * fitting(Full), _GATHERED * fitting(Gathered)) * own
    return int(_FLOAT * (codes + 2 * 2 * fitting(Gathered) * d_in * d_sae))


def _seconds_per_step(
    plans: Sequence[Plan], shared: Shared, d_in: int, device: torch.device
) -> float:
    """Seconds per step of all plans, measured over a few steps of some on Gaussian activations.

    If a variant has an encoder bias, the bias is set so that a tenth of the features are active.
    That is more than in most autoencoders after their first few hundred steps.
    """
    statistics = Statistics(1.0, torch.zeros(d_in, device=device), torch.zeros(d_in, device=device))
    stack = Stack(plans[:_CALIBRATION_RUNS], shared, statistics)
    for name in {"b_enc", "b_gate"} & stack.parameters.keys():
        stack.parameters[name].detach().fill_(_TENTH_BELOW)
    x = torch.randn(shared.batch_size, d_in, device=device)
    times = []
    for _ in range(_CALIBRATION_STEPS):
        start = time.perf_counter()
        float(stack.step(x, sizes=False).loss.sum())  # waits until the GPU is done
        times.append(time.perf_counter() - start)
    return median(times) * len(plans) / len(stack.plans)
