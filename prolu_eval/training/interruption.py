"""Ctrl-C and SIGTERM while something trains: stop where nothing is lost."""

import signal
import threading
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within its block a first signal is only noted, for :meth:`check`; a second one ends at once.

    SIGTERM is what batch systems such as Slurm send before they kill. Outside the main thread,
    where Python allows no handlers, signals do what they did before.
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
        """Raise :class:`KeyboardInterrupt` if there was a signal. Called where nothing is lost."""
        if self._signals:
            raise KeyboardInterrupt

    @property
    def orderly(self) -> bool:
        """Whether a :class:`KeyboardInterrupt` came from :meth:`check`, not from anywhere."""
        return self._signals == 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt
