"""Which devices there are, found out before anything is loaded onto one."""

from prolu_eval.errors import UsageError

ALL = "all"


def default_device() -> str:
    """CUDA where there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str | None) -> None:
    """See that a device can be used; None, the default device, always can.

    Raises:
        UsageError: if torch does not know it, or it is not there.
    """
    if device is None:
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError("--device", f"{device!r} cannot be used ({reason})", "try cpu") from None
