"""Finding the devices that can be used, before anything is loaded onto one."""

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
    """The devices that ``--device`` names; there is at least one, and all of them can be used.

    Args:
        named: one device, several separated by commas, ``all`` for every GPU, or None for the
            default device, which can always be used.

    Raises:
        UsageError: if torch does not know a device, or it does not exist on this machine.
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
            if reason.startswith("Expected one of"):  # a list of all that torch was ever built for
                remedy = "write cpu, cuda, cuda:0 or mps"
                raise UsageError("--device", f"{device!r} is no device", remedy) from None
            told = f"{device!r} cannot be used ({reason})"
            raise UsageError("--device", told, "try cpu") from None
    return list(devices)


def threads_each(devices: Sequence[str | None]) -> int | None:
    """How many threads each of several processes may use on a shared CPU; None for no limit."""
    import torch

    n = sum(device == "cpu" for device in devices)
    return max(1, torch.get_num_threads() // n) if n > 1 else None


@contextlib.contextmanager
def working_on(device: str | None, threads: int | None = None) -> Iterator[None]:
    """Until the block ends, make a device current if it is a GPU, and let torch use n threads.

    Kernels are launched on the current GPU, even if their tensors are on another one.
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
    """Bytes that can be allocated on a device, including memory that only caches files."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
