"""Fused kernels in Triton; each computes the same as the eager code next to its caller.

Modules here import Triton, so callers import them only if :func:`suit` says that they can be used.
Kernels run on CUDA, and on any device if Triton's interpreter is on (``TRITON_INTERPRET=1``), as in
the tests.
"""

import importlib.util
import os
from functools import lru_cache

import torch

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


def suit(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device in a precision; eager code runs everywhere."""
    return dtype in _DTYPES and (device.type == "cuda" or _interpreted()) and _installed()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=1)
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
