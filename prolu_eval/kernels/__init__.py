"""Fused kernels in Triton. Each computes the same as the eager code in the function that calls it.

The modules of this package import Triton, so callers import them only if :func:`suit` says that the
kernels can run. They run on CUDA, and anywhere with Triton's interpreter (``TRITON_INTERPRET=1``),
which the tests use.
"""

import importlib.util
import os
from functools import lru_cache

import torch

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})


def suit(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and in a precision; eager code runs everywhere."""
    return dtype in _DTYPES and (device.type == "cuda" or _interpreted()) and _installed()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=1)
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
