"""Which devices there are, found out before anything is loaded onto one."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prolu_eval.errors import UsageError

if TYPE_CHECKING:
    import torch

ALL = "all"


def default_device() -> str:
    """CUDA where there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def devices_of(named: str | None) -> list[str | None]:
    """The devices that ``--device`` names, each of which can be used; at least one.

    Args:
        named: one device, several with commas between them, ``all`` for every GPU, or None for the
            default device, which can always be used.

    Raises:
        UsageError: if torch does not know one, or it is not there.
    """
    import torch

    if named == ALL:
        if not torch.cuda.is_available():
            raise UsageError("--device", f"{ALL!r} are no GPUs, since none is here", "try cpu")
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if named is None:
        return [None]
    devices = [part.strip() for part in named.split(",")]
    for device in devices:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            told = f"{device!r} cannot be used ({reason})"
            raise UsageError("--device", told, "try cpu") from None
    return list(devices)


def threads_each(devices: Sequence[str | None]) -> int | None:
    """How many threads each of several processes may use where they share a CPU; None for any."""
    import torch

    n = sum(device == "cpu" for device in devices)
    return max(1, torch.get_num_threads() // n) if n > 1 else None


@contextlib.contextmanager
def working_on(device: str | None, threads: int | None = None) -> Iterator[None]:
    """Let work that names no device be a GPU's own, and use so many threads, until the block ends.

    Kernels are launched on the current GPU, whatever the tensors that they are given lie on.
    """
    import torch

    before = torch.get_num_threads()
    with contextlib.ExitStack() as around:
        if device is not None and torch.device(device).type == "cuda":
            around.enter_context(torch.cuda.device(torch.device(device)))
        if threads is not None:
            torch.set_num_threads(threads)
            around.callback(torch.set_num_threads, before)
        yield


def free_memory(device: "torch.device") -> int:
    """Bytes that can be had on a device; files that are cached in memory make way."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
