"""Counting the steps of a sweep, including those that helpers on other devices report."""

from collections.abc import Callable
from typing import Any

from prolu_eval.processes import Helpers, Message, Send
from prolu_eval.progress import Progress


class Steps:
    """Counts the steps that this process and its helpers take.

    Args:
        shown: the progress display.
        send: in a helper, the function that reports its steps to the main process.
        helpers: in the main process, its helpers.
        on_message: a function that receives the helpers' other messages.
    """

    def __init__(
        self,
        shown: Progress,
        *,
        send: Send | None = None,
        helpers: Helpers | None = None,
        on_message: Callable[[Message], Any] = lambda _: None,
    ) -> None:
        self._shown, self._send = shown, send
        self._helpers, self._on_message = helpers, on_message

    def expect(self, n: int) -> None:
        """Add steps that remain to be taken."""
        self._do({"expected": n})

    def found(self, n: int) -> None:
        """Add steps that an earlier, interrupted call took."""
        self._do({"found": n})

    def taken(self, note: str) -> None:
        """Count a step; the note is shown beside the progress."""
        self._do({"taken": 1}, note)
        self.listen()

    def filling(self, what: str, done: int, total: int) -> None:
        """Show how many activations the buffer or the cache has, before the first step is taken."""
        self._do({"filling": [what, done, total]})

    def listen(self) -> None:
        """Process the messages that the helpers have sent meanwhile."""
        for message in self._helpers.messages() if self._helpers is not None else ():
            if message.keys() & {"expected", "found", "taken", "filling"}:
                self.take(message)
            else:
                self._on_message(message)

    def take(self, message: Message) -> None:
        """Count the steps that another process reported."""
        self._do(message)

    def _do(self, message: Message, note: str = "") -> None:
        if self._send is not None:
            self._send(message)
        self._shown.total += message.get("expected", 0)
        self._shown.found(message.get("found", 0))
        if n := message.get("taken", 0):
            self._shown.update(n, note)
        if "filling" in message:
            what, done, total = message["filling"]
            self._shown.tell(f"filling the {what}: {done:,} of {total:,} activations")
