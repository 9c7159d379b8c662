"""The devices to work on, checked before anything is loaded onto one of them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prolu_eval.errors import UsageError

if TYPE_CHECKING:
    import torch

ALL = "all"


def default_device() -> str:
    """CUDA if it is available, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def devices_of(named: str | None) -> list[str | None]:
    """The devices that ``--device`` names, at least one, all of which can be used.

    Args:
        named: one device, several with commas between them, ``all`` for every GPU, or None for the
            default device, which can always be used.

    Raises:
        UsageError: if torch does not know a device, or if it is not available.
    """
    import torch

    if named == ALL:
        if not torch.cuda.is_available():
            raise UsageError("--device", f"{ALL!r} means every GPU, but there is none", "try cpu")
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
    """How many threads each process may use if several share the CPU; None for no limit."""
    import torch

    n = sum(device == "cpu" for device in devices)
    return max(1, torch.get_num_threads() // n) if n > 1 else None


@contextlib.contextmanager
def working_on(device: str | None, threads: int | None = None) -> Iterator[None]:
    """Make a GPU the current one, and limit the number of threads, until the block ends.

    Kernels are launched on the current GPU, whichever GPU their tensors are on.
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
    """The bytes that can be allocated on a device, including memory that only caches files."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
