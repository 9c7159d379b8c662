"""How many threads a CPU should train with: measured, as no rule knows what else it is doing.

More threads than there are idle cores can be many times slower than one, since they wait for one
another in every operation.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_ROUNDS = 3


def quickest(work: Callable[[], Any]) -> int:
    """The number of threads with which a piece of work took least time.

    Tried are one, the number that torch is set to use, and the powers of two between them, each
    once per round; the median of the rounds decides. A larger number has to be a tenth faster.
    """
    most = torch.get_num_threads()
    tried = sorted({most, *(2**i for i in range(most.bit_length()))})
    if tried == [1]:
        return 1
    with using_threads(1):
        work()  # what is done for the first time takes longer
    times: dict[int, list[float]] = {n: [] for n in tried}
    for _ in range(_ROUNDS):
        for n in tried:
            with using_threads(n):
                start = time.perf_counter()
                work()
                times[n].append(time.perf_counter() - start)
    best = 1
    for n in tried[1:]:
        if sorted(times[n])[_ROUNDS // 2] < 0.9 * sorted(times[best])[_ROUNDS // 2]:
            best = n
    return best


@contextmanager
def using_threads(n: int) -> Iterator[None]:
    """Let torch use so many threads until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
