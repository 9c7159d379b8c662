"""Returning memory to the system that the C library's heap keeps after it was freed."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back_freed() -> None:
    """Return freed memory to the system, if the C library can do so (GNU's can).

    Logged values stay in memory, in small pieces between the large tensors of a step. The heap
    cannot return freed memory below such a piece, and without this call the process grew with
    every log.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
