"""Showing the progress of long work: a bar on a terminal, and one line a minute in a log."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

# Seconds between two lines of a log.
_INTERVAL = 60.0


class Progress:
    """Shows on stderr how far some work has come, until its block ends.

    Args:
        what: a word for the work.
        unit: the unit that is counted, in the singular.
        total: the number of units; it may be set later.
        shown: whether anything is shown.
    """

    def __init__(self, what: str, unit: str, total: int = 0, *, shown: bool = True) -> None:
        self.total, self._what, self._unit = total, what, unit
        self._done = self._before = 0
        on_terminal = shown and sys.stderr.isatty()
        self._in_log = shown and not on_terminal
        self._bar: tqdm[Any] = tqdm(
            desc=what, unit=unit, total=total, disable=not on_terminal, leave=False
        )
        self._began = self._told = time.monotonic()

    def found(self, n: int) -> None:
        """Count units that were done before this call."""
        self._done += n
        self._before += n
        if not self._bar.disable:
            self._bar.initial += n
            self._bar.n += n

    def update(self, n: int = 1, note: str = "") -> None:
        """Count units that are done now; the note is shown beside the progress."""
        self._done += n
        self._bar.total = self.total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(n)
        self._log(note)

    def tell(self, note: str) -> None:
        """Show a note beside the progress while no unit is done."""
        self._bar.total = self.total
        self._bar.set_postfix_str(note)
        self._log(note)

    def _log(self, note: str) -> None:
        now = time.monotonic()
        if self._in_log and now - self._told >= _INTERVAL:
            self._told = now
            print(self._line(now - self._began, note), file=sys.stderr, flush=True)  # noqa: T201

    def _line(self, seconds: float, note: str) -> str:
        share = self._done / max(self.total, 1)
        new = self._done - self._before
        left = seconds * max(self.total - self._done, 0) / new if new else float("inf")
        ahead = f", about {_duration(left)} left" if left < float("inf") else ""
        return (
            f"prolu-eval: {self._what}: {min(share, 1):.0%} of {self.total:,} {self._unit}s after "
            f"{_duration(seconds)}{ahead}{f' ({note})' if note else ''}"
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    """A duration in whole minutes, or in seconds if it is below one minute."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
