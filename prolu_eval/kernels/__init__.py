"""Fused kernels. Each computes the same as the eager code in the function that calls it.

There are kernels in Triton for GPUs, and one module for CPUs, :mod:`prolu_eval.kernels.on_cpu`,
which Numba compiles. The modules import these compilers, so callers import them only if
:func:`suit` or :func:`suit_cpu` says that the kernels can run. Triton's run on CUDA, and anywhere
with Triton's interpreter (``TRITON_INTERPRET=1``), which the tests use.
"""

import importlib.util
import os
from functools import lru_cache

import torch

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
_CPU_DTYPES = frozenset({torch.float32, torch.float64})


def suit(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton's kernels run on a device and in a precision; eager code runs everywhere."""
    on_device = device.type == "cuda" or _interpreted()
    return dtype in _DTYPES and on_device and _installed("triton")


def suit_cpu(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the CPU's kernels run on a device and in a precision; eager code runs everywhere."""
    return device.type == "cpu" and dtype in _CPU_DTYPES and _installed("numba")


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
