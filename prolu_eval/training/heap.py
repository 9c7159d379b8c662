"""The C library's heap, which holds on to memory that was freed."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back_freed() -> None:
    """Give freed memory back to the system, where the C library can (GNU's).

    What is logged stays, in small pieces between the large tensors of a step. Each such piece keeps
    the freed memory below it, so that the process grew with every log.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
