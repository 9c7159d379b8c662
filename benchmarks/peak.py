"""The peak of this process's own resident memory.

``ru_maxrss`` cannot be used, because a child process inherits the peak of the process that started
it.
"""

from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib() -> int:
    """Peak resident memory since the start, or since :func:`reset`. Linux only."""
    (line,) = (text for text in _STATUS.read_text().splitlines() if text.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def reset() -> None:
    """Reset the peak to the memory that is resident now."""
    _CLEAR.write_text("5")
