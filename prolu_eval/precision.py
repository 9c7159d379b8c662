"""The precision of matrix products on CUDA."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def matrix_products(*, tf32: bool) -> Iterator[None]:
    """Whether float32 matrix products on CUDA may round to TF32, until the block ends."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
