"""Choosing the number of threads for training on a CPU.

The number is measured, because no rule can know what else the CPU is doing. If there are more
threads than idle cores, training can be many times slower than with one thread, since threads wait
for one another in every operation.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_ROUNDS = 3


def quickest(work: Callable[[], Any]) -> int:
    """The number of threads with which ``work`` takes the least time.

    The numbers tried are one, the number that torch is set to use, and the powers of two between
    them. Each is tried once per round, and the median over rounds decides. A larger number of
    threads is chosen only if it is faster by a tenth.
    """
    most = torch.get_num_threads()
    tried = sorted({most, *(2**i for i in range(most.bit_length()))})
    if tried == [1]:
        return 1
    with using_threads(1):
        work()  # the first call takes longer
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
    """Let torch use n threads until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
