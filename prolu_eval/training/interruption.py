"""Handling Ctrl-C and SIGTERM during training, so that it stops where no work is lost."""

import signal
import threading
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within its block, a first signal is only noted for :meth:`check`; a second one stops at once.

    Batch systems such as Slurm send SIGTERM before they kill a job. Outside the main thread, where
    Python allows no signal handlers, signals keep their usual effect.
    """

    def __init__(self) -> None:
        self._signals = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def check(self) -> None:
        """Raise :class:`KeyboardInterrupt` after a signal. It is called where no work is lost."""
        if self._signals:
            raise KeyboardInterrupt

    @property
    def orderly(self) -> bool:
        """Whether a :class:`KeyboardInterrupt` came from :meth:`check` and not from elsewhere."""
        return self._signals == 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt
