"""The precision of matrix products: what a device offers, and what torch is told to use."""

import contextlib
from collections.abc import Iterator

import torch

from prolu_eval.choices import Dtype


def faster_than_float32(device: torch.device) -> tuple[Dtype, ...]:
    """Precisions that a device computes products in faster than in float32, the fastest first."""
    if device.type != "cuda" or torch.version.hip is not None:
        return ()
    with torch.cuda.device(device):
        # One generation of cards brought both kinds of tensor cores; before, torch emulates them.
        return ("bfloat16", "tf32") if torch.cuda.is_bf16_supported(False) else ()


@contextlib.contextmanager
def matrix_products(*, tf32: bool) -> Iterator[None]:
    """Whether float32 matrix products on CUDA may round to TF32, until the block ends."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
