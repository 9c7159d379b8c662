"""How far a sweep is, and what its helpers on further devices have told."""

from collections.abc import Callable
from typing import Any

from prolu_eval.processes import Helpers, Message, Tell
from prolu_eval.progress import Progress


class Steps:
    """Counts the steps that are taken, in this process and in its helpers.

    Args:
        shown: where they are shown.
        tell: where a helper says what it did.
        helpers: of the process that was called.
        on_message: takes what else the helpers tell.
    """

    def __init__(
        self,
        shown: Progress,
        *,
        tell: Tell | None = None,
        helpers: Helpers | None = None,
        on_message: Callable[[Message], Any] = lambda _: None,
    ) -> None:
        self._shown, self._tell = shown, tell
        self._helpers, self._on_message = helpers, on_message

    def expect(self, n: int) -> None:
        """Count steps that are to be taken."""
        self._do({"expected": n})

    def found(self, n: int) -> None:
        """Count steps that were taken before."""
        self._do({"found": n})

    def taken(self, note: str) -> None:
        """Count a step; the note says what is worth knowing of it."""
        self._do({"taken": 1}, note)
        self.listen()

    def listen(self) -> None:
        """Take what the helpers have told meanwhile."""
        for message in self._helpers.messages() if self._helpers is not None else ():
            if message.keys() & {"expected", "found", "taken"}:
                self.take(message)
            else:
                self._on_message(message)

    def take(self, message: Message) -> None:
        """Count what another process has told of its steps."""
        self._do(message)

    def _do(self, message: Message, note: str = "") -> None:
        if self._tell is not None:
            self._tell(message)
        self._shown.total += message.get("expected", 0)
        self._shown.found(message.get("found", 0))
        if n := message.get("taken", 0):
            self._shown.update(n, note)
