"""The precision of matrix products: which ones a device has, and which one torch uses."""

import contextlib
from collections.abc import Iterator

import torch

from prolu_eval.choices import Dtype


def faster_than_float32(device: torch.device) -> tuple[Dtype, ...]:
    """Precisions in which a device computes products faster than in float32, fastest first."""
    if device.type != "cuda" or torch.version.hip is not None:
        return ()
    with torch.cuda.device(device):
        # The same generation of GPUs introduced tensor cores for both; on earlier ones torch
        # emulates bfloat16.
        return ("bfloat16", "tf32") if torch.cuda.is_bf16_supported(False) else ()


@contextlib.contextmanager
def matrix_products(*, tf32: bool) -> Iterator[None]:
    """Until the block ends, allow or forbid float32 matrix products on CUDA to round to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
